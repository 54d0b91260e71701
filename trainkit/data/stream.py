"""The stream that a training loop iterates: batches in an order that survives anything."""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from trainkit.data.batches import KINDS, Kind, converter, loose
from trainkit.data.feed import Feed
from trainkit.data.index import Index
from trainkit.data.items import Get
from trainkit.data.order import Order
from trainkit.data.reader import Chunk, Reader
from trainkit.data.share import TAILS, Share, Tail
from trainkit.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

VERSION = 1
_GATHERED = 8 << 20  # bytes of the rows that are put in order at once
_READY = 2  # batches ready beside the one that trains; the rest of the work lies in blocks
_THREADS = 8


@dataclass(frozen=True, slots=True)
class Choices:
    """What a user chose about a stream. See trainkit.job.Context.stream. Raises ValueError for what makes no sense."""

    batch_size: int
    shuffle: bool
    seed: int
    tail: Tail
    lanes: int | None
    columns: tuple[str, ...] | None
    transform: Callable[[pa.Table], Any] | None
    kind: Kind
    memory: int

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 1), ("lanes", 1), ("memory", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} is {value}: must be {least} or more")
        for name, allowed in (("tail", TAILS), ("kind", KINDS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}: must be one of {', '.join(allowed)}")


class Fetches(Protocol):
    """What a stream needs of a fetcher."""

    @property
    def get(self) -> Get: ...
    def close(self) -> None: ...


class Workers(NamedTuple):
    """Which one of how many processes this is that read one rank's stream together."""

    mine: int
    of: int


class Stream:
    """Batches of a data set, epoch after epoch. Iterate it once for each epoch; `job.stream` makes one.

    `position` counts the samples that all ranks together have had in this epoch: one integer, the same on every rank.
    """

    def __init__(self, index: Index, fetcher: Fetches, choices: Choices, *, rank: int, ranks: int) -> None:
        self._index = index
        self._fetcher = fetcher
        weakref.finalize(self, fetcher.close)  # connections live as long as the stream, over all its epochs
        self._choices = choices
        self._share = Share(rank, ranks, choices.batch_size, choices.tail, strided=choices.shuffle)
        self._lanes = choices.lanes or _lanes(index, ranks=ranks, memory=choices.memory)
        self.epoch = 0
        self.position = 0
        self.waited = 0.0
        """Seconds that the loop has waited for batches so far."""
        self._feed: Feed | None = None
        if not self._share.steps(index.total, 0):
            raise DataError(
                f"{index.listing.root} holds {index.total} rows, and a step of {ranks} ranks takes "
                f"{self._share.whole}. Choose a smaller batch_size, or tail='pad'"
            )

    def __len__(self) -> int:
        """Batches that are left of this epoch, alike on every rank."""
        return self._share.steps(self._index.total, self.position)

    def __iter__(self) -> Iterator[Any]:
        """The batches that are left of this epoch; the next one begins when they are through."""
        self.close()
        epoch, total, workers = self.epoch, self._index.total, self._workers()
        # Of several DataLoader workers each gives every so manieth batch, and DataLoader takes one of each in turn.
        self.position = min(total, self.position + workers.mine * self._share.whole)
        feed = self._feed = Feed(self._batches(epoch, self.position, every=workers.of), ahead=_READY)
        try:
            for batch in feed:
                self.waited += feed.waited
                self.position = self._share.after(total, self.position, steps=workers.of)
                if self.position >= total:
                    self.epoch, self.position = epoch + 1, 0
                yield batch
        finally:
            feed.close()

    def set_epoch(self, epoch: int) -> None:
        """Begin that epoch, for whoever counts epochs himself: DataLoader's workers do not tell how far they came."""
        self.close()
        self.epoch, self.position = epoch, 0

    def state_dict(self) -> dict[str, Any]:
        """Where the stream is, after the last batch that it gave: a few numbers and words, alike on every rank."""
        return {
            "version": VERSION,
            "fingerprint": self._index.fingerprint,
            "seed": self._choices.seed,
            "shuffle": self._choices.shuffle,
            "lanes": self._lanes,
            "epoch": self.epoch,
            "position": self.position,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another stream over the same data was, on any number of ranks and with any batch size.

        Raises DataError where the data, or what its order depends on, is not the same.
        """
        own = self.state_dict()
        if set(state) != set(own) or state["version"] != VERSION:
            raise DataError(f"{json.dumps(dict(state), default=str)[:200]} is no state of a stream of this version")
        for fact, remedy in _SAME.items():
            if state[fact] != own[fact]:
                raise DataError(
                    f"the stream over {self._index.listing.root} cannot go on: its {fact} is {own[fact]!r}, and was "
                    f"{state[fact]!r}. {remedy}"
                )
        self.close()
        self._lanes = int(state["lanes"])
        self.epoch, self.position = int(state["epoch"]), int(state["position"])

    def close(self) -> None:
        """End what is under way. The stream may be iterated again, from where it is."""
        if self._feed:
            self._feed.close()
            self._feed = None

    def _workers(self) -> Workers:
        return Workers(0, 1)

    def _batches(self, epoch: int, position: int, *, every: int) -> Generator[Any, None, None]:
        """What the feeding thread does, from the position on."""
        choices, index = self._choices, self._index
        order = Order.of(index.rows, seed=choices.seed, epoch=epoch, lanes=self._lanes, shuffle=choices.shuffle)
        columns = list(choices.columns) if choices.columns else None
        names = [name for name in index.schema.names if columns is None or name in columns]
        apart = [name for name in loose(index.schema, choices.kind) if name in names and not choices.transform]
        reader = Reader(
            index, order, self._fetcher.get, columns=columns, budget=choices.memory, threads=_THREADS, loose=apart
        )
        convert, size = choices.transform or converter(choices.kind), choices.batch_size
        try:
            for steps, rows in reader.chunks(self._plan(position, every=every)):
                for step in range(steps):
                    part = rows.slice(step * size, size)
                    batch = convert(part.table)
                    yield (
                        {name: part.loose[name] if name in part.loose else batch[name] for name in names}
                        if apart
                        else batch
                    )
        finally:
            reader.close()

    def _plan(self, position: int, *, every: int) -> Iterator[Chunk]:
        """This rank's samples, as many batches at a time as are worth gathering at once; few at first."""
        share, index = self._share, self._index
        total, left = index.total, -(-share.steps(index.total, position) // every)
        row = max(1, int(index.lengths.sum()) // total)
        most = max(1, _GATHERED // (row * share.batch))
        steps = 1
        while left:
            steps = min(steps, most, left)
            yield Chunk(steps, share.samples(total, position, steps=steps, every=every))
            position += steps * every * share.whole
            left -= steps
            steps *= 4


_SAME = {
    "fingerprint": "Objects, sizes or versions have changed, and a position would mean other rows. Give the data that "
    "it was, or begin anew",
    "seed": "Give the seed that it began with",
    "shuffle": "Give shuffle as it began",
}


def _lanes(index: Index, *, ranks: int, memory: int) -> int:
    """Lanes for half of the memory; the other half is for what comes next."""
    block = max(1, int(index.lengths.mean())) if len(index.lengths) else 1
    return ranks * max(1, min(memory // 2 // block, -(-len(index.lengths) // ranks)))
