"""The rows of an augmented manifest, as a format: of each line the object's bytes, and the line's attributes.

An item is an object, and so is a span: one request brings all rows about it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from trainkit.data.formats.base import Span
from trainkit.data.items import Get, Item
from trainkit.data.sources.manifests import Augmented


class AugmentedRows:
    """The format of one augmented manifest's items. The object is the column that the reference is called, binary."""

    name = "augmented manifest"
    seeks = False

    def __init__(self, listing: Augmented) -> None:
        self._listing = listing

    def spans(self, item: Item, get: Get) -> Sequence[Span]:
        return (Span(0, item.size, len(self._listing.lines[item.url])),)

    def learn(self, item: Item, get: Get) -> None:
        """There is nothing about an object to know."""

    @property
    def schema(self) -> pa.Schema:
        attributes = [pa.field(name, pa.type_for_alias(kind)) for name, kind in self._listing.columns.items()]
        return pa.schema([pa.field(self._listing.reference, pa.binary()), *attributes])

    def decode(self, item: Item, span: Span, data: memoryview, columns: Sequence[str] | None) -> pa.Table:
        rows: list[dict[str, Any]] = [json.loads(line) for line in self._listing.lines[item.url]]
        chosen = (self._listing.reference, *self._listing.columns) if columns is None else columns
        return pa.table({name: self._column(name, rows, data) for name in chosen})

    def _column(self, name: str, rows: Sequence[dict[str, Any]], data: memoryview) -> pa.Array:
        if name == self._listing.reference:
            sizes = [len(data) * at for at in range(len(rows) + 1)]
            offsets = pa.py_buffer(memoryview(bytearray(b"".join(size.to_bytes(4, "little") for size in sizes))))
            content = pa.py_buffer(data if len(rows) == 1 else bytes(data) * len(rows))
            return pa.Array.from_buffers(pa.binary(), len(rows), [None, offsets, content])
        kind = self._listing.columns[name]
        return pa.array([_value(row.get(name), kind) for row in rows], pa.type_for_alias(kind))


def _value(value: object, kind: str) -> object:
    """As the column has it: text as it is, and JSON for what else is in a column of text."""
    return value if value is None or isinstance(value, str) or kind != "string" else json.dumps(value)
