"""Reads the few fields of Arrow's own metadata that pyarrow does not show: where record batches lie.

A table is a position; its fields have numbers, given by Arrow's schemas (format/File.fbs, Message.fbs). Every read is
within the buffer, or raises ValueError.
"""

from __future__ import annotations

import struct
from typing import NamedTuple


class Table(NamedTuple):
    """A flatbuffer table at a position of a buffer."""

    data: memoryview
    position: int

    @classmethod
    def root(cls, data: memoryview) -> Table:
        return cls(data, _read("<I", data, 0))

    def target(self, field: int) -> int | None:
        """Where that begins which a field points to: a table, or a list."""
        place = self._place(field)
        return None if place is None else _follow(self.data, place)

    def number(self, field: int, kind: str, default: int = 0) -> int:
        """A scalar; `kind` is struct's letter for it."""
        place = self._place(field)
        return default if place is None else _read(f"<{kind}", self.data, place)

    def table(self, field: int) -> Table | None:
        place = self._place(field)
        return None if place is None else Table(self.data, _follow(self.data, place))

    def tables(self, field: int) -> list[Table]:
        start, count = self._vector(field)
        if count * 4 > len(self.data) - start:
            raise ValueError("a list ends outside of its buffer")
        return [Table(self.data, _follow(self.data, start + 4 * index)) for index in range(count)]

    def structs(self, field: int, size: int) -> memoryview:
        """The bytes of a list of structs."""
        return self._bytes(field, size)

    def text(self, field: int) -> str:
        return bytes(self._bytes(field, 1)).decode()

    def _bytes(self, field: int, size: int) -> memoryview:
        start, count = self._vector(field)
        if count * size > len(self.data) - start:
            raise ValueError("a list ends outside of its buffer")
        return self.data[start : start + count * size]

    def _vector(self, field: int) -> tuple[int, int]:
        place = self._place(field)
        if place is None:
            return 0, 0
        start = _follow(self.data, place)
        return start + 4, _read("<I", self.data, start)

    def _place(self, field: int) -> int | None:
        names = self.position - _read("<i", self.data, self.position)
        entry = 4 + 2 * field
        if entry + 2 > _read("<H", self.data, names):
            return None
        offset = _read("<H", self.data, names + entry)
        return self.position + offset if offset else None


def _follow(data: memoryview, place: int) -> int:
    return place + _read("<I", data, place)


def _read(kind: str, data: memoryview, place: int) -> int:
    if not 0 <= place <= len(data) - struct.calcsize(kind):
        raise ValueError("a position lies outside of its buffer")
    value: int = struct.unpack_from(kind, data, place)[0]
    return value
