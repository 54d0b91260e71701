"""Fills one input's FIFOs, one after the other, for as long as somebody reads them.

    python -m trainkit.local.feed SPEC        {"stem": "…/processing/input", "places": [path or URL, …], "gzip": false}

    <stem>_0 opened by a reader ─▶ <stem>_1 is made ─▶ all objects, one after the other ─▶ end of file ─▶ <stem>_1 …

The next FIFO is there before the end of the last one is seen, so that a reader never looks for it too early.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

_PIECE = 8 << 20  # bytes of an object at a time


def main() -> None:
    spec = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    for epoch in itertools.count():
        with open(f"{spec['stem']}_{epoch}", "wb", buffering=0) as out:  # noqa: PTH123 (waits for a reader)
            os.mkfifo(f"{spec['stem']}_{epoch + 1}")
            try:
                for data in _stream(spec["places"], gzip=spec["gzip"]):
                    _write(out.fileno(), data)
            except BrokenPipeError:
                continue  # it has read enough


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _stream(places: Sequence[str], *, gzip: bool) -> Iterator[bytes]:
    for place in places:
        pieces = _remote(place) if "://" in place else _local(place)
        yield from _unpacked(pieces) if gzip else pieces


def _local(place: str) -> Iterator[bytes]:
    with open(place, "rb") as file:  # noqa: PTH123
        while data := file.read(_PIECE):
            yield data


def _remote(url: str) -> Iterator[bytes]:
    from trainkit.storage import files

    entry = files.head(url)
    size = entry.size if entry else 0
    for start in range(0, size, _PIECE):
        yield files.get_range(url, start, min(_PIECE, size - start))


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
