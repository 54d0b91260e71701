"""A Pipe channel as a stream: batches in the order in which the service sends the data, which is read once.

What a Stream promises holds as far as a pipe lets it: every rank has as many batches, the state is a few numbers alike
on every rank, and an epoch that was interrupted goes on at its row, by reading the next FIFO and passing over so many.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Generator, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from trainkit.data.batches import converter
from trainkit.data.feed import Feed
from trainkit.data.sources import hosts, pipe
from trainkit.data.sources.dealer import Epoch, Place
from trainkit.data.sources.pipe_rows import Rows
from trainkit.data.stream import Choices, made
from trainkit.data.together import gather
from trainkit.errors import DataError

if TYPE_CHECKING:
    from trainkit.data.packing import Packed

VERSION = 1
_READY = 2


class Piped(NamedTuple):
    """What a job says about a Pipe channel, and where this rank is among those that read it."""

    channel: str
    said_by: str
    stem: Path
    content_type: str | None = None
    wrapped: bool = False
    """Whether records come as RecordIO (RecordWrapperType)."""
    gzipped: bool = False
    own_share: bool = False
    """Whether each host is sent other data (ShardedByS3Key on several hosts)."""
    local_rank: int = 0
    local_ranks: int = 1
    host: int = 0
    hosts: int = 1
    used_up: Path | None = None
    """The file that remembers which FIFOs were read, where ranks may be started again."""


class PipeStream:
    """Batches of a Pipe channel, epoch after epoch; `job.stream` makes one. Iterate it as often on every rank.

    `position` counts the rows that all ranks together (of a host, where each has its share) have had in this epoch.
    """

    def __init__(self, channel: pipe.Pipe, rows: Rows, choices: Choices, piped: Piped, *, lanes: int) -> None:
        self._pipe, self._rows, self._choices, self._piped, self._lanes = channel, rows, choices, piped, lanes
        self._window = choices.memory // 2 if choices.shuffle else 0
        self.epoch = 0
        self.position = 0
        self.waited = 0.0
        """Seconds that the loop has waited for batches so far."""
        self._reading: pipe.Reading | None = None
        self._feed: Feed | None = None

    def __len__(self) -> int:
        """TypeError: how much a pipe brings shows at its end."""
        raise TypeError(f"how many batches {self._name} has shows at the end of each epoch: a pipe does not say")

    @property
    def steps_per_epoch(self) -> int:
        """TypeError, as len()."""
        return len(self)

    def __iter__(self) -> Iterator[Any]:
        """The batches that are left of this epoch, from the next FIFO; the next epoch begins when they are through."""
        self.close()
        epoch, choices = self.epoch, self._choices
        wanted = Epoch(choices.batch_size, choices.tail, self.position, self._window, f"{choices.seed} {epoch}")
        if _in_worker():
            raise DataError(f"{self._name} is read once, by one process: iterate it without DataLoader's workers")
        reading = self._reading = self._pipe.read(wanted)
        feed = self._feed = Feed(self._batches(reading, self.position), ahead=_READY)
        try:
            for count, batch in feed:
                self.waited += feed.waited
                self.position += count
                yield batch
        finally:
            reading.stop()
            feed.close()
        if self._feed is feed:
            self.epoch, self.position = epoch + 1, 0

    def set_epoch(self, epoch: int) -> None:
        """Begin that epoch with the next FIFO, whatever is left of this one."""
        self.close()
        self.epoch, self.position = epoch, 0

    def state_dict(self) -> dict[str, Any]:
        """Where the stream is, after the last batch that it gave: a few numbers and words, alike on every rank."""
        return {
            "version": VERSION,
            "pipe": self._piped.channel,
            "shares": self._piped.hosts if self._piped.own_share else 1,
            "seed": self._choices.seed,
            "shuffle": self._choices.shuffle,
            "window": self._window,
            "epoch": self.epoch,
            "position": self.position,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another stream of this channel was: by reading the epoch again, and passing over what it had.

        Raises DataError where what the order depends on is not the same. What the service sends is not seen here.
        """
        own = self.state_dict()
        if set(state) != set(own) or state["version"] != VERSION:
            raise DataError(f"{json.dumps(dict(state), default=str)[:200]} is no state of a Pipe channel's stream")
        for fact, remedy in _SAME.items():
            if state[fact] != own[fact]:
                raise DataError(
                    f"{self._name} cannot go on: its {fact} is {own[fact]!r}, and was {state[fact]!r}. {remedy}"
                )
        self.close()
        self._window, self.epoch, self.position = (int(state[fact]) for fact in ("window", "epoch", "position"))

    def packed(self, column: str, **choices: Any) -> Packed:
        """Refused, with the remedy: packing needs every rank to read all rows, and a pipe's go to one rank each."""
        raise DataError(
            f"{self._name}: packing needs every rank to read all rows, and a pipe's go to one rank each. Have the "
            f"objects read directly: TRAINKIT_CHANNEL_<NAME>=s3://… or =job"
        )

    def close(self) -> None:
        """End what is under way; the service learns of it, and goes on to the next FIFO."""
        if self._reading and self._feed:
            self._reading.stop()
            self._feed.close()
        self._reading = self._feed = None

    @property
    def _name(self) -> str:
        return f"the Pipe channel {self._piped.channel}"

    def _batches(self, reading: pipe.Reading, position: int) -> Generator[tuple[int, Any], None, None]:
        """What the feeding thread does: rows that all lanes had in a step, and this rank's batch of it."""
        convert, transform = converter(self._choices.kind), self._choices.transform
        begun = position
        for one in reading:
            if isinstance(one, pipe.Sample):
                self._rows.learn(one)
            else:
                position += one.rows
                table = self._rows.table(one)
                yield one.rows, convert(table) if transform is None else made(transform(table), convert)
        self._check_end(reading.total, begun=begun, gave=position > begun)

    def _check_end(self, total: int | None, *, begun: int, gave: bool) -> None:
        """An epoch that gives nothing, or less than it gave, is no end but a mistake."""
        if total is None and self._piped.own_share and not (gave or begun):
            raise DataError(f"{self._name}: the share of another host fills no step. Choose a smaller batch_size")
        if total is None or gave:
            return
        whole = self._choices.batch_size * self._lanes
        if total < begun:
            raise DataError(
                f"{self._name} brought {total} rows, and {begun} were had before it was interrupted: it is not the "
                f"data that it was, or its writer was cut off. Give the data that it was, or begin the epoch anew"
            )
        if not begun:
            raise DataError(
                f"{self._name} brought {total} rows, and a step of {self._lanes} ranks takes {whole}. Choose a smaller "
                f"batch_size, or tail='pad'"
            )


def open_pipe(piped: Piped, choices: Choices, *, rank: int, ranks: int) -> PipeStream:
    """Raises ConfigError for a channel that does not say what it brings, DataError for what a pipe cannot do."""
    rows = Rows.of(
        str(piped.stem), channel=piped.channel, said_by=piped.said_by, content_type=piped.content_type,
        wrapped=piped.wrapped, columns=choices.columns,
    )  # fmt: skip
    if choices.lanes is not None:
        raise ValueError("lanes are blocks that are mixed, and a pipe has none: shuffle=True mixes half of memory=")
    if piped.hosts > 1:
        _agree(piped, choices, ranks=ranks)
    place = Place(piped.local_rank, piped.local_ranks, 0 if piped.own_share else rank - piped.local_rank,
                  piped.local_ranks if piped.own_share else ranks)  # fmt: skip
    together = partial(
        hosts.together, host=piped.host, hosts=piped.hosts, alike=not piped.own_share, channel=piped.channel
    )
    channel = pipe.Pipe(
        piped.stem, cut=rows.cut, place=place, gzipped=piped.gzipped, sample=rows.sample, used_up=piped.used_up,
        hosts=together if piped.hosts > 1 else lambda name: hosts.Alone(),
    )  # fmt: skip
    return PipeStream(channel, rows, choices, piped, lanes=place.lanes)


def _agree(piped: Piped, choices: Choices, *, ranks: int) -> None:
    """What must be alike on all hosts, or some would have steps that others have not."""
    name = f"the Pipe channel {piped.channel}"
    if piped.own_share and choices.tail != "drop":
        raise DataError(
            f"{name} is ShardedByS3Key: hosts have different numbers of rows, and which has most shows at the end. "
            f"Use tail='drop', which ends with the host that has fewest, or FullyReplicated"
        )
    why = f"{name} goes to several hosts, and they must agree on the number of steps"
    said = gather((piped.local_ranks, choices.batch_size), ranks=ranks, why=why)
    if len({batch for _, batch in said}) > 1:
        raise DataError(f"{name}: ranks ask for different batch sizes, {sorted({batch for _, batch in said})}")
    if piped.own_share and len({count for count, _ in said}) > 1:
        raise DataError(f"{name}: hosts run different numbers of ranks, and ShardedByS3Key needs them alike. Set procs")


def _in_worker() -> bool:
    data = sys.modules.get("torch.utils.data")
    return data is not None and data.get_worker_info() is not None


_SAME = {
    "pipe": "Give the channel that it was",
    "shares": "ShardedByS3Key goes on with the same hosts only: give as many, or begin the epoch anew",
    "seed": "Give the seed that it began with",
    "shuffle": "Give shuffle as it began",
}
