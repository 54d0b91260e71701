"""What comes out of a FIFO: bytes that appear some time, cut into records, and mixed where that is asked for."""

from __future__ import annotations

import io
import os
import random
import select
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from trainkit.storage.store import failure

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

Cut = Callable[[BinaryIO], Iterator[bytes]]
"""Where one record ends and the next begins, in the bytes of all objects one after the other."""
TICK = 0.1
_MAGIC = 0xCED7230A


class Fifo(io.RawIOBase):
    """A FIFO that appears some time, is written to some time, and may be left before its end.

    `look` is called while there is nothing to read, and raises where nobody wants to wait any longer; `came` once, when
    somebody has begun to write.
    """

    def __init__(self, path: Path, *, look: Callable[[], None], came: Callable[[], None], wait: float) -> None:
        self._path, self._look, self._came = path, look, came
        self._deadline = time.monotonic() + wait
        self._number = -1
        while self._number < 0:
            try:
                self._number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            except FileNotFoundError:
                self._patient("it did not appear")
                time.sleep(TICK)
        self._poll = select.poll()
        self._poll.register(self._number, select.POLLIN)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        # Before its first writer a FIFO has neither bytes nor an end; after its last one, it has an end.
        while not self._poll.poll(TICK * 1000):
            self._patient("nothing was written to it")
        if self._deadline < float("inf"):
            self._deadline = float("inf")  # who writes may take a break
            self._came()
        return os.readv(self._number, [buffer])

    def close(self) -> None:
        if not self.closed and self._number >= 0:
            os.close(self._number)
        super().close()

    def _patient(self, problem: str) -> None:
        self._look()
        if time.monotonic() > self._deadline:
            remedy = "Is it a Pipe channel, with a further epoch?"
            raise failure(str(self._path), "read it", f"{problem} in time", remedy)


def lines(stream: BinaryIO) -> Iterator[bytes]:
    """Text: a record is a line, with its end; the last one gets one where it has none."""
    for line in stream:
        yield line if line.endswith(b"\n") else line + b"\n"


def full_lines(stream: BinaryIO) -> Iterator[bytes]:
    """JSON lines, CSV without a header: empty lines are none."""
    return (line for line in lines(stream) if not line.isspace())


def recordio(stream: BinaryIO) -> Iterator[bytes]:
    """MXNet's RecordIO, which the service wraps objects in where the channel asks for it; parts are put together.

    Raises ValueError where the bytes are something else.
    """
    pieces: list[bytes] = []
    while head := stream.read(8):
        magic, facts = struct.unpack("<II", head) if len(head) == 8 else (0, 0)
        part, length = facts >> 29, facts & (1 << 29) - 1
        if magic != _MAGIC:
            raise ValueError("its bytes are no RecordIO: set RecordWrapperType, or the channel's right ContentType")
        body = stream.read(length + -length % 4)
        if len(body) < length:
            raise ValueError("it ends within a record, so its writer was cut off")
        pieces = [body[:length]] if part in (0, 1) else [*pieces, body[:length]]
        if part in (0, 3):
            # The writer splits a record wherever it holds the magic number, which is left out.
            yield pieces[0] if len(pieces) == 1 else struct.pack("<I", _MAGIC).join(pieces)
            pieces = []
    if pieces:
        raise ValueError("it ends within a record, so its writer was cut off")


def mixed(records: Iterable[bytes], *, window: int, key: str) -> Iterator[bytes]:
    """All records, each taken by chance from `window` bytes of them. The same for the same key and records."""
    chance = random.Random(key).random
    held: list[bytes] = []
    size = 0

    def drawn() -> bytes:
        at = int(chance() * len(held))
        held[at], held[-1] = held[-1], held[at]
        return held.pop()

    for record in records:
        held.append(record)
        size += len(record)
        while size > window:
            one = drawn()
            size -= len(one)
            yield one
    while held:
        yield drawn()
