"""Rows that end with their lines: where they can be cut, and how many there are.

Nothing says where lines end but the lines: an item is read once, from its beginning, to count them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import Enum, auto
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trainkit.data.formats import runs
from trainkit.data.formats.base import BLOCK, Span, wrong
from trainkit.data.formats.runs import Positions
from trainkit.data.items import Get, Item
from trainkit.errors import DataError

_LONGEST = 64 * BLOCK  # of a quoted value; behind a quote that nothing closes, everything is one
_NEWLINE, _RETURN, _QUOTE, _SPACE = b'\n\r" '
_MARK = b"\xef\xbb\xbf"


class Blank(Enum):
    """Lines that are no rows."""

    NONE = auto()
    EMPTY = auto()
    WHITE = auto()


def start(item: Item, get: Get) -> int:
    """Where lines begin: some writers put a byte order mark before them."""
    return len(_MARK) if bytes(get(item, 0, min(item.size, len(_MARK)))) == _MARK else 0


def spans(item: Item, get: Get, *, begin: int, quoted: bool, blank: Blank, window: int = 8 * BLOCK) -> Iterator[Span]:
    """Runs of about BLOCK, from `begin` on. `quoted`: a newline between double quotes ends no row.

    `window` bytes are read at a time: fewer for who only wants to see the first run.
    """
    position, usual = begin, window
    while position < item.size:
        length = min(window, item.size - position)
        last = position + length == item.size
        data = memoryview(get(item, position, length))
        ends = row_ends(data, quoted=quoted)
        if last and (not len(ends) or ends[-1] < length):
            if quoted and bytes(data[int(ends[-1]) if len(ends) else 0 :]).count(b'"') % 2:
                raise _unclosed(item, position)
            ends = np.append(ends, length)
        if not len(ends):
            window *= 2
            if quoted and window > _LONGEST:
                raise _unclosed(item, position)
            continue
        cuts = list(runs.cuts(ends))
        if not last and len(cuts) > 1:
            cuts.pop()  # it goes on in the next window
        rows = np.concatenate([[0], np.cumsum(~_blank(data, ends, blank))])
        before = 0
        for cut in cuts:
            span_start, span_end = (int(ends[before - 1]) if before else 0), int(ends[cut - 1])
            count = int(rows[cut] - rows[before])
            if count:
                yield Span(position + span_start, span_end - span_start, count)
            before = cut
        position, window = position + int(ends[before - 1]), usual


def row_ends(data: memoryview, *, quoted: bool) -> Positions:
    """The positions behind the newlines that end rows. With `quoted`, the data begins outside of quotes."""
    octets = np.frombuffer(data, np.uint8)
    newlines = np.flatnonzero(octets == _NEWLINE)
    if quoted:
        quotes = np.flatnonzero(octets == _QUOTE)
        if len(quotes):
            newlines = newlines[np.searchsorted(quotes, newlines) % 2 == 0]
    return newlines + 1


class Refused(NamedTuple):
    """A row that is none: which one, where it begins, and what it is."""

    row: int
    offset: int
    data: memoryview


def first_refused(data: memoryview, ends: Positions, parse: Callable[[memoryview], object]) -> Refused:
    """The first row that `parse` refuses: for people, who look for it in megabytes."""
    good, bad = 0, len(ends)  # so many rows are taken, so many are not
    while bad - good > 1:
        tried = (good + bad) // 2
        try:
            parse(data[: int(ends[tried - 1])])
            good = tried
        except (ValueError, LookupError, OSError, OverflowError, MemoryError):
            bad = tried
    begin = int(ends[good - 1]) if good else 0
    return Refused(good, begin, data[begin : int(ends[good]) if good < len(ends) else len(data)])


def _unclosed(item: Item, position: int) -> DataError:
    remedy = 'Write a quote that is part of a value as "", within a quoted value'
    return wrong(item, "a quoted value does not end", remedy, at=f"after byte {position}")


def _blank(data: memoryview, ends: Positions, blank: Blank) -> NDArray[np.bool_]:
    found = np.zeros(len(ends), np.bool_)
    if blank is Blank.NONE:
        return found
    begins = np.concatenate([[0], ends[:-1]])
    first = np.frombuffer(data, np.uint8)[begins]
    # Nearly every line shows with its first character that it is none.
    limit = _SPACE if blank is Blank.WHITE else _RETURN
    for row in np.flatnonzero(first <= limit).tolist():
        line = bytes(data[int(begins[row]) : int(ends[row])])
        found[row] = not (line.strip() if blank is Blank.WHITE else line.strip(b"\r\n"))
    return found
