"""The thread that reads a host's FIFO for all its ranks, and deals them one step after the other.

    records ─ sample ─ mixed ─ skip ─▶ a step: `batch` records for each lane ─▶ do all hosts have it? ─▶ to each rank

A rank is given whole steps only: nobody knows how many records are still to come, and a rank that had begun a step
which another one cannot fill would wait for it in a collective. What the last step is, the tail says.

On the socket: a head (kind, count, bytes), and what it announces.
"""

from __future__ import annotations

import gzip
import io
import os
import select
import socket
import struct
import threading
import time
import zlib
from array import array
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain, cycle, islice
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

from trainkit.contract.failing import failing
from trainkit.data.share import Tail
from trainkit.data.sources.fifo import TICK, Cut, Fifo, mixed
from trainkit.data.sources.hosts import Said, Steps
from trainkit.errors import DataError, StorageError, TrainkitError
from trainkit.storage.store import failure, told

HEAD = struct.Struct("<BQQ")
RANK = struct.Struct("<I")
SAMPLE, STEP, END, LEFT, WRONG = range(5)


@dataclass(frozen=True, slots=True)
class Place:
    """Which of this host's ranks this is, and which lanes they are: `first`, `first` + 1, … of `lanes`."""

    local_rank: int = 0
    local_ranks: int = 1
    first: int = 0
    lanes: int = 1


class Epoch(NamedTuple):
    """What is wanted of one epoch: the same on all ranks."""

    batch: int
    tail: Tail = "drop"
    skip: int = 0
    """Records of all lanes that were read before."""
    window: int = 0
    """Bytes among which records are mixed; 0 for the order in which they come."""
    key: str = ""
    """What the mixing depends on."""


@dataclass(frozen=True, slots=True)
class Source:
    """A FIFO, and how its bytes are read. `came`: called once somebody writes to it."""

    fifo: Path
    cut: Cut
    gzipped: bool
    sample: int
    """Bytes of the first records that every rank is shown; 0 where nobody needs to see them."""
    came: Callable[[], None]


class _Ended(Exception):
    """Nobody wants more of this epoch."""


class _Gone(Exception):
    """This process ends without having wished for it."""


class Dealer:
    """Reads the FIFO in a thread of this process, and deals to the host's ranks."""

    def __init__(
        self, source: Source, epoch: Epoch, place: Place, steps: Callable[[], Steps], *, address: str, wait: float
    ) -> None:
        self._source, self._epoch, self._place = source, epoch, place
        self._steps, self._wait = steps, wait
        self._left = threading.Event()
        self._listener = socket.socket(socket.AF_UNIX)
        try:
            with told(str(source.fifo), "read it"):
                self._listener.bind(address)
        except StorageError:
            self._listener.close()
            raise
        self._listener.listen(place.local_ranks)
        # No daemon: a process that is done may still hold what other ranks have not fetched.
        threading.Thread(target=self._run, name="pipe-dealer").start()

    def end(self) -> None:
        """Read no further; what was dealt still reaches its rank."""
        self._left.set()

    def _look(self) -> None:
        self._look_at_the_process()
        if self._left.is_set():
            raise _Ended

    def _look_at_the_process(self) -> None:
        """A process that failed waits for this thread; and the thread, for ranks that wait for the process.

        Its loop is often closed by then, as that of a process which is done.
        """
        if not threading.main_thread().is_alive() and (failing() or not self._left.is_set()):
            raise _Gone

    def _run(self) -> None:
        with ExitStack() as leaving:
            lines: dict[int, socket.socket] = {}
            leaving.callback(lambda: _close(lines))
            try:
                with self._listener:
                    ending = self._guarded(lambda: self._gather(lines)) or self._dealt(list(lines.values()))
                for line in lines.values():
                    try:
                        self._send(line, *ending)
                    except (BrokenPipeError, ConnectionResetError):
                        pass  # that is the one who left
            except _Gone:
                pass  # the others find the line closed, and no end

    def _guarded(self, doing: Callable[[], None]) -> list[bytes]:
        """What to send at the end where it comes to an early one."""
        try:
            doing()
        except (_Ended, BrokenPipeError, ConnectionResetError):
            return [HEAD.pack(LEFT, 0, 0)]  # a rank left, or a host has no more: that ends the epoch
        except TrainkitError as error:
            text, wrong_data = str(error).encode(), isinstance(error, DataError)
        except (
            OSError,
            EOFError,
            zlib.error,
            ValueError,
            RuntimeError,
        ) as error:  # torch's network errors are the last
            remedy = "Look at the channel's data, and at who writes it; then start again"
            said = failure(str(self._source.fifo), "read it", str(error).rstrip("."), remedy)
            text, wrong_data = str(said).encode(), False
        else:
            return []
        return [HEAD.pack(WRONG, wrong_data, len(text)), text]

    def _gather(self, lines: dict[int, socket.socket]) -> None:
        """One connection for each rank of the host, in their order."""
        came: dict[int, socket.socket] = {}
        deadline = time.monotonic() + self._wait
        while len(came) < self._place.local_ranks:
            while not select.select([self._listener], [], [], TICK)[0]:
                self._look()
                if time.monotonic() > deadline:
                    missing = sorted(set(range(self._place.local_ranks)) - set(came))
                    lines.update(came)
                    raise failure(
                        str(self._source.fifo), "deal it", f"of the host's ranks, {missing} did not ask for it in time",
                        "Iterate the stream on all ranks",
                    )  # fmt: skip
            line, _ = self._listener.accept()
            _, user, _ = struct.unpack("3i", line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            if user != os.getuid():
                line.close()  # anybody on this machine may connect
                continue
            greeting = line.recv(RANK.size, socket.MSG_WAITALL)
            line.settimeout(TICK)
            if len(greeting) == RANK.size:  # else it died at once, and whoever started it knows
                came[RANK.unpack(greeting)[0]] = line
        lines.update((rank, came[rank]) for rank in sorted(came))

    def _dealt(self, lines: list[socket.socket]) -> list[bytes]:
        """Deal the epoch. Returns what to send at its end, of which the other hosts know then."""
        counted = [0, 0]
        steps: list[Steps] = []

        def deal() -> None:
            steps.append(self._steps())
            self._deal(lines, steps[0], counted)
            steps[0].ended(Said(counted[0], over=True, total=counted[1]), look=self._look)

        ending = self._guarded(deal)
        if not ending:
            return [HEAD.pack(END, counted[1], 0)]
        if steps:
            _, of_data, _ = HEAD.unpack(ending[0])
            problem = b"".join(ending[1:]).decode()
            said = Said(counted[0], over=True, problem=problem, of_data=bool(of_data))
            self._guarded(lambda: steps[0].ended(said, look=self._look))
        return ending

    def _deal(self, lines: list[socket.socket], steps: Steps, counted: list[int]) -> None:
        """Steps that were given, and records that were read, go into `counted`."""
        batch, tail, skip, *_ = self._epoch
        whole = batch * self._place.lanes
        with ExitStack() as leaving:
            records = self._records(lines, leaving)
            head: list[bytes] = []
            if tail == "pad":
                head = list(islice(records, whole))
                records = chain(head, records)
            counted[1] = sum(1 for _ in islice(records, skip))
            while True:
                mine, count = self._step(records)
                counted[1] += count
                if count < whole:
                    if not count or tail == "drop":
                        return
                    self._fill(mine, head, count, whole)
                if not steps.all_have(counted[0] + 1, look=self._look):
                    raise _Ended
                for line, records_of_one in zip(lines, mine, strict=True):
                    self._send(line, *_step(records_of_one, count))
                counted[0] += 1
                if count < whole:
                    return

    def _step(self, records: Iterator[bytes]) -> tuple[list[list[bytes]], int]:
        """Records of a step for each of this host's lanes, and how many there are for all lanes together."""
        place, count = self._place, 0
        mine: list[list[bytes]] = [[] for _ in range(place.local_ranks)]
        for _ in range(self._epoch.batch):
            turn = list(islice(records, place.lanes))
            for one, record in zip(mine, turn[place.first : place.first + place.local_ranks], strict=False):
                one.append(record)
            count += len(turn)
            if len(turn) < place.lanes:
                break
        return mine, count

    def _fill(self, mine: list[list[bytes]], head: list[bytes], count: int, whole: int) -> None:
        """With the epoch's first records, where the tail is to be padded."""
        for number, record in zip(range(count, whole), cycle(head), strict=False):
            lane = number % self._place.lanes - self._place.first
            if 0 <= lane < len(mine):
                mine[lane].append(record)

    def _records(self, lines: list[socket.socket], leaving: ExitStack) -> Iterator[bytes]:
        source, epoch = self._source, self._epoch
        fifo = leaving.enter_context(Fifo(source.fifo, look=self._look, came=source.came, wait=self._wait))
        stream = leaving.enter_context(io.BufferedReader(fifo, 1 << 20))
        # gzip's own file goes on where one object ends and the next begins.
        records = source.cut(cast(BinaryIO, gzip.GzipFile(fileobj=stream) if source.gzipped else stream))
        if source.sample:
            first = list(_up_to(records, source.sample))
            for line in lines:
                text = b"".join(first)
                self._send(line, HEAD.pack(SAMPLE, len(first), len(text)), text)
            records = chain(first, records)
        return mixed(records, window=epoch.window, key=epoch.key) if epoch.window else iter(records)

    def _send(self, line: socket.socket, *pieces: bytes) -> None:
        """All of it, however long the rank is at its step."""
        for piece in pieces:
            view = memoryview(piece)
            while view:
                try:
                    # Ranks have SIGPIPE as a shell leaves it: it would end them.
                    view = view[line.send(view, socket.MSG_NOSIGNAL) :]
                except TimeoutError:
                    self._look_at_the_process()


def _close(lines: dict[int, socket.socket]) -> None:
    for line in lines.values():
        line.close()


def _step(records: list[bytes], count: int) -> list[bytes]:
    """A rank's part of a step of `count` records."""
    lengths = array("Q", map(len, records)).tobytes()
    size = sum(map(len, records))
    return [HEAD.pack(STEP, count, 8 + len(lengths) + size) + struct.pack("<Q", len(records)) + lengths, *records]


def _up_to(records: Iterator[bytes], size: int) -> Iterator[bytes]:
    for record in records:
        yield record
        size -= len(record)
        if size <= 0:
            return
