"""Copies a rank's state into its arena: this is all that a save costs the step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from trainkit.checkpoint import image, own, plan
from trainkit.checkpoint.boxes import Box
from trainkit.checkpoint.client import Client, Staged
from trainkit.checkpoint.holdings import OF_NAME
from trainkit.checkpoint.plan import Held, Plan
from trainkit.checkpoint.subjects import Collected

_ALIGNED = 64
_ROOM_TO_GROW = 2  # a state file may be longer next time: a list of losses, a longer carry-over


class _Copy(NamedTuple):
    """From a tensor's part (None: all of what this rank has of it) to its place in the arena."""

    name: str
    cut: tuple[slice, ...] | None
    into: Tensor


class Staging:
    """One rank's arena, laid out for one plan; laid out anew when the tensors change."""

    def __init__(self, client: Client, *, rank: int, host_of: Sequence[int], copies: bool) -> None:
        self._client, self._rank, self._host_of, self._with_copies = client, rank, host_of, copies
        self._held: list[Held] | None = None
        self.plan = Plan()
        self._files: list[Staged] = []
        self._copies: list[_Copy] = []
        self._tensors_end = 0

    def fits(self, collected: Collected) -> bool:
        """Whether the arena is laid out for these tensors."""
        return self._held == collected.held

    def lay_out(self, collected: Collected) -> None:
        """Plan, and make the arena. Raises OSError where there is not enough memory."""
        self.plan = plan.make(collected.held, host_of=self._host_of, copies=self._with_copies)
        images = [(copies, image.of(self.plan, self._rank, copies=copies)) for copies in (False, True)]
        images = [(copies, one) for copies, one in images if one.slots]
        starts, at = [], 0
        for _, one in images:
            starts.append(at)
            at += -(-one.size // _ALIGNED) * _ALIGNED
        self._tensors_end = at
        self._files, self._copies = [], []  # what holds the arena of before
        self._arena = arena = self._client.room(at + _ROOM_TO_GROW * own.measure(collected.own).size)
        dtypes = {held.name: OF_NAME[held.dtype] for held in collected.held}
        for (copies, one), start in zip(images, starts, strict=True):
            name = image.file_name(self._rank, copies=copies)
            self._files.append(Staged(name, [(start, one.size)], len(one.header), copies))
            arena.memory[start : start + len(one.header)] = one.header
            for slot in one.slots:
                into = torch.frombuffer(arena.memory, dtype=torch.uint8, count=slot.size, offset=start + slot.start)
                into = into.view(dtypes[slot.name]).view(slot.box.lengths)
                self._copies.append(_Copy(slot.name, _cut(slot.box, collected.boxes[slot.name]), into))
        self._held = collected.held
        arena.touch()

    @torch.no_grad()
    def copy(self, collected: Collected) -> tuple[list[Staged], list[tuple[str, int, int]]]:
        """Copy everything. Returns the files, and where each object's own state is.

        Raises CheckpointError for what cannot be saved, OSError where it has grown and there is not enough memory.
        """
        rest = own.measure(collected.own)
        if self._tensors_end + rest.size > self._arena.size:
            self.lay_out(collected)
        arena = self._arena
        arena.wait_touched()
        for one in self._copies:
            source = collected.tensors[one.name]
            one.into.copy_(source if one.cut is None else source[one.cut])
        start = self._tensors_end
        rest.write_into(arena.memory[start : start + rest.size])
        places = [(name, start + at, size) for name, at, size in rest.places()]
        return [*self._files, Staged(image.state_name(self._rank), [(start, rest.size)])], places


def _cut(box: Box, of: Box) -> tuple[slice, ...] | None:
    return None if box == of else box.within(of)
