"""Exact sums of a column's numbers and of their squares, batch by batch, in whatever order the batches come.

Each number becomes the whole number floor(x * 2**exponent + 1/2), of 48 bits at most, so that no sum is ever rounded.
numpy does it in a fifth of the CPU time of SQL's HUGEINT.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

MOMENT_BITS, MOMENT_STEP = 48, 8
"""Numbers are summed as whole ones of so many bits, from 40: their scale goes in steps, so that it can be guessed."""
HALF = 24  # bits of the lower part of a number that is squared in two
CHUNK = 1 << 14  # numbers whose squared parts, of 48 bits, add up to less than 63


@dataclass(frozen=True, slots=True)
class Sums:
    """Of one Standardize, in the training rows: whole numbers, each floor(x * 2**exponent + 1/2)."""

    count: int
    low: float | None
    high: float | None
    total: int
    squares: int
    exponent: int

    @property
    def right(self) -> int:
        return exponent_of(self.low, self.high)


class Summing:
    """The sums of one column as its rows come by. Without an exponent, the first numbers decide on one.

    Where a later number is too large for it, only count and range go on: `Sums.right` then is another exponent.
    """

    def __init__(self, exponent: int | None = None) -> None:
        self._exponent = exponent
        self._count = self._total = self._squares = 0
        self._low, self._high = math.inf, -math.inf

    def add(self, x: Any) -> None:
        """`x`: float64, one dimension; NaN where there is no number, and nothing infinite."""
        there = x[~np.isnan(x)]
        if not len(there):
            return
        self._count += len(there)
        self._low, self._high = min(self._low, float(there.min())), max(self._high, float(there.max()))
        right = exponent_of(self._low, self._high)
        if self._exponent is None:
            self._exponent = right
        if right >= self._exponent:
            for start in range(0, len(there), CHUNK):
                self._sum(there[start : start + CHUNK], math.ldexp(1.0, self._exponent))

    def _sum(self, x: Any, scale: float) -> None:
        whole = np.floor(x * scale + 0.5).astype(np.int64)
        upper, lower = whole >> HALF, whole & ((1 << HALF) - 1)
        self._total += (int(upper.sum()) << HALF) + int(lower.sum())
        mixed = int(upper.dot(lower)) << (HALF + 1)
        self._squares += (int(upper.dot(upper)) << 2 * HALF) + mixed + int(lower.dot(lower))

    @property
    def sums(self) -> Sums:
        exponent = MOMENT_BITS if self._exponent is None else self._exponent
        low, high = (self._low, self._high) if self._count else (None, None)
        return Sums(self._count, low, high, self._total, self._squares, exponent)


def exponent_of(low: float | None, high: float | None) -> int:
    """By which power of two numbers are scaled, so that the largest has at most MOMENT_BITS bits."""
    if low is None or high is None:
        return MOMENT_BITS
    bits = math.frexp(max(abs(low), abs(high)))[1]
    return max(MOMENT_BITS - 1024, min(960, MOMENT_BITS - -(-bits // MOMENT_STEP) * MOMENT_STEP))
