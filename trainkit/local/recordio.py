"""RecordIO, as the service wraps objects for Pipe mode when a channel asks for it.

A record: the magic number, its length, its bytes, filled up to a multiple of four. Where the bytes hold the magic
number at such a multiple themselves, the record is split there, and the number left out: who reads puts it back.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

_MAGIC = struct.pack("<I", 0xCED7230A)
_LONGEST = (1 << 29) - 1
_WHOLE, _FIRST, _BETWEEN, _LAST = range(4)


def record(data: bytes) -> bytes:
    """One record that holds `data`. Raises ValueError for one too long."""
    if len(data) > _LONGEST:
        raise ValueError(f"{len(data)} bytes are too many for a record of RecordIO, which holds {_LONGEST} at most")
    parts = list(_parts(data))
    return b"".join(_framed(_flag(index, len(parts)), part) for index, part in enumerate(parts))


def _parts(data: bytes) -> Iterator[bytes]:
    begin = found = 0
    while (found := data.find(_MAGIC, found)) >= 0:
        if found % 4:
            found += 1
            continue
        yield data[begin:found]
        begin = found = found + 4
    yield data[begin:]


def _flag(index: int, count: int) -> int:
    if count == 1:
        return _WHOLE
    return _FIRST if index == 0 else _LAST if index == count - 1 else _BETWEEN


def _framed(flag: int, part: bytes) -> bytes:
    return _MAGIC + struct.pack("<I", flag << 29 | len(part)) + part + bytes(-len(part) % 4)
