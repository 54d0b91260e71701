"""The stream that a training loop iterates: batches in an order that survives anything."""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from trainkit.data.batches import KINDS, Kind, converter
from trainkit.data.feed import Feed
from trainkit.data.index import Index
from trainkit.data.items import Get
from trainkit.data.order import Order
from trainkit.data.reader import Chunk, Reader
from trainkit.data.share import TAILS, Share, Tail
from trainkit.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

    from trainkit.data.packing import Packed, PackedTail
    from trainkit.data.processes import Processes

VERSION = 1
_GATHERED = 8 << 20  # bytes of the rows that are put in order at once
_READY = 2  # batches ready beside the one that trains; the rest of the work lies in blocks
_THREADS = 16  # with 20 ms to an answer and blocks of 1 MiB, 800 MB/s at most
_AHEAD = 5 / 8
"""Of the memory, what blocks may take, those that are open and those read ahead; the rest is for work on them."""


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
    processes: int = 0

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 1), ("lanes", 1), ("memory", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} is {value}: must be {least} or more")
        if self.processes < 0:
            raise ValueError(f"processes is {self.processes}: must be 0 (threads) or more")
        if self.processes and self.transform is None:
            raise ValueError(f"processes is {self.processes}, and there is no transform= for them to run")
        for name, allowed in (("tail", TAILS), ("kind", KINDS)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}: must be one of {', '.join(allowed)}")


class Fetches(Protocol):
    """What a stream needs of a fetcher."""

    @property
    def get(self) -> Get: ...
    def close(self) -> None: ...


class All(NamedTuple):
    """What all hosts have, where each has its own share of the data: rows of each, and their fingerprints' own."""

    totals: tuple[int, ...]
    fingerprint: str

    def span(self, tail: Tail) -> int:
        """Samples that an epoch counts on each host: all are to have as many steps."""
        return max(self.totals) if tail == "pad" else min(self.totals)


class _Lent:
    """A stream's fetcher for another stream, which keeps the first one from closing it, and closes nothing."""

    def __init__(self, owner: Stream) -> None:
        self._owner = owner
        self.get = owner._fetcher.get

    def close(self) -> None:
        pass


class Stream:
    """Batches of a data set, epoch after epoch. Iterate it once for each epoch; `job.stream` makes one.

    `position` counts the samples that all ranks together have had in this epoch: one integer, the same on every rank.
    """

    def __init__(
        self, index: Index, fetcher: Fetches, choices: Choices, *, rank: int, ranks: int, all: All | None = None
    ) -> None:
        """`rank` of the `ranks` that share the index. `all`: where others have another one, what they all have."""
        self._index = index
        self._all = all or All((index.total,), index.fingerprint)
        self._span = self._all.span(choices.tail)
        self._fetcher = fetcher
        weakref.finalize(self, fetcher.close)  # connections live as long as the stream, over all its epochs
        self._choices = choices
        self._share = Share(rank, ranks, choices.batch_size, choices.tail, strided=choices.shuffle)
        self._lanes = choices.lanes or lanes(index, ranks=ranks, memory=choices.memory)
        self.epoch = 0
        self.position = 0
        self.waited = 0.0
        """Seconds that the loop has waited for batches so far."""
        self._feed: Feed | None = None
        self._processes: Processes | None = None
        if not self._share.steps(self._span, 0):
            raise DataError(
                f"{index.listing.root} holds {self._span} rows, and a step of {ranks} ranks takes "
                f"{self._share.whole}. Choose a smaller batch_size, or tail='pad'"
            )

    def __len__(self) -> int:
        """Batches that are left of this epoch, alike on every rank."""
        return self._share.steps(self._span, self.position)

    @property
    def steps_per_epoch(self) -> int:
        """Batches of a whole epoch, alike on every rank."""
        return self._share.steps(self._span, 0)

    def __iter__(self) -> Iterator[Any]:
        """The batches that are left of this epoch; the next one begins when they are through."""
        return self._some(1, skip=0)

    def _some(self, every: int, *, skip: int) -> Iterator[Any]:
        """One batch in `every` that are left of this epoch, after `skip` of them. The position is behind that one."""
        self.close()
        epoch, total, share = self.epoch, self._span, self._share
        self._start_processes()  # here, where what cannot be sent to them is heard of
        begin = min(total, self.position + skip * share.whole)
        feed = self._feed = Feed(self._batches(epoch, begin, every=every), ahead=_READY)
        try:
            for batch in feed:
                self.waited += feed.waited
                self.position = share.after(total, begin)
                begin = min(total, begin + every * share.whole)
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
            "fingerprint": self._all.fingerprint,
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
        if not len(self):  # what is left fills no batch of this many ranks, and is dropped as any tail
            self.epoch, self.position = self.epoch + 1, 0

    def packed(
        self,
        column: str,
        *,
        length: int,
        batch_size: int,
        end: int | None = None,
        tail: PackedTail = "drop",
        pad: int = 0,
    ) -> Packed:
        """The token lists in `column` as sequences of one length; each rank gets `batch_size` of them a step.

        `length`: tokens of a sequence. `end`: a token to put behind each row's. `tail`: "drop" leaves out the tokens of
        an epoch that do not fill a step of all ranks, "pad" fills it up with `pad`. Every rank reads all rows: this
        stream's batch_size says how many are read, and given to transform, at once. See docs/data.md.

        Raises DataError where there is no such column; ValueError for choices that make no sense.
        """
        choices, share = self._choices, self._share
        if len(self._all.totals) > 1:
            raise DataError(
                f"{self._index.listing.root}: each host has other files (ShardedByS3Key), and packing needs every rank "
                f"to read all rows. Use FullyReplicated, or have the objects read directly: s3://…"
            )
        if choices.transform is None and column not in self._index.schema.names:
            names = ", ".join(self._index.schema.names)
            raise DataError(f"{self._index.listing.root} has no column {column!r}; it has {names}")
        columns = choices.columns if choices.transform else (column,)
        alone = replace(choices, kind="arrow", tail="exact", columns=columns)
        return self._packs()(
            Stream(self._index, _Lent(self), alone, rank=0, ranks=1), column, rank=share.rank, ranks=share.ranks,
            length=length, batch_size=batch_size, end=end, tail=tail, pad=pad, kind=choices.kind,
        )  # fmt: skip

    def close(self) -> None:
        """End what is under way. The stream may be iterated again, from where it is."""
        if self._feed:
            self._feed.close()
            self._feed = None

    def _packs(self) -> type[Packed]:
        from trainkit.data.packing import Packed

        return Packed

    def _start_processes(self) -> None:
        """They serve all epochs: modules that a transform imports take seconds."""
        transform, count = self._choices.transform, self._choices.processes
        if transform is None or not count or (self._processes and self._processes.alive):
            return
        from trainkit.data.processes import Processes

        self._processes = Processes(transform, count)
        weakref.finalize(self, self._processes.close)

    def _batches(self, epoch: int, position: int, *, every: int) -> Generator[Any, None, None]:
        """What the feeding thread does, from the position on."""
        choices, index = self._choices, self._index
        order = Order.of(index.rows, seed=choices.seed, epoch=epoch, lanes=self._lanes, shuffle=choices.shuffle)
        columns = list(choices.columns) if choices.columns else None
        budget = int(choices.memory * _AHEAD)
        reader = Reader(index, order, self._fetcher.get, columns=columns, budget=budget, threads=_THREADS)
        convert, chunks = converter(choices.kind), reader.chunks(self._plan(position, every=every))
        try:
            if self._processes:
                import pyarrow as pa

                together = ((len(tables), pa.concat_tables(tables).combine_chunks()) for tables in chunks)
                with closing(self._processes.through(together, size=choices.batch_size)) as batches:
                    for batch in batches:
                        yield made(batch, convert)
                return
            for table in chain.from_iterable(chunks):
                if choices.transform is None:
                    yield convert(table)
                else:
                    yield made(choices.transform(table.combine_chunks()), convert)
        finally:
            reader.close()

    def _plan(self, position: int, *, every: int) -> Iterator[Chunk]:
        """This rank's samples, as many batches at a time as are worth gathering at once; few at first."""
        share, index = self._share, self._index
        total, left = index.total, -(-share.steps(self._span, position) // every)
        row = max(1, int(index.lengths.sum()) // total)
        most = max(1, _GATHERED // (row * share.batch))
        steps = 1
        while left:
            steps = min(steps, most, left)
            yield Chunk(steps, share.batch, share.samples(total, position, steps=steps, every=every))
            position += steps * every * share.whole
            left -= steps
            steps *= 4


def made(batch: Any, convert: Callable[[pa.Table], Any]) -> Any:
    """The batch that a transform made: rows, however many, or anything else."""
    import pyarrow as pa

    if batch is None:
        raise DataError(
            "transform returned None, which is no batch. Return what the step takes; to leave rows out, return the "
            "table without them, with no rows at all if need be: table.filter(…)"
        )
    return convert(batch) if isinstance(batch, pa.Table) else batch


_SAME = {
    "fingerprint": "Objects, sizes or versions have changed, and a position would mean other rows. Give the data that "
    "it was, or begin anew",
    "seed": "Give the seed that it began with",
    "shuffle": "Give shuffle as it began",
}


def lanes(index: Index, *, ranks: int, memory: int) -> int:
    """Lanes for half of the memory of each rank; the other half is for what comes next."""
    block = max(1, int(index.lengths.mean())) if len(index.lengths) else 1
    # Never more than there are blocks, or what is left is no multiple of the ranks and each meets the lanes of all.
    return ranks * max(1, min(memory // 2 // block, len(index.lengths) // ranks))
