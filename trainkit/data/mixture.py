"""Several streams as one, by weight: each step takes the batch of one of them, the same one on every rank.

    round 0: a b a a a b a a b a … (100 steps)    round 1: b a a a …        70 of a and 30 of b in each, well mixed

Which stream a step takes is computed from its number and the seed. Nothing is drawn that would have to be remembered,
so the state is the number of steps, and the state of each stream.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate, count
from typing import Any, Literal, Protocol

import numpy as np

from trainkit.data.order import generator
from trainkit.errors import DataError

VERSION = 1
ROUND = 100  # steps: weights in per cent are kept exactly in each round
Until = int | Literal["first", "last"]
_DRAWS = 0x6D6978  # keeps these draws apart from those of an order


class Source(Protocol):
    """What can be mixed: a stream, packed or not."""

    epoch: int
    waited: float

    def __iter__(self) -> Iterator[Any]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...
    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Schedule:
    """Which source each step takes: a pure function of the weights, the seed and the step's number."""

    weights: tuple[float, ...]
    seed: int

    def round(self, number: int) -> list[int]:
        """The sources of steps number · ROUND and on: of each its weight's part of a round, rounded up or down."""
        draws = generator(_DRAWS, self.seed, number)
        # Evenly spaced points from a start by chance: no part is off by a whole step, and in the long run by nothing.
        points = draws.permutation(ROUND) + draws.random()
        whole = sum(self.weights)
        until = [ROUND * part / whole for part in accumulate(self.weights)]
        return [int(source) for source in np.searchsorted(until[:-1], points, side="right")]

    def sources(self, step: int) -> Iterator[int]:
        """The sources of this step and all that follow."""
        skip = step % ROUND
        for number in count(step // ROUND):
            yield from self.round(number)[skip:]
            skip = 0


class Mixture:
    """Batches of several streams, pass after pass. Iterate it once for each pass; `job.mixture` makes one.

    A stream that is through begins its next epoch, and the others go on where they are. `until` says when a pass is
    over: after so many steps; "first": when the first of the streams has come to the end of an epoch that none had
    before; "last": when the last of them has.
    """

    def __init__(self, streams: Mapping[str, tuple[Source, float]], *, until: Until, seed: int) -> None:
        _check(streams, until=until)
        self._names = sorted(streams)  # a dict in another order is the same mixture
        self._streams = [streams[name][0] for name in self._names]
        self._schedule = Schedule(tuple(float(streams[name][1]) for name in self._names), seed)
        self._until = until
        self.epoch = 0
        """Passes that are through."""
        self.step = 0
        """Batches that were given, in all passes together."""
        self.position = 0
        """Batches that were given in this pass."""
        self.source = ""
        """The name of the stream that the last batch came from."""

    @property
    def waited(self) -> float:
        """Seconds that the loop has waited for batches so far."""
        return sum(stream.waited for stream in self._streams)

    def __len__(self) -> int:
        """Batches that are left of this pass, alike on every rank. TypeError where a stream does not know its own."""
        if isinstance(self._until, int):
            return max(0, self._until - self.position)
        left = [self._left(stream) for stream in self._streams]
        for steps, source in enumerate(self._schedule.sources(self.step)):
            if self._over([most <= 0 for most in left]):
                return steps
            left[source] -= 1
        raise AssertionError("sources never end")

    def __iter__(self) -> Iterator[Any]:
        """The batches that are left of this pass; the next one begins when they are through."""
        self.close()
        running: dict[int, Iterator[Any]] = {}
        try:
            for source in self._schedule.sources(self.step):
                batch = self._next(source, running)
                self.source = self._names[source]
                self.step += 1
                self.position += 1
                over = self._next_pass()
                yield batch
                if over:
                    break
        finally:
            running.clear()
            self.close()

    def state_dict(self) -> dict[str, Any]:
        """Where the mixture is, after the last batch that it gave: alike on every rank."""
        states = {name: stream.state_dict() for name, stream in zip(self._names, self._streams, strict=True)}
        own = {"seed": self._schedule.seed, "epoch": self.epoch, "step": self.step, "position": self.position}
        return {"version": VERSION, **own, "streams": states}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another mixture of these streams was, on any number of ranks. Other weights may hold from here.

        Raises DataError where the streams, the seed or any stream's data are not the same.
        """
        own = self.state_dict()
        if set(state) != set(own) or state["version"] != VERSION:
            raise DataError(f"{json.dumps(dict(state), default=str)[:200]} is no state of a mixture of this version")
        if set(state["streams"]) != set(self._names):
            raise DataError(
                f"the mixture of {', '.join(self._names)} cannot go on: it was one of "
                f"{', '.join(sorted(state['streams']))}. Give the same streams; one with a tiny weight hardly counts"
            )
        if state["seed"] != own["seed"]:
            raise DataError(
                f"the mixture of {', '.join(self._names)} cannot go on: its seed is {own['seed']}, and was "
                f"{state['seed']}. Give the seed that it began with"
            )
        self.close()
        for name, stream in zip(self._names, self._streams, strict=True):
            stream.load_state_dict(state["streams"][name])
        self.epoch, self.step, self.position = (int(state[fact]) for fact in ("epoch", "step", "position"))
        self._next_pass()  # on more ranks, what was left of a stream may fill no batch, and that ends its epoch

    def close(self) -> None:
        """End what is under way. The mixture may be iterated again, from where it is."""
        for stream in self._streams:
            stream.close()

    def _next(self, source: int, running: dict[int, Iterator[Any]]) -> Any:
        """The source's next batch, of its next epoch where this one is through."""
        stream = self._streams[source]
        for _ in range(2):  # of a packed stream, what was left may turn out to fill no batch
            if source not in running:
                running[source] = self._begin(stream)
            for batch in running[source]:
                return batch
            del running[source]
        raise DataError(f"the stream {self._names[source]!r} of the mixture gave no batch in a whole epoch")

    def _begin(self, stream: Source) -> Iterator[Any]:
        return iter(stream)

    def _next_pass(self) -> bool:
        """Begin the next pass where this one is over; whether it was."""
        if isinstance(self._until, int):
            over = self.position >= self._until
        else:
            over = self._over([stream.epoch > self.epoch for stream in self._streams])
        if over:
            self.epoch, self.position = self.epoch + 1, 0
        return over

    def _over(self, through: list[bool]) -> bool:
        return any(through) if self._until == "first" else all(through)

    def _left(self, stream: Any) -> int:
        """Batches until the stream has been through once more than there were passes."""
        epochs = self.epoch - stream.epoch
        return len(stream) + epochs * stream.steps_per_epoch if epochs >= 0 else 0


def _check(streams: Mapping[str, tuple[Source, float]], *, until: Until) -> None:
    if not streams:
        raise ValueError("a mixture needs at least one stream: {'name': (stream, weight)}")
    for name, (_, weight) in streams.items():
        if not (weight > 0 and math.isfinite(weight)):
            raise ValueError(f"the weight of {name!r} is {weight}: must be more than 0. Leave out what is not wanted")
    if len({id(stream) for stream, _ in streams.values()}) < len(streams):
        raise ValueError("a mixture has the same stream twice: give each name a stream of its own, or add the weights")
    if until not in ("first", "last") and (not isinstance(until, int) or until < 1):
        raise ValueError(f"until is {until!r}: must be a number of steps, 'first' or 'last'")
