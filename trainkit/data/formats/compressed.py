"""Items that are compressed as a whole, with gzip or zstd: nothing in them can be had without all that is before it.

So an item is one span, and its rows are counted by decompressing it. It stands in memory whole, twice while it is
decoded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pyarrow as pa

from trainkit.data.formats.base import Format, NoRows, Span, counted, told
from trainkit.data.items import Get, Item


@dataclass(frozen=True, slots=True)
class Compressed:
    inner: Format
    codec: str
    seeks: bool = False

    @classmethod
    def of(
        cls, items: Sequence[Item], get: Get, *, codec: str, inner: Callable[[Sequence[Item], Get], Format]
    ) -> Compressed:
        for item in items:
            whole, read = _unpacked(item, memoryview(get(item, 0, item.size)), codec)
            try:
                return cls(inner([whole], read), codec)
            except NoRows:
                continue
        raise NoRows.of(items[0])

    @property
    def name(self) -> str:
        return f"{self.inner.name} in {self.codec}"

    @property
    def schema(self) -> pa.Schema:
        return self.inner.schema

    def learn(self, item: Item, get: Get) -> None:
        """What there is to know is in the bytes."""

    def spans(self, item: Item, get: Get) -> Sequence[Span]:
        whole, read = _unpacked(item, memoryview(get(item, 0, item.size)), self.codec)
        rows = sum(span.rows for span in self.inner.spans(whole, read))
        return [Span(0, item.size, rows)] if rows else []

    def decode(self, item: Item, span: Span, data: memoryview, columns: Sequence[str] | None) -> pa.Table:
        whole, read = _unpacked(item, data, self.codec)
        inner = self.inner.spans(whole, read)
        counted(item, span, sum(part.rows for part in inner))
        return pa.concat_tables(
            [
                self.inner.decode(whole, part, memoryview(read(whole, part.start, part.length)), columns)
                for part in inner
            ]
        )


def _unpacked(item: Item, data: memoryview, codec: str) -> tuple[Item, Get]:
    """The item as it was before it was compressed, and how to read that."""
    with told(item, codec, remedy="Write it again: it may be cut off"):
        stream = pa.CompressedInputStream(pa.BufferReader(pa.py_buffer(data)), codec)
        raw = memoryview(stream.read())
    return Item(item.url, len(raw), item.etag), lambda _, start, length: raw[start : start + length]
