"""Pipe channels: a FIFO for each epoch, read once by one process of the host, which deals records to its ranks.

    <channel>_<n> ─▶ rank 0's dealer ─ records, step by step ─▶ socket ─▶ rank 0, rank 1, …
                     (thread)                                   (abstract: leaves nothing behind, whatever dies)

Record n of the epoch belongs to lane n mod lanes, a rank is a lane. Where every host is sent everything
(FullyReplicated), the lanes are the ranks of the world, and a dealer passes over those of other hosts. Where each host
is sent its share (ShardedByS3Key), they are the host's own ranks.

The service counts FIFOs by how often one was opened, and not by what a training calls its epoch: one that is closed
early, or whose reader died, is gone, and the next one has all data from its beginning. A rank that closes early ends
the epoch for all of its host: the others get what was dealt to them, and the end.
"""

from __future__ import annotations

import hashlib
import io
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import NamedTuple, cast

from trainkit.data.sources.dealer import END, HEAD, LEFT, RANK, SAMPLE, STEP, Dealer, Epoch, Place, Source
from trainkit.data.sources.fifo import TICK, Cut
from trainkit.data.sources.hosts import Alone, Steps
from trainkit.errors import DataError, StorageError
from trainkit.storage.store import failure

WAIT = 600.0
"""Seconds for a FIFO to appear and to be written to, and for the host's other ranks to come."""
_GATHERED = 128 << 10
_turns: dict[Path, int] = {}
"""How often this process began to read a channel: the ranks of a host count alike, and so find each other."""
_used: dict[Path, int] = {}
"""The FIFOs that this process has read of each."""


class Records(NamedTuple):
    """This rank's part of a step in which all lanes together had `rows` records: one behind the other."""

    rows: int
    lengths: memoryview
    """8 bytes each, little-endian."""
    data: memoryview


class Sample(NamedTuple):
    """The first records of the epoch, alike on all ranks of the host."""

    rows: int
    data: memoryview


class Pipe:
    """One Pipe channel, for one rank. `stem` is the FIFO's path without `_<n>`.

    `used_up`: a file that remembers the FIFOs that were used, for ranks that are started again in the same container.
    `hosts`: gives, for the name of an epoch, who agrees on its steps.
    """

    def __init__(
        self,
        stem: Path,
        *,
        cut: Cut,
        place: Place,
        gzipped: bool = False,
        sample: int = 0,
        used_up: Path | None = None,
        hosts: Callable[[str], Steps] = lambda name: Alone(),
        wait: float = WAIT,
    ) -> None:
        self._stem, self._cut, self._place, self._gzipped, self._sample = stem, cut, place, gzipped, sample
        self._used_up, self._hosts, self._wait = used_up, hosts, wait

    def read(self, epoch: Epoch) -> Reading:
        """The next FIFO. All ranks of the host ask for the same. Stop it, or read it to its end."""
        turn = _turns.get(self._stem, 0)
        _turns[self._stem] = turn + 1
        address, dealer = self._address(turn), None
        if self._place.local_rank == 0:
            number = self._next()
            fifo = self._stem.with_name(f"{self._stem.name}_{number}")
            source = Source(fifo, self._cut, self._gzipped, self._sample, lambda: self._came(number))
            hosts = self._hosts
            dealer = Dealer(source, epoch, self._place, lambda: hosts(str(turn)), address=address, wait=self._wait)
        return Reading(self._stem, address, self._place.local_rank, dealer, wait=self._wait)

    def _next(self) -> int:
        try:
            kept = int(self._used_up.read_text()) if self._used_up else 0
        except (OSError, ValueError):
            kept = 0
        return max(kept, _used.get(self._stem, 0))

    def _came(self, number: int) -> None:
        """Somebody writes to this FIFO: nobody will write to it a second time."""
        _used[self._stem] = number + 1
        if self._used_up:
            self._used_up.write_text(str(number + 1))

    def _address(self, turn: int) -> str:
        """Not to be met by others: local hosts share a network, where abstract sockets live, and no directories."""
        facts = self._stem.parent.stat()
        known = f"{facts.st_dev} {facts.st_ino} {os.getuid()} {self._stem.name} {turn}"
        return "\0trainkit-pipe-" + hashlib.blake2b(known.encode(), digest_size=16).hexdigest()


class Reading:
    """One rank's part of one epoch. Iterate it in any thread; `stop` it from any other."""

    def __init__(self, stem: Path, address: str, local_rank: int, dealer: Dealer | None, *, wait: float) -> None:
        self._stem, self._address, self._rank, self._dealer, self._wait = stem, address, local_rank, dealer, wait
        self._lock = threading.Lock()
        self._connection: socket.socket | None = None
        self._stopped = False
        self.total: int | None = None
        """Records of all lanes, those that were passed over too; known at the end, unless somebody left before it."""

    def __iter__(self) -> Iterator[Sample | Records]:
        """Raises StorageError where the FIFO does not come, or is not understood, or its reader has ended; DataError
        where hosts were to have the same data, and have not."""
        with ExitStack() as leaving:
            leaving.callback(self.stop)
            connection = leaving.enter_context(self._connect())
            connection.sendall(RANK.pack(self._rank), socket.MSG_NOSIGNAL)
            stream = leaving.enter_context(closing(cast(io.BufferedIOBase, connection.makefile("rb", _GATHERED))))
            while True:
                kind, count, size = HEAD.unpack(self._exactly(stream, HEAD.size))
                body = memoryview(self._exactly(stream, size))
                if kind == SAMPLE:
                    yield Sample(count, body)
                elif kind == STEP:
                    (mine,) = struct.unpack_from("<Q", body)
                    yield Records(count, body[8 : 8 + 8 * mine], body[8 + 8 * mine :])
                elif kind in (END, LEFT):
                    self.total = count if kind == END else None
                    return
                else:
                    raise (DataError if count else StorageError)(bytes(body).decode())

    def stop(self) -> None:
        """Nothing more is wanted; who reads is woken."""
        with self._lock:
            self._stopped = True
            if self._dealer:
                self._dealer.end()
            if self._connection:
                try:
                    self._connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass  # it is closed already

    def _connect(self) -> socket.socket:
        deadline = time.monotonic() + self._wait
        while True:
            connection = socket.socket(socket.AF_UNIX)
            try:
                connection.connect(self._address)
            except OSError as error:
                connection.close()
                if self._stopped or time.monotonic() > deadline:
                    problem = f"the host's first rank did not within {self._wait:g} s"
                    remedy = "Iterate the same channels equally often on all ranks of a host"
                    raise failure(str(self._stem), "read it", problem, remedy) from error
                time.sleep(TICK / 4)
                continue
            with self._lock:
                self._connection = connection
            if self._stopped:
                self.stop()
            return connection

    def _exactly(self, stream: io.BufferedIOBase, size: int) -> bytes:
        data = stream.read(size)
        if len(data) < size:
            problem, remedy = "the rank that reads it for this host ended", "Look at that rank's failure"
            raise failure(str(self._stem), "read it", problem, remedy)
        return data
