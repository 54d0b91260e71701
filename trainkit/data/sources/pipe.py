"""Pipe channels: a FIFO for each epoch, read once by one process of the host, which deals records to its ranks.

    <channel>_<epoch> ─▶ rank 0's dealer ─ records, in turn ─▶ socket ─▶ rank 0, rank 1, …
                         (thread)                              (abstract: leaves nothing behind, whatever dies)

Record n of the epoch belongs to lane n mod lanes, a rank is a lane. Where every host is sent everything
(FullyReplicated), the lanes are the ranks of the world, and a dealer passes over those of other hosts. Where each host
is sent its share (ShardedByS3Key), they are the host's own ranks.

On the socket: a length (4 bytes, little-endian), the record. Two lengths that no record has end it: the epoch is over,
or something is wrong, and its text follows. A rank that closes early ends the epoch for all: the others get what was
dealt to them, and the end.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import select
import socket
import struct
import threading
import time
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from trainkit.errors import StorageError
from trainkit.storage.store import failure, told

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

WAIT = 600.0
"""Seconds for a FIFO to appear and to be written to, and for the host's other ranks to come."""
Cut = Callable[[BinaryIO], Iterator[bytes]]
"""Where one record ends and the next begins, in the bytes of all objects one after the other."""
_LENGTH = struct.Struct("<I")
_END, _WRONG = 0xFFFFFFFF, 0xFFFFFFFE
_MAGIC = 0xCED7230A
_GATHERED = 128 << 10  # bytes for one rank that go out in one call
_TICK = 0.1


@dataclass(frozen=True, slots=True)
class Place:
    """Which of this host's ranks this is, and which lanes they are: `first`, `first` + 1, … of `lanes`."""

    local_rank: int = 0
    local_ranks: int = 1
    first: int = 0
    lanes: int = 1


class Pipe:
    """One Pipe channel, for one rank. `stem` is the FIFO's path without `_<epoch>`."""

    def __init__(self, stem: Path, *, cut: Cut, place: Place, gzipped: bool = False, wait: float = WAIT) -> None:
        self._stem, self._cut, self._place, self._gzipped, self._wait = stem, cut, place, gzipped, wait

    def records(self, epoch: int, *, skip: int = 0) -> Iterator[bytes]:
        """This rank's records of the epoch, but for the first `skip` of all lanes. Closing it early is fine.

        All ranks of the host ask for the same. Raises StorageError where the FIFO does not come, or is not understood.
        """
        address = self._address(epoch)
        with ExitStack() as leaving:
            if self._place.local_rank == 0:
                dealer = _Dealer(self._place, address, wait=self._wait)
                leaving.callback(dealer.end)
                dealer.begin(lambda: self._cut_records(epoch, dealer), skip=skip)
            connection = leaving.enter_context(closing(self._connect(address)))
            connection.sendall(_LENGTH.pack(self._place.local_rank))
            stream = leaving.enter_context(closing(cast(io.BufferedIOBase, connection.makefile("rb", _GATHERED))))
            yield from _received(stream, str(self.fifo(epoch)))

    def fifo(self, epoch: int) -> Path:
        return self._stem.with_name(f"{self._stem.name}_{epoch}")

    def _cut_records(self, epoch: int, dealer: _Dealer) -> Generator[bytes, None, None]:
        path = self.fifo(epoch)
        with told(str(path), "read it"), io.BufferedReader(_Fifo(path, dealer, wait=self._wait), 1 << 20) as stream:
            # gzip's own file goes on where one object ends and the next begins.
            yield from self._cut(cast(BinaryIO, gzip.GzipFile(fileobj=stream) if self._gzipped else stream))

    def _address(self, epoch: int) -> str:
        """Not to be met by others: local hosts share a network, where abstract sockets live, and no directories."""
        facts = self._stem.parent.stat()
        known = f"{facts.st_dev} {facts.st_ino} {os.getuid()} {self._stem.name} {epoch}"
        return "\0trainkit-pipe-" + hashlib.blake2b(known.encode(), digest_size=16).hexdigest()

    def _connect(self, address: str) -> socket.socket:
        deadline = time.monotonic() + self._wait
        while True:
            connection = socket.socket(socket.AF_UNIX)
            try:
                connection.connect(address)
                return connection
            except OSError as error:
                connection.close()
                if time.monotonic() > deadline:
                    remedy = "Ask for the same channel and epoch on all ranks of a host"
                    raise failure(
                        str(self._stem), "read it", f"the host's first rank did not within {self._wait:g} s", remedy
                    ) from error
                time.sleep(_TICK / 4)


class _Ended(Exception):
    """Nobody wants more of this epoch."""


class _Dealer:
    """Reads the FIFO in a thread of this process, and deals to the host's ranks."""

    def __init__(self, place: Place, address: str, *, wait: float) -> None:
        self._place, self._wait = place, wait
        self.ended = threading.Event()
        self._gathered: list[tuple[socket.socket, bytearray]] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(address)
        self._listener.listen(place.local_ranks)

    def begin(self, records: Callable[[], Generator[bytes, None, None]], *, skip: int) -> None:
        # No daemon: a process that is done may still hold what other ranks have not fetched.
        threading.Thread(target=self._run, args=(records, skip), name="pipe-dealer").start()

    def end(self) -> None:
        """Read no further; what was dealt still reaches its rank."""
        self.ended.set()

    def _run(self, records: Callable[[], Generator[bytes, None, None]], skip: int) -> None:
        with ExitStack() as leaving:
            leaving.enter_context(self._listener)
            try:
                lines = [leaving.enter_context(line) for line in self._gather()]
            except _Ended:
                return
            text = b""
            try:
                with closing(records()) as dealt:
                    self._deal(dealt, lines, skip)
            except (_Ended, BrokenPipeError, ConnectionResetError):
                pass  # a rank closed early: that ends the epoch
            except (StorageError, OSError, EOFError, zlib.error, ValueError) as error:
                text = str(error).encode()
            for line in lines:
                try:
                    line.sendall(_LENGTH.pack(_WRONG) + _LENGTH.pack(len(text)) + text if text else _LENGTH.pack(_END))
                except OSError:
                    pass  # that is the one who closed

    def _gather(self) -> list[socket.socket]:
        """One connection for each rank of the host, in their order."""
        lines: dict[int, socket.socket] = {}
        while len(lines) < self._place.local_ranks:
            self._await(self._listener)
            line, _ = self._listener.accept()
            _, user, _ = struct.unpack("3i", line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            if user != os.getuid():
                line.close()  # anybody on this machine may connect
                continue
            (rank,) = _LENGTH.unpack(line.recv(_LENGTH.size, socket.MSG_WAITALL))
            lines[rank] = line
        return [lines[rank] for rank in sorted(lines)]

    def _await(self, listener: socket.socket) -> None:
        while not select.select([listener], [], [], _TICK)[0]:
            if self.ended.is_set():
                raise _Ended

    def _deal(self, records: Iterator[bytes], lines: list[socket.socket], skip: int) -> None:
        self._gathered = [(line, bytearray()) for line in lines]
        for number, record in enumerate(records):
            lane = number % self._place.lanes - self._place.first
            if number < skip or not 0 <= lane < len(lines):
                continue
            line, waiting = self._gathered[lane]
            waiting += _LENGTH.pack(len(record))
            waiting += record
            if len(waiting) >= _GATHERED:
                line.sendall(waiting)
                waiting.clear()
        self.flush()

    def flush(self) -> None:
        """Hand over what was gathered: nothing more is there at the moment."""
        for line, waiting in self._gathered:
            try:
                line.sendall(waiting)
            except (BrokenPipeError, ConnectionResetError):
                raise _Ended from None  # not to be taken for the FIFO's own trouble
            waiting.clear()


class _Fifo(io.RawIOBase):
    """A FIFO that appears some time, is written to some time, and may be left before its end."""

    def __init__(self, path: Path, dealer: _Dealer, *, wait: float) -> None:
        self._path, self._dealer = path, dealer
        self._deadline = time.monotonic() + wait
        self._number = -1
        while self._number < 0:
            try:
                self._number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            except FileNotFoundError:
                self._tick("it did not appear")
        self._poll = select.poll()
        self._poll.register(self._number, select.POLLIN)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        if not self._poll.poll(0):
            self._dealer.flush()
        # Before its first writer a FIFO has neither bytes nor an end; after its last one, it has an end.
        while not self._poll.poll(_TICK * 1000):
            self._tick("nothing was written to it", pause=0)
        self._deadline = float("inf")  # who writes may take a break
        return os.readv(self._number, [buffer])

    def close(self) -> None:
        if not self.closed and self._number >= 0:
            os.close(self._number)
        super().close()

    def _tick(self, problem: str, *, pause: float = _TICK) -> None:
        if self._dealer.ended.wait(pause):
            raise _Ended
        if time.monotonic() > self._deadline:
            raise failure(
                str(self._path), "read it", f"{problem} in time", "Is it a Pipe channel, with a further epoch?"
            )


def _received(stream: io.BufferedIOBase, name: str) -> Iterator[bytes]:
    while True:
        head = stream.read(_LENGTH.size)
        if len(head) < _LENGTH.size:
            raise failure(name, "read it", "the rank that reads it for this host ended", "Look at that rank's failure")
        (length,) = _LENGTH.unpack(head)
        if length == _END:
            return
        if length == _WRONG:
            raise StorageError(stream.read(_LENGTH.unpack(stream.read(_LENGTH.size))[0]).decode())
        record = stream.read(length)
        if len(record) < length:
            raise failure(name, "read it", "the rank that reads it for this host ended", "Look at that rank's failure")
        yield record


def lines(stream: BinaryIO) -> Iterator[bytes]:
    """Text, JSON lines, CSV without a header: a record is a line, without its end."""
    for line in stream:
        yield line.rstrip(b"\r\n")


def recordio(stream: BinaryIO) -> Iterator[bytes]:
    """MXNet's RecordIO, which the service wraps objects in where the channel asks for it; parts are put together.

    Raises ValueError where the bytes are something else.
    """
    whole = b""
    while head := stream.read(8):
        magic, facts = struct.unpack("<II", head) if len(head) == 8 else (0, 0)
        part, length = facts >> 29, facts & (1 << 29) - 1
        body = stream.read(length + -length % 4)
        if magic != _MAGIC or len(body) < length:
            raise ValueError("its bytes are no RecordIO: set RecordWrapperType, or name the channel's right format")
        whole = body[:length] if part in (0, 1) else whole + body[:length]
        if part in (0, 3):
            yield whole
