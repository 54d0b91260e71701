"""Parquet: a span is a row group.

The footer says where row groups lie and how many rows they have, so one short read at an item's end is enough to know
it. It is kept, and a row group is decoded from its own bytes, all columns of which are fetched. A row group is one
span however large it is: one of 128 MiB costs 128 MiB for one row, and that much memory in each lane of a shuffle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from trainkit.data.formats.base import Span, counted, told, within, wrong
from trainkit.data.formats.sparse import SparseFile
from trainkit.data.formats.tables import agreed, chosen, conformed, plain
from trainkit.data.items import Get, Item

TAIL = 1 << 16
"""Bytes read first, at the end: the footers of most files are shorter."""
_MAGIC = b"PAR1"


class _Footer(NamedTuple):
    metadata: pq.FileMetaData
    spans: tuple[Span, ...]
    groups: dict[int, int]
    """Which row group starts at which byte."""


@dataclass(slots=True)
class Parquet:
    first: Item
    schema: pa.Schema
    name: str = "Parquet"
    seeks: bool = True
    _footers: dict[Item, _Footer] = field(default_factory=dict)

    @classmethod
    def of(cls, items: Sequence[Item], get: Get) -> Parquet:
        first = items[0]
        footer = _footer(first, get)
        with told(first, "Parquet file"):
            schema = footer.metadata.schema.to_arrow_schema()
        return cls(first, plain(schema, first), _footers={first: footer})

    def learn(self, item: Item, get: Get) -> None:
        if item in self._footers:
            return
        footer = _footer(item, get)
        with told(item, "Parquet file"):
            schema = footer.metadata.schema.to_arrow_schema()
        agreed(plain(schema, item), item, first=self.first, expected=self.schema)
        self._footers[item] = footer

    def spans(self, item: Item, get: Get) -> Sequence[Span]:
        self.learn(item, get)
        return self._footers[item].spans

    def decode(self, item: Item, span: Span, data: memoryview, columns: Sequence[str] | None) -> pa.Table:
        expected = chosen(self.schema, columns, item)
        footer = self._footers[item]
        group = footer.groups.get(span.start)
        if group is None:
            raise wrong(item, "no row group begins here", "List the data again: it has changed", at=within(span))
        source = SparseFile({span.start: data}, size=item.size)
        with told(item, "row group", at=within(span)):
            # One thread: the caller has several, and each decodes another span. Checksums are looked at where a
            # writer has put some.
            file = pq.ParquetFile(
                source, metadata=footer.metadata, pre_buffer=False, page_checksum_verification=True
            )  # fmt: skip
            names = None if columns is None else expected.names
            table = conformed(file.read_row_group(group, columns=names, use_threads=False), expected)
        counted(item, span, table.num_rows)
        return table


def _footer(item: Item, get: Get) -> _Footer:
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
        found = [_row_group(metadata, index) for index in range(metadata.num_row_groups)]
    groups = {}
    for index, span in enumerate(found):
        if span.rows < 0 or span.start < 4 or span.length < 0 or span.start + span.length > item.size - length:
            raise wrong(item, f"row group {index} would lie outside of the file", "Write it again")
        if span.rows:
            groups[span.start] = index
    spans = tuple(span for span in found if span.rows)
    if len(groups) != len(spans):
        raise wrong(item, "two of its row groups begin at the same byte", "Write it again")
    return _Footer(metadata, spans, groups)


def _row_group(metadata: pq.FileMetaData, index: int) -> Span:
    group = metadata.row_group(index)
    chunks = [group.column(column) for column in range(group.num_columns)]
    if any(chunk.file_path for chunk in chunks):
        raise ValueError("its columns lie in other files")
    if not chunks or not group.num_rows:
        return Span(len(_MAGIC), 0, 0)
    starts = [_first_page(chunk) for chunk in chunks]
    end = max(start + chunk.total_compressed_size for start, chunk in zip(starts, chunks, strict=True))
    return Span(min(starts), end - min(starts), group.num_rows)


def _first_page(chunk: pq.ColumnChunkMetaData) -> int:
    data = int(chunk.data_page_offset)
    # Some writers leave a nought where there is no dictionary.
    dictionary = chunk.dictionary_page_offset if chunk.has_dictionary_page else None
    return min(data, dictionary) if dictionary else data
