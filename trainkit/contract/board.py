"""Where a host's ranks and their supervisor tell each other how far they are: a small file in the run folder.

    rank, at each step's boundary               supervisor, told to stop
    ─────────────────────────────               ────────────────────────
    count += 1; write it                        write "asked"
    asked?  no  → go on                         read all counts; the highest, over all hosts,
            yes → wait for the agreed count     is agreed: write it
    count > agreed → stop; else go on

Each side writes before it looks. So either the rank sees that it is asked to stop, or the supervisor sees the boundary
it has passed, and no rank ever goes beyond the agreed one. A rank that is inside a collective need not answer anything:
those that wait at the boundary before it are sent on to join it. Reads and writes are system calls, which order them.

The same rows tell the supervisor which step a rank died in, and whether it gets on at all.
"""

from __future__ import annotations

import os
import struct
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

FILE = "stop.board"
_OPEN = -1  # nothing agreed yet
_PAUSE = 0.001  # seconds between two looks of a rank that waits at a boundary
_HEAD = struct.Struct("2q")
_ROW = struct.Struct("4q")
NO_STEP = -1


class Row(NamedTuple):
    """What one rank tells, at each boundary."""

    passed: int = 0
    """Boundaries passed since it started."""
    step: int = NO_STEP
    """The step that begins at the last of them, where the script counts its steps with job.steps."""
    waited: int = 0
    """Nanoseconds spent so far waiting for the next item, within job.steps."""
    looping: int = 0
    """1 from the first boundary to the end of the loop: as long as more of them are to come."""

    @property
    def known_step(self) -> int | None:
        """The step it is in; None after the loop, or where the script does not count."""
        return None if self.step == NO_STEP else self.step


@dataclass(frozen=True, slots=True)
class Board:
    """int64 each: asked (0 or 1), the agreed count, then the row of each local rank."""

    descriptor: int
    inode: int

    @classmethod
    def create(cls, folder: Path, ranks: int) -> Board:
        """Raises OSError where there is no room for it."""
        descriptor = os.open(folder / FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.pwrite(descriptor, _HEAD.pack(0, _OPEN) + _ROW.pack(*Row()) * ranks, 0)
        return cls(descriptor, os.fstat(descriptor).st_ino)

    @classmethod
    def find(cls, folder: str | None) -> Board | None:
        """The board that a supervisor made there, if there is one."""
        if not folder:
            return None
        try:
            descriptor = os.open(Path(folder) / FILE, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return None
        return cls(descriptor, os.fstat(descriptor).st_ino)

    def rows(self) -> list[Row]:
        """The supervisor: what the ranks have told last, by local rank."""
        data = os.pread(self.descriptor, os.fstat(self.descriptor).st_size - _HEAD.size, _HEAD.size)
        return [Row(*values) for values in _ROW.iter_unpack(data)]

    def ask(self) -> int:
        """The supervisor: ask the ranks to stop. Returns the highest boundary that one of them has passed."""
        os.pwrite(self.descriptor, struct.pack("q", 1), 0)
        return max((row.passed for row in self.rows()), default=0)

    def agree(self, count: int) -> None:
        """The supervisor: all hosts stop after this boundary's step."""
        os.pwrite(self.descriptor, struct.pack("q", count), 8)

    def tell(self, local_rank: int, row: Row) -> bool:
        """A rank: how far it is. Returns whether anyone can know of it.

        A script may close all descriptors there are, as daemons do, and its own files then have their numbers.
        """
        try:
            if os.fstat(self.descriptor).st_ino != self.inode:
                return False
        except OSError:
            return False
        os.pwrite(self.descriptor, _ROW.pack(*row), _HEAD.size + _ROW.size * local_rank)
        return True

    def beyond(self, count: int, *, patience: float) -> bool | None:
        """A rank that has told that it passed `count`: whether that is beyond the agreed one. None if it is not asked.

        Asked, it waits until there is agreement; without one within `patience` seconds, each rank is on its own: True.
        """
        asked, agreed = self._look()
        if not asked:
            return None
        deadline = time.monotonic() + patience
        while agreed == _OPEN and time.monotonic() < deadline:
            time.sleep(_PAUSE)
            asked, agreed = self._look()
        return agreed == _OPEN or count > agreed

    def close(self) -> None:
        os.close(self.descriptor)

    def _look(self) -> tuple[bool, int]:
        asked, agreed = _HEAD.unpack(os.pread(self.descriptor, _HEAD.size, 0))
        return bool(asked), agreed
