"""Fills one input's FIFOs, one after the other, for as long as somebody reads them.

    python -m trainkit.local.feed SPEC

    {"stem": "…/input/data/train", "records": [[["place", path or URL], …], …], "share": [0, 2], "seed": null,
     "gzip": false, "recordio": false}

    <stem>_0 opened by a reader ─▶ <stem>_1 is made ─▶ all records of the share ─▶ end of file ─▶ <stem>_1 …

The next FIFO is there before the end of the last one is seen, so that a reader never looks for it too early. A record
is an object, or the attributes of one line of an augmented manifest. With a seed each epoch has an order of its own,
the same on all hosts, from which their shares are then dealt: a host's share changes, too.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from trainkit.local import objects, recordio


def main() -> None:
    spec = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    for epoch in itertools.count():
        with open(f"{spec['stem']}_{epoch}", "wb", buffering=0) as out:  # noqa: PTH123 (waits for a reader)
            os.mkfifo(f"{spec['stem']}_{epoch + 1}")
            try:
                for data in stream(spec, epoch):
                    _write(out.fileno(), data)
            except BrokenPipeError:
                continue  # it has read enough


def stream(spec: Mapping[str, Any], epoch: int) -> Iterator[bytes]:
    """All bytes of one epoch."""
    records = list(spec["records"])
    if spec["seed"] is not None:
        random.Random(f"{spec['seed']} {epoch}").shuffle(records)
    index, count = spec["share"]
    for record in records[index::count]:
        for part in record:
            content = _content(part, gzip=spec["gzip"])
            yield from [recordio.record(b"".join(content))] if spec["recordio"] else content


def _content(part: Sequence[str], *, gzip: bool) -> Iterable[bytes]:
    kind, value = part
    if kind == "text":
        return [value.encode()]
    pieces = objects.pieces(value if "://" in value else Path(value))
    return _unpacked(pieces) if gzip else pieces


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _unpacked(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """What the gzip members of one object hold, one after the other."""
    inflate = zlib.decompressobj(wbits=31)
    for piece in pieces:
        data = piece
        while data:
            yield inflate.decompress(data)
            data = inflate.unused_data
            if inflate.eof:
                inflate = zlib.decompressobj(wbits=31)


if __name__ == "__main__":
    main()
