"""Where row groups lie, from the bytes of a Parquet footer (Thrift's compact protocol).

pyarrow knows it, too, and aborts the process when it is asked about a column whose metadata is damaged or encrypted:
its `RowGroupMetaData.column` lets C++ exceptions through. So this is read here. Every error is a ValueError or an
IndexError.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

_TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = 1, 2, 3, 7, 8, 9, 10, 11, 12
_INTEGERS = (4, 5, 6)
_DEEPEST = 32


class RowGroup(NamedTuple):
    start: int
    end: int
    rows: int


def row_groups(footer: bytes) -> list[RowGroup]:
    """Of each row group the bytes of all its columns, and its rows."""
    reader = _Reader(footer)
    for number, kind in reader.fields():
        if number == 4 and kind == _LIST:
            return [_row_group(reader) for _ in reader.items(_STRUCT)]
        reader.skip(kind)
    return []


def _row_group(reader: _Reader) -> RowGroup:
    start, end, rows = -1, -1, 0
    for number, kind in reader.fields():
        if number == 1 and kind == _LIST:
            extents = [_chunk(reader) for _ in reader.items(_STRUCT)]
            if extents:
                start, end = min(begin for begin, _ in extents), max(end for _, end in extents)
        elif number == 3 and kind in _INTEGERS:
            rows = reader.integer()
        else:
            reader.skip(kind)
    return RowGroup(start, end, rows)


def _chunk(reader: _Reader) -> tuple[int, int]:
    """The bytes of one column: from its first page on."""
    found: dict[int, int] = {}
    for number, kind in reader.fields():
        if number == 1:
            raise ValueError("its columns lie in other files")
        if number == 8:
            raise ValueError("a column is encrypted")
        if number != 3 or kind != _STRUCT:
            reader.skip(kind)
            continue
        for inner, kind_of_inner in reader.fields():
            if inner in (7, 9, 11) and kind_of_inner in _INTEGERS:
                found[inner] = reader.integer()
            else:
                reader.skip(kind_of_inner)
    size, data, dictionary = found[7], found[9], found.get(11, 0)
    start = min(data, dictionary) if dictionary > 0 else data  # some writers put a nought where there is none
    if size < 0:
        raise ValueError("a column of negative size")
    return start, start + size


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def fields(self) -> Iterator[tuple[int, int]]:
        """(number, kind) of each field of a struct; the caller reads or skips its value before the next."""
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self.integer()
            yield number, head & 0xF

    def items(self, kind: int) -> range:
        count, found = self._list()
        if found != kind:
            raise ValueError("a list of something else")
        return range(count)

    def integer(self) -> int:
        value = self._varint()
        return value >> 1 ^ -(value & 1)

    def skip(self, kind: int, depth: int = 0) -> None:
        if depth > _DEEPEST:
            raise ValueError("it is nested too deeply")
        if kind in _INTEGERS:
            while self._byte() > 0x7F:
                pass
        elif kind == _BINARY:
            self._pass(self._varint())
        elif kind == _STRUCT:
            for _, inner in self.fields():
                self.skip(inner, depth + 1)
        elif kind in (_LIST, _SET):
            count, inner = self._list()
            for _ in range(count):
                self._skip_item(inner, depth + 1)
        elif kind == _MAP:
            if count := self._varint():
                kinds = self._byte()
                for _ in range(count):
                    self._skip_item(kinds >> 4, depth + 1)
                    self._skip_item(kinds & 0xF, depth + 1)
        elif kind in (_BYTE, _DOUBLE):
            self._pass(1 if kind == _BYTE else 8)
        elif kind not in (_TRUE, _FALSE):
            raise ValueError("a value of an unknown kind")

    def _skip_item(self, kind: int, depth: int) -> None:
        """As a field a truth value is in its head; in a list it is a byte."""
        self.skip(_BYTE if kind in (_TRUE, _FALSE) else kind, depth)

    def _list(self) -> tuple[int, int]:
        head = self._byte()
        return (self._varint() if head >> 4 == 0xF else head >> 4), head & 0xF

    def _pass(self, length: int) -> None:
        self._position += length
        if self._position > len(self._data):
            raise ValueError("it ends within a value")

    def _byte(self) -> int:
        value = self._data[self._position]
        self._position += 1
        return value

    def _varint(self) -> int:
        data, position = self._data, self._position
        value = shift = 0
        while True:
            octet = data[position]
            position += 1
            value |= (octet & 0x7F) << shift
            if octet < 0x80:
                self._position = position
                return value
            shift += 7
            if shift > 63:
                raise ValueError("a number that is too long")
