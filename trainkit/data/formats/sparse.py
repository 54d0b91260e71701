"""A file of which only parts are at hand."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping


class SparseFile:
    """Reads like a file; where nothing is at hand, it ends. Hands out views, so that pyarrow copies nothing.

    `parts` are bytes by their offset in the file. What they are views of must not change as long as tables live
    that were read from it.
    """

    closed = False

    def __init__(self, parts: Mapping[int, memoryview], *, size: int) -> None:
        self._starts = sorted(parts)
        self._parts = [parts[start] for start in self._starts]
        self._size = size
        self._position = 0

    @classmethod
    def joined(cls, parts: Iterable[bytes | memoryview]) -> SparseFile:
        """One part after the other."""
        placed: dict[int, memoryview] = {}
        size = 0
        for part in parts:
            placed[size] = memoryview(part)
            size += len(part)
        return cls(placed, size=size)

    def read(self, length: int = -1) -> memoryview:
        place = bisect_right(self._starts, self._position) - 1
        if place < 0:
            return memoryview(b"")
        offset = self._position - self._starts[place]
        end = len(self._parts[place]) if length < 0 else offset + length
        found = self._parts[place][offset:end]
        self._position += len(found)
        return found

    def seek(self, offset: int, whence: int = 0) -> int:
        self._position = max(0, offset + {0: 0, 1: self._position, 2: self._size}[whence])
        return self._position

    def tell(self) -> int:
        return self._position

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        """pyarrow closes what it read; the bytes are not ours to free."""
