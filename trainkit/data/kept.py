"""Where rows lie in files that say so nowhere: found by reading all of them once, and kept in the cache."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np

from trainkit.data.fetch.cache import Cache, entry
from trainkit.data.formats.base import BLOCK, Format, Span
from trainkit.data.items import Get, Item

_VERSIONS = {"JSON lines": 1, "CSV": 1, "text": 1, "WebDataset": 1, "RecordIO": 1, "TFRecord": 1}
"""Of the formats that have no index. A number goes up when the same bytes are divided otherwise."""


class KeptSpans:
    """Spans of items, from a cache where they are there."""

    def __init__(self, cache: Cache, format: Format, *, scan: Get, get: Get) -> None:
        """`scan` reads whole items, `get` what is worth keeping itself."""
        self._cache = cache
        self._format = format
        self._get = get
        # A compressed item is one block, which is read whole again; of the others, windows would fill the cache.
        self._scan = scan if format.seeks else get
        name = format.name
        version = _VERSIONS.get(name.partition(" in ")[0])
        self._part = f"{name.replace(' ', '_')}.{version}.{BLOCK}" if version else None

    def spans(self, item: Item) -> Sequence[Span]:
        """As `Format.spans`. What is kept is trusted as little as what is read."""
        if self._part is None or item.etag is None:
            return self._format.spans(item, self._get)
        self._format.learn(item, self._get)  # what it reads (a header) is kept by this
        name = entry(item, self._part)
        kept = self._cache.read(name)
        known = None if kept is None else _loaded(kept, item)
        if known is not None:
            return known
        spans = self._format.spans(item, self._scan)
        self._cache.write(name, _stored(spans))
        return spans


def _stored(spans: Sequence[Span]) -> memoryview:
    out = io.BytesIO()
    np.save(out, np.array(spans, dtype="<i8").reshape(-1, 3), allow_pickle=False)
    return out.getbuffer()


def _loaded(data: memoryview, item: Item) -> list[Span] | None:
    """None for what cannot be the item's."""
    try:
        table = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    except (ValueError, OSError, EOFError):
        return None
    if table.dtype != np.dtype("<i8") or table.ndim != 2 or table.shape[1] != 3:
        return None
    starts, lengths, rows = table.T
    ends = starts + lengths
    apart = bool((ends[:-1] <= starts[1:]).all())
    if not apart or (table < 0).any() or (rows < 1).any() or (ends > item.size).any():
        return None
    return [Span(*row) for row in table.tolist()]
