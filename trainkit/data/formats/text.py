"""Plain text: each line is a row, empty ones too, in a column `text`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from trainkit.data.formats import lines
from trainkit.data.formats.base import Span, counted, told, within
from trainkit.data.formats.tables import chosen, conformed
from trainkit.data.items import Get, Item

_SCHEMA = pa.schema([pa.field("text", pa.large_string())])


@dataclass(frozen=True, slots=True)
class Text:
    schema: pa.Schema = _SCHEMA
    name: str = "text"
    seeks: bool = True

    @classmethod
    def of(cls, items: Sequence[Item], get: Get) -> Text:
        return cls()

    def learn(self, item: Item, get: Get) -> None:
        """A span says all."""

    def spans(self, item: Item, get: Get) -> Sequence[Span]:
        return list(lines.spans(item, get, begin=lines.start(item, get), quoted=False, blank=lines.Blank.NONE))

    def decode(self, item: Item, span: Span, data: memoryview, columns: Sequence[str] | None) -> pa.Table:
        expected = chosen(self.schema, columns, item)
        octets = np.frombuffer(data, np.uint8)
        ends = lines.row_ends(data, quoted=False)
        newlines = ends - 1
        returns = newlines[(newlines > 0) & (octets[newlines - 1] == ord("\r"))] - 1
        if len(data) and (not len(ends) or ends[-1] < len(data)):
            ends = np.append(ends, len(data))
        kept = np.ones(len(data), np.bool_)
        kept[newlines] = kept[returns] = False
        # Where lines end once those before them have lost their ends.
        gone = np.sort(np.concatenate([newlines, returns]))
        offsets = np.concatenate([[0], ends - np.searchsorted(gone, ends)])
        buffers = [None, pa.py_buffer(offsets), pa.py_buffer(octets[kept])]
        with told(item, "UTF-8", at=within(span), remedy="Write it as UTF-8: iconv -t utf-8"):
            column = pa.Array.from_buffers(pa.large_string(), len(offsets) - 1, buffers)
            table = conformed(pa.table([column], schema=self.schema), expected)
        counted(item, span, table.num_rows)
        return table
