"""`python -m trainkit.checkpoint`: what `trainkit checkpoint` becomes. Five commands, and what they have in common.

ls PLACE…                what lies there: one line for each attempt
verify PLACE             read every byte, and compare it with what was written
show PLACE               the tensors and states of one checkpoint
export PLACE OUT         its tensors as safetensors, or its model and optimizer for torch's DCP
import IN PLACE          a model from there, as a checkpoint to start from
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from trainkit.command import Parser, run, size
from trainkit.errors import CheckpointError, UsageError

if TYPE_CHECKING:
    from trainkit.checkpoint.people.place import Attempt

_PLACE = "a folder, s3://…, or any fsspec URL; or an attempt's own directory there"
_TRUST = """\
a DCP directory keeps its {metadata} as a pickle, and reading one runs whatever its writer put into it. If you trust
those who wrote {where}, say --trust; if not, have them write safetensors"""


def main(argv: Sequence[str] | None = None) -> None:
    """Exits with 0, or with the error's code."""
    run(_parser(), _COMMANDS, argv)


def _parser() -> Parser:
    parser = Parser(prog="trainkit checkpoint", description="Look at checkpoints, and carry models in and out.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    ls = commands.add_parser("ls", help="what lies there, one line for each attempt, the newest first")
    ls.add_argument("places", nargs="+", metavar="PLACE", help=_PLACE)
    ls.add_argument("--json", action="store_true", help="everything as JSON")
    verify = commands.add_parser("verify", help="read every byte; exit code 0 only where all is what was written")
    _add_place(verify)
    verify.add_argument("--all", action="store_true", help="all checkpoints there, and not the newest only")
    show = commands.add_parser("show", help="tensors, states, and sizes")
    _add_place(show)
    show.add_argument("--rank", type=_whole, default=0, metavar="R", help="whose states (default: 0)")
    show.add_argument("--json", action="store_true", help="everything as JSON")
    export = commands.add_parser("export", help="to safetensors, or to a DCP directory with model and optimizer")
    _add_place(export)
    export.add_argument("--to", required=True, choices=("safetensors", "dcp"))
    export.add_argument(
        "out", metavar="OUT", help="a new folder; for safetensors also a file NAME.safetensors, or a URL"
    )
    export.add_argument("--only", metavar="NAME", help="this object's tensors, without its name: --only model")
    export.add_argument("--max-size", type=size, metavar="SIZE",
                        help="of a safetensors file in a folder (default: 5GB)")  # fmt: skip
    bring = commands.add_parser("import", help="a model, as a committed checkpoint to start from")
    bring.add_argument("source", metavar="IN", help="NAME.safetensors, an index of several, or a folder")
    bring.add_argument("--from", required=True, dest="kind", choices=("safetensors", "dcp"))
    bring.add_argument("place", metavar="PLACE", help="a folder, s3://…, or any fsspec URL")
    bring.add_argument("--step", type=_whole, default=0, metavar="N", help="the step it shall count as (default: 0)")
    bring.add_argument("--name", default="model", metavar="NAME", help="as it is given to job.checkpointer: model")
    bring.add_argument("--prefix", metavar="TEXT", help="take the tensors only whose names begin so, without it")
    bring.add_argument("--trust", action="store_true", help="run what the pickle of a DCP directory says")
    return parser


def _add_place(command: argparse.ArgumentParser) -> None:
    command.add_argument("place", metavar="PLACE", help=_PLACE)
    command.add_argument("--step", type=_whole, metavar="N", help="the checkpoint of this step (default: the newest)")


def _ls(given: argparse.Namespace) -> None:
    from trainkit.checkpoint.people import ls, place

    listed = [(where, place.attempts(where)) for where in given.places]
    if given.json:
        print(json.dumps([ls.document(one) for _, there in listed for one in there], indent=2))
    else:
        print("\n\n".join(ls.as_text(where, there) for where, there in listed))


def _verify(given: argparse.Namespace) -> None:
    from trainkit.checkpoint.people import place
    from trainkit.checkpoint.people.verify import verify
    from trainkit.checkpoint.people.words import counted, size, some

    if given.all and given.step is not None:
        raise UsageError("--all is all steps; leave --step out")
    if given.all:
        chosen = [one for one in place.attempts(given.place) if one.state != "unfinished"]
        if not chosen:
            raise CheckpointError(f"{given.place} holds no checkpoint. Compare the name, letter by letter")
    else:
        chosen = [_chosen(given)]
    bad = []
    for one in chosen:
        if one.manifest is None:
            print(f"{one.name}: damaged: {one.problem}")
            bad.append(one)
            continue
        line = _Line(sum(one.found.sizes.get(file.name, 0) for file in one.manifest.files))
        found = verify(one, tell=line.tell)
        line.clear()
        gigabytes = found.bytes / 1e9
        speed = f"{size(found.bytes)} in {found.seconds:.1f} s, {gigabytes / max(found.seconds, 1e-9):.2f} GB/s"
        word = "whole" if found.whole else "damaged" if found.damages else "not all here"
        print(f"{one.name}: {word} ({counted(found.files, 'file')}, {speed})")
        for damage in found.damages:
            print(f"  {damage}")
        if found.elsewhere:
            print(f"  on other hosts' disks, and not looked at: {some(found.elsewhere)}")
        if not found.whole:
            bad.append(one)
        elif one.found.aside:
            print(f"  it was {one.problem}\n  delete SET-ASIDE.txt there if it shall be restored from again")
    if bad:
        sys.stdout.flush()
        raise CheckpointError(
            f"{len(bad)} of {counted(len(chosen), 'checkpoint')} {'is' if len(bad) == 1 else 'are'} not whole. "
            "Restoring passes over what is damaged; `trainkit checkpoint ls` shows the others"
        )


def _show(given: argparse.Namespace) -> None:
    from trainkit.checkpoint.people import show

    one = _chosen(given)
    if given.json:
        print(json.dumps(show.document(one, rank=given.rank), indent=2))
    else:
        print(show.as_text(one, rank=given.rank))


def _export(given: argparse.Namespace) -> None:
    from trainkit.checkpoint.people import safetensors, whole
    from trainkit.checkpoint.people.words import counted, size, some

    if given.to == "dcp" and given.max_size:
        raise UsageError("--max-size is for safetensors: DCP decides itself")
    if given.max_size and given.out.endswith(".safetensors"):
        raise UsageError("--max-size is for a folder of files; name one, and not a file")
    export = whole.of(_chosen(given), only=given.only)
    began = time.monotonic()
    if given.to == "dcp":
        _need_torch()
        from trainkit.checkpoint.people import dcp

        left = dcp.write(export, given.out)
        print(f"{given.out}: {counted(len(export.tensors), 'tensor')} in {time.monotonic() - began:.1f} s, as DCP")
    else:
        written = safetensors.write(export, given.out, most=given.max_size or 5 * 10**9)
        left = () if given.only else tuple(export.images)
        print(
            f"{given.out}: {counted(written.tensors, 'tensor')}, {size(written.bytes)} in "
            f"{counted(written.files, 'file')}, {time.monotonic() - began:.1f} s"
        )
    if left:
        print(f"left out, what is no tensor{' of a model or optimizer' if given.to == 'dcp' else ''}: {some(left, 8)}")


def _import(given: argparse.Namespace) -> None:
    from trainkit.checkpoint.people import importing, safetensors
    from trainkit.checkpoint.people.words import counted, plain, size

    if not given.name.isidentifier() or given.name == "random":
        raise UsageError(f"{given.name!r} is no name for a part of a checkpoint")
    tied: dict[str, str] = {}
    if given.kind == "dcp":
        if not given.trust:
            raise UsageError(_TRUST.format(metadata=".metadata", where=given.source).replace("\n", " "))
        _need_torch()
        from trainkit.checkpoint.people import dcp

        tensors = dcp.read(given.source, prefix=given.prefix)
    else:
        if given.trust:
            raise UsageError("--trust is for DCP: reading safetensors runs nothing")
        tensors, tied = safetensors.given(given.source, prefix=given.prefix or "")
    made = importing.write(
        tensors, tied, given.place, step=given.step, name=given.name, job=f"imported from {plain(given.source)}"
    )
    print(f"{given.place.rstrip('/')}/{made.directory}: {counted(len(tensors), 'tensor')}, {size(made.size)}")
    print(f'It holds {given.name} and nothing else: ckpt.restore(without=["optimizer", …]) names what it lacks')


def _chosen(given: argparse.Namespace) -> Attempt:
    from trainkit.checkpoint.people import place

    one, passed = place.chosen(given.place, step=given.step)
    for why in passed:
        print(f"trainkit checkpoint {given.command}: passed over: {why}", file=sys.stderr)
    return one


def _need_torch() -> None:
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise UsageError(f"DCP is torch's, and torch is not to be had: {error}. Install trainkit[torch]") from None


class _Line:
    """How far it is: one line that changes, on a terminal only. On stderr."""

    def __init__(self, total: int) -> None:
        self._total = max(1, total)
        self._terminal = sys.stderr.isatty()
        self._last = time.monotonic()

    def tell(self, done: int) -> None:
        now = time.monotonic()
        if self._terminal and now - self._last > 0.2:
            self._last = now
            print(f"\r\x1b[K{done / 1e9:.2f} of {self._total / 1e9:.2f} GB", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        if self._terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _whole(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number")
    return int(text)


_COMMANDS: dict[str, Callable[[argparse.Namespace], None]] = {
    "ls": _ls, "verify": _verify, "show": _show, "export": _export, "import": _import,
}  # fmt: skip


if __name__ == "__main__":
    main()
