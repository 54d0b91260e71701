"""Files of records, each with its length before it: RecordIO, as MXNet and SageMaker write it, and TFRecord.

A row is a record, whole and as it is, in a column `data`. There is no index: heads are read one after the other, which
costs most of the item, once. A span is a run of whole records. Of TFRecord's checksums that of the length is looked
at, which guards the framing; that of the data is not, since Python has no CRC-32C that would keep up.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pyarrow as pa

from trainkit.data.formats import runs
from trainkit.data.formats.base import Span, counted, told, within
from trainkit.data.formats.tables import chosen
from trainkit.data.items import Get, Item

MAGIC = struct.pack("<I", 0xCED7230A)
_SCHEMA = pa.schema([pa.field("data", pa.large_binary())])

Read = Callable[[int, int], memoryview]


class _Record(NamedTuple):
    begin: int
    pieces: tuple[tuple[int, int], ...]
    """Where its bytes lie: start and length. RecordIO splits a record wherever it holds the magic number."""
    end: int


class _Framing(NamedTuple):
    name: str
    records: Callable[[Read, int], Iterator[_Record]]
    """(read, end): raises ValueError where the bytes are no records."""
    joint: bytes
    """What stood between a record's pieces."""


@dataclass(frozen=True, slots=True)
class Records:
    framing: _Framing
    schema: pa.Schema = _SCHEMA
    seeks: bool = True

    @property
    def name(self) -> str:
        return self.framing.name

    def learn(self, item: Item, get: Get) -> None:
        """A span says all."""

    def spans(self, item: Item, get: Get) -> Sequence[Span]:
        begins, end = [], 0
        with told(item, self.name, remedy="Write it again: it may be cut off"):
            for record in self.framing.records(runs.Window(item, get), item.size):
                begins.append(record.begin)
                end = record.end
        return runs.spans(begins, end)

    def decode(self, item: Item, span: Span, data: memoryview, columns: Sequence[str] | None) -> pa.Table:
        expected = chosen(self.schema, columns, item)
        with told(item, self.name, at=within(span)):
            found = list(self.framing.records(lambda start, length: data[start : start + length], len(data)))
            rows = [_whole(data, record, self.framing.joint) for record in found]
            table = pa.Table.from_arrays([pa.array(rows, pa.large_binary())], schema=expected)
        counted(item, span, table.num_rows)
        return table


def _whole(data: memoryview, record: _Record, joint: bytes) -> bytes | memoryview:
    if len(record.pieces) == 1:
        ((start, length),) = record.pieces
        return data[start : start + length]
    return joint.join(data[start : start + length] for start, length in record.pieces)


def _recordio(read: Read, end: int) -> Iterator[_Record]:
    position, begin = 0, 0
    pieces: list[tuple[int, int]] = []
    while position < end:
        head = read(position, 8)
        if len(head) < 8 or bytes(head[:4]) != MAGIC:
            raise ValueError(f"no record begins at its byte {position}")
        word = int.from_bytes(head[4:], "little")
        part, length = word >> 29, word & 0x1FFFFFFF  # 0: whole, 1: the first, 2: one between, 3: the last
        if part > 3 or (part in (0, 1)) == bool(pieces) or position + 8 + length > end:
            raise ValueError(f"the record at its byte {position} does not end as it should")
        begin = begin if pieces else position
        pieces.append((position + 8, length))
        position = min(end, position + 8 + -(-length // 4) * 4)
        if part in (0, 3):
            yield _Record(begin, tuple(pieces), position)
            pieces = []
    if pieces:
        raise ValueError("it ends within a record")


def _tfrecord(read: Read, end: int) -> Iterator[_Record]:
    position = 0
    while position < end:
        head = bytes(read(position, 12))
        if len(head) < 12 or not begins_tfrecord(head):
            raise ValueError(f"no record begins at its byte {position}")
        length = int.from_bytes(head[:8], "little")
        if position + 16 + length > end:
            raise ValueError("it ends within a record")
        yield _Record(position, ((position + 12, length),), position + 16 + length)
        position += 16 + length


def begins_tfrecord(head: bytes) -> bool:
    """Whether the first 12 bytes are a length and its checksum."""
    return masked(crc32c(head[:8])) == int.from_bytes(head[8:12], "little")


def masked(crc: int) -> int:
    """As TFRecord stores a checksum: so that one of data that holds checksums is still worth something."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def crc32c(data: bytes) -> int:
    """Byte by byte in Python: for a few bytes."""
    crc = 0xFFFFFFFF
    for octet in data:
        crc = _CRC[(crc ^ octet) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def _castagnoli(octet: int) -> int:
    for _ in range(8):
        octet = octet >> 1 ^ (0x82F63B78 if octet & 1 else 0)
    return octet


_CRC = tuple(map(_castagnoli, range(256)))

RECORDIO = _Framing("RecordIO", _recordio, MAGIC)
TFRECORD = _Framing("TFRecord", _tfrecord, b"")
