"""What is asked of every format."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from trainkit.data.items import Get, Item

if TYPE_CHECKING:
    import pyarrow as pa

BLOCK = 1 << 20
"""Bytes that a span should have where the format lets us choose: what one request fetches, and one rank mixes."""


class Span(NamedTuple):
    """Bytes of an item that are fetched together, and the rows in them. Rows of an item lie in the spans' order."""

    start: int
    length: int
    rows: int


class Format(Protocol):
    """One format. Stateless but for what it remembers of an item (a footer, a schema), which `spans` reads."""

    name: str
    seeks: bool
    """Whether an item has more than one span: else one row costs the whole item."""

    def spans(self, item: Item, get: Get) -> Sequence[Span]:
        """Where the item's rows lie. Reads as little of it as it can. Raises DataError for what is no such file."""

    def schema(self, item: Item, get: Get) -> pa.Schema:
        """The columns, from the item's head or footer."""

    def decode(self, item: Item, span: Span, data: memoryview, columns: Sequence[str] | None) -> pa.Table:
        """The span's rows: exactly `span.rows` of them, only `columns` where given, in the format's own order."""
