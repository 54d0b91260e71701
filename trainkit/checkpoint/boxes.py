"""Boxes: the rectangular part of a tensor that one rank holds, and what two of them have in common."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

Shape = tuple[int, ...]
_MOST_COMPARED = 1024


class Box(NamedTuple):
    """Elements [offset, offset + length) along each dimension. A scalar's box has none of either."""

    offsets: Shape
    lengths: Shape

    @classmethod
    def whole(cls, shape: Shape) -> Box:
        return cls((0,) * len(shape), shape)

    @property
    def volume(self) -> int:
        return math.prod(self.lengths)

    def overlap(self, other: Box) -> Box | None:
        """What lies in both; None where nothing does."""
        offsets = tuple(map(max, self.offsets, other.offsets))
        ends = map(min, self._ends(), other._ends())
        lengths = tuple(end - offset for end, offset in zip(ends, offsets, strict=True))
        return Box(offsets, lengths) if all(length > 0 for length in lengths) else None

    def within(self, outer: Box) -> tuple[slice, ...]:
        """Where this box lies in an array that holds `outer`."""
        return tuple(
            slice(offset - base, offset - base + length)
            for offset, base, length in zip(self.offsets, outer.offsets, self.lengths, strict=True)
        )

    def split(self, parts: int, *, dimension: int = 0) -> Iterator[Box]:
        """As many boxes along `dimension`, which is at least as long; none is empty, all as equal as can be."""
        offset, length = self.offsets[dimension], self.lengths[dimension]
        for part in range(parts):
            start, end = length * part // parts, length * (part + 1) // parts
            yield Box(_with(self.offsets, dimension, offset + start), _with(self.lengths, dimension, end - start))

    def _ends(self) -> Iterator[int]:
        return (offset + length for offset, length in zip(self.offsets, self.lengths, strict=True))


def _with(shape: Shape, dimension: int, value: int) -> Shape:
    return (*shape[:dimension], value, *shape[dimension + 1 :])


def problem(shape: Shape, boxes: Sequence[Box]) -> str | None:
    """Why `boxes` are no partition of a tensor of this shape, each element in exactly one of them; None if they are."""
    if strange := next(filter(None, (outside(shape, box) for box in boxes)), None):
        return strange
    if sum(box.volume for box in boxes) != math.prod(shape):
        return f"its pieces hold {sum(box.volume for box in boxes)} elements instead of {math.prod(shape)}"
    if _meet(boxes):
        return "two of its pieces overlap"
    return None


def outside(shape: Shape, box: Box) -> str | None:
    """Why `box` is no part of a tensor of this shape; None if it is."""
    if len(box.offsets) != len(shape) or len(box.lengths) != len(shape):
        return f"{box} has another number of dimensions than the shape {shape}"
    if any(o < 0 or n <= 0 or o + n > size for o, n, size in zip(*box, shape, strict=True)):
        return f"{box} is empty or reaches beyond the shape {shape}"
    return None


def _meet(boxes: Sequence[Box]) -> bool:
    """Whether two of them overlap: those that a straight cut parts do not, so little is left to compare."""
    if len(boxes) < 2:
        return False
    for dimension in range(len(boxes[0].offsets)):
        parts = _parted(boxes, dimension)
        if len(parts) > 1:
            return any(map(_meet, parts))
    # No cut parts them: a pinwheel, or an overlap. Where they are many, it is nobody's way to lay out a tensor.
    return len(boxes) > _MOST_COMPARED or any(
        one.overlap(other) is not None for at, one in enumerate(boxes) for other in boxes[:at]
    )


def _parted(boxes: Sequence[Box], dimension: int) -> list[list[Box]]:
    """In groups, each of which lies behind the one before it in this dimension."""
    groups: list[list[Box]] = []
    end = -1
    for box in sorted(boxes, key=lambda box: box.offsets[dimension]):
        if box.offsets[dimension] >= end:
            groups.append([])
        groups[-1].append(box)
        end = max(end, box.offsets[dimension] + box.lengths[dimension])
    return groups
