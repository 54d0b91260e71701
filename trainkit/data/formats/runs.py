"""Rows that lie one behind the other, taken together until they make a block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from trainkit.data.formats.base import BLOCK, Span
from trainkit.data.items import Get, Item

Positions = NDArray[np.int64]

_WINDOW = 8 * BLOCK
_LOOK = 1 << 16


def cuts(ends: Positions, *, begin: int = 0) -> Iterator[int]:
    """After how many rows to cut, so that what lies between is BLOCK at most, or one row. `ends` of rows, ascending."""
    done = 0
    while done < len(ends):
        done = max(done + 1, int(np.searchsorted(ends, begin + BLOCK, side="right")))
        begin = int(ends[done - 1])
        yield done


def spans(begins: Sequence[int], end: int) -> list[Span]:
    """Rows that begin there, each up to the next, the last up to `end`."""
    if not begins:
        return []
    ends = np.array([*begins[1:], end], dtype=np.int64)
    found, before = [], 0
    for cut in cuts(ends, begin=begins[0]):
        found.append(Span(begins[before], int(ends[cut - 1]) - begins[before], cut - before))
        before = cut
    return found


class Window:
    """Reads an item in large pieces where it is read on and on, and in small ones where much of it is passed over."""

    def __init__(self, item: Item, get: Get) -> None:
        self._item, self._get = item, get
        self._start = 0
        self._data = memoryview(b"")

    def __call__(self, start: int, length: int) -> memoryview:
        """These bytes, fewer where the item ends before."""
        end = min(start + length, self._item.size)
        held = self._start + len(self._data)
        if start < self._start or end > held:
            ahead = _WINDOW if start <= held else _LOOK
            size = max(0, min(max(length, ahead), self._item.size - start))
            self._start, self._data = start, memoryview(self._get(self._item, start, size) if size else b"")
        return self._data[start - self._start : end - self._start]
