"""What a data set holds, block by block: found once, when a stream begins."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from trainkit.data.formats.base import Format, Span
from trainkit.data.items import Get, Item, Listing
from trainkit.data.order import Integers

if TYPE_CHECKING:
    import pyarrow as pa

_AT_ONCE = 32  # items that are looked into at a time: most of it is waiting for answers


@dataclass(frozen=True, slots=True)
class Index:
    """Block b: `lengths[b]` bytes from `starts[b]` of item `owners[b]`, with `rows[b]` rows."""

    listing: Listing
    format: Format
    owners: Integers
    starts: Integers
    lengths: Integers
    rows: Integers

    @classmethod
    def of(
        cls, listing: Listing, format: Format, get: Get, *, spans: Callable[[Item], Sequence[Span]] | None = None
    ) -> Index:
        """Look into every item, many at a time, or ask `spans`. Raises StorageError, DataError."""
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="trainkit.index") as pool:
            found = list(pool.map(spans or (lambda item: format.spans(item, get)), listing.items))
        table = np.array([span for spans in found for span in spans], dtype=np.int64).reshape(-1, 3)
        owners = np.repeat(np.arange(len(found)), [len(spans) for spans in found])
        some = table[:, 2] > 0
        starts, lengths, rows = (np.ascontiguousarray(table[some, column]) for column in range(3))
        return cls(listing, format, owners[some], starts, lengths, rows)

    @property
    def schema(self) -> pa.Schema:
        return self.format.schema

    @property
    def total(self) -> int:
        return int(self.rows.sum())

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that change when a position would mean another row."""
        digest = hashlib.blake2b(self.listing.fingerprint.encode(), digest_size=8)
        digest.update(self.format.name.encode())
        digest.update(self.rows.tobytes())
        return digest.hexdigest()

    def item(self, block: int) -> Item:
        return self.listing.items[int(self.owners[block])]

    def span(self, block: int) -> Span:
        return Span(int(self.starts[block]), int(self.lengths[block]), int(self.rows[block]))

    def decode(self, block: int, data: memoryview, columns: Sequence[str] | None) -> pa.Table:
        return self.format.decode(self.item(block), self.span(block), data, columns)
