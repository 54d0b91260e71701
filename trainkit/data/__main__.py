"""`python -m trainkit.data`: what `trainkit data` becomes. Two commands, and what both need.

show URL             what lies there, and what a shuffle would cost
pack SOURCE DEST     the same rows in blocks that are good to fetch and to mix
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from trainkit.command import Parser, run, size
from trainkit.errors import UsageError

if TYPE_CHECKING:
    from trainkit.data.pack import Progress

_LEAST = 4 << 10
_MOST = 1 << 30


def main(argv: Sequence[str] | None = None) -> None:
    """Exits with 0, or with the error's code."""
    run(_parser(), {"show": _show, "pack": _pack}, argv)


def _parser() -> Parser:
    parser = Parser(prog="trainkit data", description="Look at data where it lies, and write it anew for streams.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    show = commands.add_parser("show", help="format, schema, blocks, first rows, and what a shuffle would cost")
    show.add_argument("where", metavar="URL", help="a path, s3://…, or any fsspec URL")
    show.add_argument("--rows", type=_rows, default=5, metavar="N", help="first rows to read (default: 5; 0: none)")
    show.add_argument("--json", action="store_true", help="everything as JSON")
    pack = commands.add_parser("pack", help="write the same rows in blocks of about 1 MiB")
    pack.add_argument("where", metavar="SOURCE", help="whatever `show` can read")
    pack.add_argument("dest", metavar="DEST", help="an empty or new folder: a path, s3://…, or any fsspec URL")
    pack.add_argument("--format", choices=("arrow", "parquet"), default="arrow",
                      help="arrow: cheapest to read; parquet: smallest (zstd). Default: arrow")  # fmt: skip
    pack.add_argument("--block", type=size, default=1 << 20, metavar="SIZE",
                      help="of a record batch, or of a row group as it is stored (default: 1MiB)")  # fmt: skip
    pack.add_argument("--shard", type=size, default=256 << 20, metavar="SIZE", help="of a file (default: 256MiB)")
    pack.add_argument("--columns", metavar="A,B", help="these only, in the order they have (default: all)")
    return parser


def _show(given: argparse.Namespace) -> None:
    from trainkit.data import show  # with it come numpy and pyarrow, which --help can do without

    found = show.look(given.where, rows=given.rows)
    if given.json:
        print(json.dumps(dataclasses.asdict(found), indent=2))
    else:
        print(show.as_text(found, width=shutil.get_terminal_size((120, 24)).columns))


def _pack(given: argparse.Namespace) -> None:
    if not _LEAST <= given.block <= min(given.shard, _MOST):
        raise UsageError("--block must be 4KiB to 1GiB, and no more than --shard")
    from trainkit.data.pack import Packing, pack
    from trainkit.data.show import size

    columns = tuple(name.strip() for name in given.columns.split(",")) if given.columns is not None else None
    line = _Line()
    done = pack(given.where, given.dest, Packing(given.format, given.block, given.shard, columns), line.tell)
    line.clear()
    print(f"{done.rows:,} rows, {size(done.read)} read, {size(done.written)} written in {line.seconds:.1f} s")
    print(f"{given.dest}: {done.blocks:,} blocks in {done.shards:,} {given.format} shards")


class _Line:
    """How far it is: one line that changes on a terminal, a new one every ten seconds elsewhere. On stderr."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._terminal = sys.stderr.isatty()
        self._last = self._began

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def tell(self, progress: Progress) -> None:
        now = time.monotonic()
        if now - self._last < (0.2 if self._terminal else 10):
            return
        self._last = now
        from trainkit.data.show import size

        left = self.seconds * (progress.rows - progress.rows_done) / max(1, progress.rows_done)
        text = (
            f"row {progress.rows_done:,}/{progress.rows:,} · {size(progress.read / self.seconds)}/s read · "
            f"{size(progress.written)} in {progress.shards + 1} shards · {left:.0f}s left"
        )
        print(f"\r\x1b[K{text}" if self._terminal else text, end="" if self._terminal else "\n",
              file=sys.stderr, flush=True)  # fmt: skip

    def clear(self) -> None:
        if self._terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _rows(text: str) -> int:
    if not text.isdecimal() or int(text) > 1000:
        raise argparse.ArgumentTypeError(f"{text!r} is not 0 to 1000")
    return int(text)


if __name__ == "__main__":
    main()
