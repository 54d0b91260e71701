"""Whole tensors out of a checkpoint's pieces, a range of rows at a time: no more than MOST bytes of them in memory."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainkit.checkpoint import own
from trainkit.checkpoint.boxes import Box, Shape
from trainkit.checkpoint.people.place import Attempt
from trainkit.checkpoint.plan import DTYPES, Tensor
from trainkit.checkpoint.read import Bytes, Reader, Wanted
from trainkit.errors import CheckpointError, UsageError

MOST = 64 << 20
"""Bytes that are read together; the reader's threads hold about twice as many."""


@dataclass(frozen=True, slots=True)
class Export:
    """What is taken out of an attempt: its tensors, and under which names. `model.` is taken off with `only` model."""

    attempt: Attempt
    reader: Reader
    tensors: tuple[tuple[str, Tensor], ...]
    images: Mapping[str, memoryview]
    only: str | None

    def shape(self, tensor: Tensor) -> Shape:
        return self.reader.manifest.plan.layouts[tensor.layout].shape

    def size(self, tensor: Tensor) -> int:
        return math.prod(self.shape(tensor)) * DTYPES[tensor.dtype]

    def tree(self, name: str) -> Any:
        """An object's own state, described."""
        return own.decode(self.images[name], described=True)

    def aliases(self) -> dict[str, str]:
        """Further names of tied tensors → the name under which they are exported."""
        found: dict[str, str] = {}
        for name in self.images:
            if is_module(tree := self.tree(name)) and self.only in (None, name):
                prefix = "" if self.only else f"{name}."
                found |= {prefix + alias: prefix + kept for alias, kept in tree["aliases"].items()}
        return found

    def stream(self, tensors: Sequence[Tensor]) -> Iterator[memoryview]:
        """The bytes of these tensors, one after the other, row by row."""
        batch: list[tuple[Tensor, Box]] = []
        held = 0
        for tensor in tensors:
            for box in ranges(self.shape(tensor), DTYPES[tensor.dtype]):
                size = box.volume * DTYPES[tensor.dtype]
                if batch and held + size > MOST:
                    yield from self._read(batch)
                    batch, held = [], 0
                batch.append((tensor, box))
                held += size
        if batch:
            yield from self._read(batch)

    def _read(self, batch: Sequence[tuple[Tensor, Box]]) -> Iterator[memoryview]:
        rooms = [np.empty((*box.lengths, DTYPES[tensor.dtype]), dtype=np.uint8) for tensor, box in batch]
        wanted = [
            Wanted(tensor.name, box, _putter(box, room)) for (tensor, box), room in zip(batch, rooms, strict=True)
        ]
        self.reader.read(wanted)
        for room in rooms:
            yield room.reshape(-1).data


def of(attempt: Attempt, *, only: str | None) -> Export:
    """Raises UsageError for an `only` that the checkpoint does not hold, CheckpointError where it has no manifest."""
    whole = attempt.manifest
    if whole is None:
        raise CheckpointError(f"{attempt.name} is {attempt.state}, and has no manifest that can be read")
    reader = Reader(whole, [attempt.tier], [attempt.present])
    images = own.parse(reader.state(0))
    prefix = f"{only}." if only else ""
    found = tuple((one.name.removeprefix(prefix), one) for one in whole.plan.tensors if one.name.startswith(prefix))
    if only and not found:
        with_tensors = sorted({one.name.partition(".")[0] for one in whole.plan.tensors})
        raise UsageError(f"{attempt.name} has no tensors of {only!r}. It has those of: {', '.join(with_tensors)}")
    return Export(attempt, reader, found, images, only)


def ranges(shape: Shape, itemsize: int) -> Iterator[Box]:
    """The tensor in boxes of at most MOST bytes, in the order in which it lies in memory, each without gaps."""
    boxes = [Box.whole(shape)] if 0 not in shape else []
    for dimension, length in enumerate(shape):
        inner = math.prod(shape[dimension + 1 :]) * itemsize
        if boxes and inner * length <= MOST:
            break
        parts = -(-length // max(1, MOST // inner))
        boxes = [part for box in boxes for part in box.split(parts, dimension=dimension)]
        if inner <= MOST:
            break
    yield from boxes


def is_module(tree: Any) -> bool:
    """Whether a state is what a checkpointer keeps of a model beside its tensors."""
    return isinstance(tree, dict) and tree.keys() == {"aliases", "others"}


def is_optimizer(tree: Any) -> bool:
    return isinstance(tree, dict) and tree.keys() == {"groups", "others"}


def _putter(box: Box, room: Bytes) -> Any:
    def put(part: Box, content: Bytes) -> None:
        room[part.within(box)] = content

    return put
