"""Streams, mixtures and packed streams as torch's DataLoader knows them. The one place here that imports torch by name.

    worker 0 of 2    batch 0, 2, 4, …      DataLoader takes one of each in turn, which is the order there is without
    worker 1 of 2    batch 1, 3, 5, …      workers

A worker's state says where its last batch ended, and how many of the other workers' come before its next one. So it is
good for as many workers, ranks and rows a batch as there were, and refused for others.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, ClassVar, NamedTuple

from torch.utils.data import IterableDataset, get_worker_info

from trainkit.data.mixture import Mixture, Source
from trainkit.data.packing import Packed
from trainkit.data.stream import Stream
from trainkit.errors import DataError

_OF_A_WORKER = {"worker_of", "skip", "over", "dealt", "stream"}


class _Turn(NamedTuple):
    """Where a worker is: `skip` batches of others before its next one; `over` where it has none in this epoch."""

    skip: int
    over: bool = False
    loaded: bool = False
    """Whether it was taken from a state, and no iteration has begun there."""


class Loaded:
    """What DataLoader and StatefulDataLoader ask of a dataset, for a class whose iteration is an epoch of batches."""

    _plain: ClassVar[Any]
    """That class."""
    epoch: int
    _turn: _Turn | None = None
    """Of a worker, from its first batch on."""

    def __iter__(self) -> Iterator[Any]:
        _refuse_a_second_split()
        info = get_worker_info()
        return self.whole() if info is None else self._part(info.id, info.num_workers)

    def whole(self) -> Iterator[Any]:
        """All batches that are left of this epoch, in a worker too."""
        batches: Iterator[Any] = self._plain.__iter__(self)
        return batches

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = self._plain.state_dict(self)
        turn, info = self._turn, get_worker_info()
        if turn is None or info is None:
            return state
        own = {"worker_of": info.num_workers, "skip": turn.skip, "over": turn.over, "dealt": json.dumps(self.dealt())}
        return {**own, "stream": state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._turn, turn = None, None
        if set(state) == _OF_A_WORKER:
            self._check(state)
            turn, state = _Turn(state["skip"], state["over"], loaded=True), state["stream"]
        self._plain.load_state_dict(self, state)
        self._turn = turn

    def dealt(self) -> Any:
        """What all workers must have alike for their batches to be parts of one order."""
        raise NotImplementedError

    def _every(self, of: int, *, skip: int) -> Iterator[Any]:
        """Each batch `of` so many, after `skip` of them: all are made, and the others' are thrown away."""
        return islice(self.whole(), skip, None, of)

    def _part(self, mine: int, of: int) -> Iterator[Any]:
        turn = self._turn
        # Not left to the first batch: a worker's state is also asked for between here and there.
        if turn is None or (turn.over and not turn.loaded):
            self._turn, begin = None, _Turn(mine)
        elif turn.loaded:
            self._turn = begin = turn._replace(loaded=False)
        else:
            return _left()
        return iter(()) if begin.over else self._given(begin.skip, mine, of)

    def _given(self, skip: int, mine: int, of: int) -> Iterator[Any]:
        epoch = self.epoch
        self._turn = _Turn(skip)
        for batch in self._every(of, skip=skip):
            self._turn = _Turn(of - 1, over=self.epoch > epoch)
            yield batch
        self._through(epoch)
        self._turn = _Turn(mine, over=True)

    def _through(self, epoch: int) -> None:
        """What went through all batches is in the next epoch by itself."""

    def _check(self, state: Mapping[str, Any]) -> None:
        info = get_worker_info()
        of = info.num_workers if info else 0
        if of != state["worker_of"]:
            raise DataError(
                f"this state is of {state['worker_of']} DataLoader workers, and there are {of}. Give num_workers as "
                f"it was; or use num_workers=0, where a state is good for any number of ranks"
            )
        if state["dealt"] != json.dumps(self.dealt()):
            raise DataError(
                "this state is of DataLoader workers that dealt out other batches. With workers, give as many ranks, "
                "the batch_size and the weights that there were; or use num_workers=0, where all of them may change"
            )


class TorchStream(Loaded, Stream, IterableDataset[Any]):
    """A stream that DataLoader and StatefulDataLoader take as a dataset: `DataLoader(stream, batch_size=None)`."""

    _plain = Stream

    def dealt(self) -> Any:
        return [self._share.ranks, self._share.batch]

    def _every(self, of: int, *, skip: int) -> Iterator[Any]:
        return self._some(of, skip=skip)  # the others' batches are not even read

    def _through(self, epoch: int) -> None:
        self.set_epoch(epoch + 1)

    def _packs(self) -> type[Packed]:
        return TorchPacked


class TorchPacked(Loaded, Packed, IterableDataset[Any]):
    """A packed stream as a dataset. Each worker reads all rows, as each rank does."""

    _plain = Packed

    def dealt(self) -> Any:
        return [self._ranks, self._own, self._length]


class TorchMixture(Loaded, Mixture, IterableDataset[Any]):
    """A mixture as a dataset. Each worker reads all streams."""

    _plain = Mixture

    def dealt(self) -> Any:
        parts = zip(self._names, self._schedule.weights, self._streams, strict=True)
        return [self._until, [[name, weight, stream.dealt()] for name, weight, stream in parts]]  # type: ignore[attr-defined]

    def _begin(self, stream: Source) -> Iterator[Any]:
        assert isinstance(stream, Loaded)
        return stream.whole()  # it is the mixture's batches that are dealt out


def _left() -> Iterator[Any]:
    """Raises with the first batch: what a worker raises before that ends it without a word to the loop."""
    yield from ()
    raise DataError(
        "the loop over this DataLoader was left in the middle of an epoch, and its workers live on "
        "(persistent_workers=True), with batches that they made ahead and nobody took. Leave out persistent_workers, "
        "or go through to the end of the epoch"
    )


def _refuse_a_second_split() -> None:
    """accelerate splits what a DataLoader gives among the ranks, and of a stream each rank has its own part already."""
    frame = sys._getframe(1)
    while frame.f_back:
        frame = frame.f_back
        if frame.f_globals.get("__name__") == "accelerate.data_loader" and "self" in frame.f_locals:
            kind = type(frame.f_locals["self"]).__name__
            if kind in ("IterableDatasetShard", "DataLoaderDispatcher"):
                raise DataError(
                    "accelerator.prepare would split this stream among the ranks a second time, and half of the data "
                    "would be lost: each rank has its own part already. Prepare model and optimizer only, and iterate "
                    "the stream itself"
                )
