"""The order of one epoch: a pure function of the blocks' sizes, the seed, the epoch and the number of lanes.

    blocks, permuted      7 2 9 4 0 5 8 1 3 6                       a block is what one request fetches, about 1 MiB
    dealt to lanes        lane 0: 7 4 8 6   lane 1: 2 0 1   lane 2: 9 5 3
    rows, mixed within    lane 0: 7c 7a 7b 4b …
    one of each in turn   7c 2b 9a  7a 2a 9c  7b 2c 9b  4b 0a 5c …      sample 0, 1, 2, … of the epoch

Two samples that lie side by side in the data are a whole round apart here, and a batch holds rows of as many blocks as
there are lanes. Nothing is simulated: where a sample lies is computed from its number, whoever asks, in whatever world.
So a position in the epoch is one integer, and going there costs what a look-up costs.

A rank takes every `ranks`th sample. With a multiple of `ranks` as the number of lanes, it meets its own lanes only, and
each block is read by one rank. Lanes that are longer than others leave a tail in which ranks share blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]


class Places(NamedTuple):
    """Where samples lie: the block of each, its turn among the block's rows, and the block's last sample."""

    blocks: Integers
    turns: Integers
    until: Integers


@dataclass(frozen=True, slots=True)
class Order:
    """One epoch's order over `rows[b]` rows in each block b. Make one with `of`."""

    total: int
    """Samples of the epoch."""
    seed: int
    epoch: int
    shuffled: bool
    _blocks: Integers  # lane after lane, the longest first
    _ends: Integers  # rows up to and with each of them
    _first: Integers  # of each lane: its first place in _blocks
    _rounds: Integers  # ascending: at which rounds lanes run out
    _active: Integers  # between them: how many lanes are left
    _starts: Integers  # and the sample at which that begins

    @classmethod
    def of(cls, rows: Integers, *, seed: int, epoch: int, lanes: int, shuffle: bool = True) -> Order:
        """`rows` of each block, int64. Without `shuffle` there is one lane, and the rows come as they lie."""
        count = len(rows)
        lanes = max(1, min(lanes, count)) if shuffle else 1
        dealt = generator(seed, epoch).permutation(count) if shuffle else np.arange(count)
        # A column for each lane: at thousands of ranks there are half a million of them, too many for a loop.
        by_lane = np.full((-(-count // lanes), lanes), -1, dtype=np.int64)
        by_lane.reshape(-1)[:count] = dealt
        length = np.where(by_lane < 0, 0, rows[by_lane] if count else 0).sum(axis=0)
        sizes = count // lanes + (np.arange(lanes) < count % lanes)
        longest_first = np.argsort(-length, kind="stable")
        blocks = by_lane.T[longest_first].reshape(-1)
        blocks, length, sizes = blocks[blocks >= 0], length[longest_first], sizes[longest_first]
        rounds, active = _thinning(length)
        starts = np.concatenate([[0], np.cumsum(np.diff(rounds, prepend=0) * active)])
        return cls(
            total=int(length.sum()),
            seed=seed,
            epoch=epoch,
            shuffled=shuffle,
            _blocks=blocks,
            _ends=np.cumsum(rows[blocks]),
            _first=np.cumsum(sizes) - sizes,
            _rounds=np.concatenate([[0], rounds]),
            _active=active,
            _starts=starts,
        )

    def places(self, samples: Integers) -> Places:
        """Where these samples of the epoch lie. Each must be at least 0 and less than `total`."""
        part = np.searchsorted(self._starts, samples, side="right") - 1
        beyond = samples - self._starts[part]
        lane = beyond % self._active[part]
        turn = self._rounds[part] + beyond // self._active[part]  # within the lane
        first = self._first[lane]
        before = np.where(first > 0, self._ends[first - 1], 0)
        place = np.searchsorted(self._ends, before + turn, side="right")
        start = np.where(place > 0, self._ends[place - 1], 0)
        last = self._ends[place] - before - 1
        until = np.searchsorted(self._rounds, last, side="right") - 1
        until = self._starts[until] + (last - self._rounds[until]) * self._active[until] + lane
        return Places(self._blocks[place], before + turn - start, until)

    def mixed(self, block: int, rows: int) -> Integers | None:
        """Which row of a block has which turn: turn → row. None where rows come as they lie."""
        if not self.shuffled:
            return None
        return generator(self.seed, self.epoch, block + 1).permutation(rows)


def _thinning(length: Integers) -> tuple[Integers, Integers]:
    """The rounds at which lanes of these lengths (descending) run out, and how many there are before each."""
    rounds, counts = np.unique(length, return_counts=True)
    active = len(length) - (np.cumsum(counts) - counts)
    some = rounds > 0
    return rounds[some], active[some]


def generator(*key: int) -> np.random.Generator:
    """The same on every machine and in every version: numpy keeps the streams of its bit generators."""
    words = np.random.SeedSequence([word & 0xFFFFFFFFFFFFFFFF for word in key])
    return np.random.Generator(np.random.Philox(words))
