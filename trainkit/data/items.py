"""What a stream reads from: objects, or files, in an order that every host finds by itself."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple


class Item(NamedTuple):
    """One object or file. `etag` pins its version, where the storage has versions: another one is an error."""

    url: str
    size: int
    etag: str | None = None


Get = Callable[[Item, int, int], "bytes | bytearray | memoryview"]
"""get(item, start, length): these bytes of the item. Raises StorageError, also where fewer are there."""


@dataclass(frozen=True, slots=True)
class Listing:
    """All items of a data set, in order. Alike on all hosts, except where each host has its own share."""

    items: tuple[Item, ...]
    root: str
    """What their URLs have in common, for people and for names: items are told apart by what follows it."""
    own_share: bool = False
    """Whether this host has only its share of the whole (ShardedByS3Key)."""

    def name(self, item: Item) -> str:
        return item.url.removeprefix(self.root)

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that change when an item comes, goes, or has another size or version."""
        facts = [[self.name(item), item.size, item.etag] for item in self.items]
        return hashlib.blake2b(json.dumps(facts).encode(), digest_size=8).hexdigest()
