"""Any files: each is a row, with its path, its bytes, and the name of the folder it lies in as its label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from trainkit.data.formats.base import Span, counted, wrong
from trainkit.data.formats.tables import chosen
from trainkit.data.items import Get, Item, Listing

_SCHEMA = pa.schema([("path", pa.string()), ("data", pa.large_binary()), ("label", pa.string())])


@dataclass(frozen=True, slots=True)
class Files:
    listing: Listing
    schema: pa.Schema = _SCHEMA
    name: str = "files"
    seeks: bool = True

    def learn(self, item: Item, get: Get) -> None:
        """A listing says all."""

    def spans(self, item: Item, get: Get) -> Sequence[Span]:
        return [Span(0, item.size, 1)]

    def decode(self, item: Item, span: Span, data: memoryview, columns: Sequence[str] | None) -> pa.Table:
        expected = chosen(self.schema, columns, item)
        if len(data) != item.size:
            raise wrong(item, f"{len(data)} bytes came of {item.size}", "List the data again: it has changed")
        counted(item, span, 1)
        path = self.listing.name(item).lstrip("/")
        ends = np.array([0, len(data)], np.int64)
        # Not pa.array([data]): it would copy what may be most of the memory there is.
        whole = pa.Array.from_buffers(pa.large_binary(), 1, [None, pa.py_buffer(ends), pa.py_buffer(data)])
        folder = path.rpartition("/")[0].rpartition("/")[2]
        table = pa.table([[path], whole, [folder or None]], schema=self.schema)
        return table.select(expected.names)
