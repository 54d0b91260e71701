"""Where a host's ranks and their supervisor agree on the step to stop at: a small file in the run folder.

    rank, at each step's boundary               supervisor, told to stop
    ─────────────────────────────               ────────────────────────
    count += 1; write it                        write "asked"
    asked?  no  → go on                         read all counts; the highest, over all hosts,
            yes → wait for the agreed count     is agreed: write it
    count > agreed → stop; else go on

Each side writes before it looks. So either the rank sees that it is asked to stop, or the supervisor sees the boundary
it has passed, and no rank ever goes beyond the agreed one. A rank that is inside a collective need not answer anything:
those that wait at the boundary before it are sent on to join it. Reads and writes are system calls, which order them.
"""

from __future__ import annotations

import os
import struct
import time
from dataclasses import dataclass
from pathlib import Path

FILE = "stop.board"
_OPEN = -1  # nothing agreed yet
_PAUSE = 0.001  # seconds between two looks of a rank that waits at a boundary


@dataclass(frozen=True, slots=True)
class Board:
    """int64 each: asked (0 or 1), the agreed count, then the count of each local rank."""

    descriptor: int

    @classmethod
    def create(cls, folder: Path, ranks: int) -> Board:
        descriptor = os.open(folder / FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.pwrite(descriptor, struct.pack(f"{2 + ranks}q", 0, _OPEN, *[0] * ranks), 0)
        return cls(descriptor)

    @classmethod
    def find(cls, folder: str | None) -> Board | None:
        """The board that a supervisor made there, if there is one."""
        if not folder:
            return None
        try:
            return cls(os.open(Path(folder) / FILE, os.O_RDWR | os.O_CLOEXEC))
        except OSError:
            return None

    def ask(self) -> int:
        """The supervisor: ask the ranks to stop. Returns the highest boundary that one of them has passed."""
        os.pwrite(self.descriptor, struct.pack("q", 1), 0)
        data = os.pread(self.descriptor, os.fstat(self.descriptor).st_size - 16, 16)
        return max(struct.unpack(f"{len(data) // 8}q", data), default=0)

    def agree(self, count: int) -> None:
        """The supervisor: all hosts stop after this boundary's step."""
        os.pwrite(self.descriptor, struct.pack("q", count), 8)

    def beyond(self, local_rank: int, count: int, *, patience: float) -> bool | None:
        """A rank: whether boundary `count` is beyond the agreed one. None if it is not asked to stop.

        Asked, it waits until there is agreement; without one within `patience` seconds, each rank is on its own: True.
        """
        os.pwrite(self.descriptor, struct.pack("q", count), 16 + 8 * local_rank)
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
        asked, agreed = struct.unpack("2q", os.pread(self.descriptor, 16, 0))
        return bool(asked), agreed
