"""What a rank takes of an epoch: batch by batch, however many samples there are and however many ranks. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from trainkit.data.order import Integers

Tail = Literal["drop", "pad", "exact"]
TAILS: tuple[Tail, ...] = ("drop", "pad", "exact")


@dataclass(frozen=True, slots=True)
class Share:
    """One rank's part. A global batch is `ranks` times `batch` samples; `tail` says what becomes of the last few.

    drop    they are left out: every batch is full, and so every rank has as many
    pad     the last batch is filled up with the first samples of the epoch
    exact   each sample once: the last batches are smaller, on some ranks by one row more than on others
    """

    rank: int
    ranks: int
    batch: int
    tail: Tail
    strided: bool
    """Every `ranks`th sample, where the order has lanes; else a run of neighbours."""

    @property
    def whole(self) -> int:
        """Samples of a global batch."""
        return self.ranks * self.batch

    def steps(self, total: int, position: int) -> int:
        """Global batches from `position` to the end of the epoch: the same number on every rank."""
        left = max(0, total - position)
        return left // self.whole if self.tail == "drop" else -(-left // self.whole)

    def after(self, total: int, position: int, *, steps: int = 1) -> int:
        """The position after `steps` batches from `position` on; `total` where the epoch is over."""
        beyond = min(position + steps * self.whole, total)
        return total if self.steps(total, beyond) == 0 else beyond

    def samples(self, total: int, position: int, *, steps: int = 1, every: int = 1) -> Integers:
        """This rank's samples of `steps` global batches, one in `every` to come; only the last may be short."""
        first = position + np.arange(steps, dtype=np.int64)[:, None] * self.whole * every
        full = first + self._within(self.batch)
        samples = full.reshape(-1)
        if self.tail == "pad":
            return samples % total
        last = int(first[-1, 0])
        if last + self.whole <= total:
            return samples
        count = total - last
        # Dealt like a full one, so that no rank has two rows more than another.
        mine = np.arange(self.rank, count, self.ranks, dtype=np.int64) if self.strided else self._run(count)
        return np.concatenate([full[:-1].reshape(-1), last + mine])

    def _within(self, batch: int) -> Integers:
        if self.strided:
            return self.rank + self.ranks * np.arange(batch, dtype=np.int64)
        return self.rank * batch + np.arange(batch, dtype=np.int64)

    def _run(self, count: int) -> Integers:
        small, more = divmod(count, self.ranks)
        start = self.rank * small + min(self.rank, more)
        return start + np.arange(small + (self.rank < more), dtype=np.int64)
