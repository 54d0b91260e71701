"""Parquet: a span is a row group.

The footer says where row groups lie and how many rows they have, so one short read at an item's end is enough to know
it. It is kept, and a row group is decoded from its own bytes, all columns of which are fetched. A row group is one
span however large it is: one of 128 MiB costs 128 MiB for one row, and that much memory in each lane of a shuffle.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from trainkit.data.formats import thrift
from trainkit.data.formats.base import Span, counted, told, within, wrong
from trainkit.data.formats.sparse import SparseFile
from trainkit.data.formats.tables import agreed, chosen, conformed, plain
from trainkit.data.items import Get, Item

TAIL = 1 << 16
"""Bytes read first, at the end: the footers of most files are shorter."""
PARSED = 1 << 17
"""Columns of row groups whose footers are kept parsed: 64 MiB of them."""
_MAGIC = b"PAR1"


class _Footer(NamedTuple):
    metadata: pq.FileMetaData
    starts: NDArray[np.int64]
    """Of each row group, its first byte."""
    spans: tuple[Span, ...]


class _Footers:
    """What is remembered of items: footers, as they were parsed as long as they are few, else packed.

    Parsed they take half a kilobyte for each column of each row group; packed a tenth of that.
    """

    def __init__(self) -> None:
        self._locks: dict[int, Lock] = {}  # by process: a fork copies a held one, and nobody is there to release it
        self._packed: dict[Item, tuple[bytes, int, NDArray[np.int64]]] = {}
        self._parsed: OrderedDict[Item, pq.FileMetaData] = OrderedDict()
        self._chunks = 0

    @property
    def _lock(self) -> Lock:
        return self._locks.setdefault(os.getpid(), Lock())

    def __contains__(self, item: Item) -> bool:
        return item in self._packed

    def put(self, item: Item, footer: _Footer, raw: memoryview) -> None:
        packed = pa.compress(pa.py_buffer(raw), "zstd", asbytes=True)
        with self._lock:
            self._packed[item] = packed, len(raw), footer.starts
        self._keep(item, footer.metadata)

    def get(self, item: Item) -> tuple[pq.FileMetaData, NDArray[np.int64]]:
        with self._lock:
            packed, size, starts = self._packed[item]
            metadata = self._parsed.get(item)
            if metadata is not None:
                self._parsed.move_to_end(item)
                return metadata, starts
        metadata = pq.read_metadata(pa.BufferReader(pa.decompress(packed, size, "zstd")))
        self._keep(item, metadata)
        return metadata, starts

    def _keep(self, item: Item, metadata: pq.FileMetaData) -> None:
        with self._lock:
            if item in self._parsed:
                return
            self._parsed[item] = metadata
            self._chunks += _chunks(metadata)
            while self._chunks > PARSED and len(self._parsed) > 1:
                self._chunks -= _chunks(self._parsed.popitem(last=False)[1])


@dataclass(slots=True)
class Parquet:
    first: Item
    schema: pa.Schema
    name: str = "Parquet"
    seeks: bool = True
    _footers: _Footers = field(default_factory=_Footers)
    _fresh: dict[Item, tuple[Span, ...]] = field(default_factory=dict)
    """Spans that were met on the way, until someone asks for them."""

    @classmethod
    def of(cls, items: Sequence[Item], get: Get) -> Parquet:
        footer, raw = _footer(items[0], get)
        made = cls(items[0], _schema(items[0], footer))
        made._footers.put(items[0], footer, raw)
        made._fresh[items[0]] = footer.spans
        return made

    def learn(self, item: Item, get: Get) -> None:
        if item not in self._footers:
            self._learned(item, get)

    def spans(self, item: Item, get: Get) -> Sequence[Span]:
        fresh = self._fresh.pop(item, None)
        return self._learned(item, get) if fresh is None else fresh

    def _learned(self, item: Item, get: Get) -> tuple[Span, ...]:
        footer, raw = _footer(item, get)
        agreed(_schema(item, footer), item, first=self.first, expected=self.schema)
        self._footers.put(item, footer, raw)
        return footer.spans

    def decode(self, item: Item, span: Span, data: memoryview, columns: Sequence[str] | None) -> pa.Table:
        expected = chosen(self.schema, columns, item)
        metadata, starts = self._footers.get(item)
        (groups,) = np.nonzero(starts == span.start)
        if len(groups) != 1:
            raise wrong(item, "no row group begins here", "List the data again: it has changed", at=within(span))
        source = SparseFile({span.start: data}, size=item.size)
        with told(item, "row group", at=within(span)):
            # One thread: the caller has several, and each decodes another span. Checksums are looked at where a
            # writer has put some.
            file = pq.ParquetFile(source, metadata=metadata, pre_buffer=False, page_checksum_verification=True)
            names = None if columns is None else expected.names
            table = conformed(file.read_row_group(int(groups[0]), columns=names, use_threads=False), expected)
        counted(item, span, table.num_rows)
        return table


def _schema(item: Item, footer: _Footer) -> pa.Schema:
    with told(item, "Parquet file"):
        schema = footer.metadata.schema.to_arrow_schema()
    return plain(schema, item)


def _chunks(metadata: pq.FileMetaData) -> int:
    return int(metadata.num_row_groups * metadata.num_columns)


def _footer(item: Item, get: Get) -> tuple[_Footer, memoryview]:
    """The footer, and its bytes."""
    start = max(0, item.size - TAIL)
    tail = memoryview(get(item, start, item.size - start))
    magic = bytes(tail[-4:])
    if magic == b"PARE":
        raise wrong(item, "its footer is encrypted", "Write it without encryption, and let S3 encrypt it (SSE-KMS)")
    if magic != _MAGIC or item.size < 12:
        raise wrong(item, "does not end as Parquet files do", "Write it again, or take it out: it may be cut off")
    length = int.from_bytes(tail[-8:-4], "little") + 8
    if length + 4 > item.size:
        raise wrong(item, f"its footer would be {length - 8} bytes long, more than there are", "Write it again")
    if length > len(tail):
        missing = memoryview(get(item, item.size - length, length - len(tail)))
        tail = memoryview(b"".join((missing, tail)))
    with told(item, "Parquet file"):
        metadata = pq.read_metadata(pa.BufferReader(pa.py_buffer(tail[-length:])))
        groups = thrift.row_groups(bytes(tail[-length:-8]))
        found = [Span(group.start, group.end - group.start, group.rows) for group in groups]
    for index, span in enumerate(found):
        outside = span.start < len(_MAGIC) or span.start + span.length > item.size - length
        if span.rows < 0 or (span.rows and outside):
            raise wrong(item, f"row group {index} would lie outside of the file", "Write it again")
    spans = tuple(span for span in found if span.rows)
    if len({span.start for span in spans}) != len(spans):
        raise wrong(item, "two of its row groups begin at the same byte", "Write it again")
    # Row groups without rows begin nowhere: no span asks for them.
    starts = np.array([span.start if span.rows else -1 for span in found], dtype=np.int64)
    return _Footer(metadata, starts, spans), tail[-length:]
