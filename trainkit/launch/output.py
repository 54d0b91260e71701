"""The ranks' output on the way to our own stdout: whole lines, each with the rank it came from.

Bytes pass as they are, valid UTF-8 or not. A rank's stdout and stderr share one pipe, so nothing is reordered within
it. Progress bars rewrite their line with carriage returns; a log cannot, so of those states one every few seconds is
shown, and always the last.
"""

from __future__ import annotations

import os
import select
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

_LONGEST = 64 * 1024  # bytes of a line; a longer one is shown in pieces
_MOST_KEPT = 1 << 20  # bytes that wait for a slow reader before those who write are held back
_LAST_PATIENCE = 10.0  # seconds that a reader may stall at the very end
_LONGEST_END = 30.0  # seconds for all of the end, however it dribbles: the platform counts them, too
_BAR_PAUSE = 5.0  # seconds between two states of a progress bar


class Lines:
    """Cuts one rank's output into lines. `feed` and `close` return what is to be written now."""

    def __init__(self, prefix: str, *, clock: Callable[[], float] = time.monotonic, keep: int = 20) -> None:
        self._prefix = prefix.encode()
        self._clock = clock
        self._rest = b""
        self._bar: bytes | None = None
        self._bar_shown = -_BAR_PAUSE
        self._tail: deque[bytes] = deque(maxlen=keep)

    @property
    def tail(self) -> tuple[str, ...]:
        """The last lines, as text, for the failure file."""
        return tuple(line.decode("utf-8", "replace").rstrip() for line in self._tail if line.strip())

    def feed(self, data: bytes) -> bytes:
        data = self._rest + data
        out: list[bytes] = []
        start = 0
        while (end := _line_end(data, start)) is not None:
            stop, after, is_line = end
            if is_line:
                self._line(data[start:stop], out)
            elif stop > start:
                self._bar_state(data[start:stop], out)
            start = after
        self._rest = data[start:]
        while len(self._rest) > _LONGEST:
            self._line(self._rest[:_LONGEST], out)
            self._rest = self._rest[_LONGEST:]
        return b"".join(out)

    def close(self) -> bytes:
        """What is left when the rank's output ends, with the newline it lacked."""
        out: list[bytes] = []
        rest = self._rest.removesuffix(b"\r")
        self._rest = b""
        if rest:
            self._bar = None
            self._line(rest, out)
        elif self._bar is not None:
            self._line(self._bar, out)
        return b"".join(out)

    def _line(self, line: bytes, out: list[bytes]) -> None:
        bar, self._bar = self._bar, None
        # As at a terminal: a newline ends a finished bar, and text overwrites one.
        self._emit(line or bar or b"", out)

    def _bar_state(self, state: bytes, out: list[bytes]) -> None:
        self._bar = state
        now = self._clock()
        if now - self._bar_shown >= _BAR_PAUSE:
            self._bar_shown = now
            self._bar = None
            self._emit(state, out)

    def _emit(self, line: bytes, out: list[bytes]) -> None:
        self._tail.append(line)
        out.append(self._prefix + line + b"\n")


def _line_end(data: bytes, start: int) -> tuple[int, int, bool] | None:
    """Where the line from `start` ends, where the next begins, and whether it was a line or a bar's state."""
    newline = data.find(b"\n", start)
    bar = data.find(b"\r", start, newline if newline >= 0 else len(data))
    if bar >= 0:
        if bar + 1 == newline:
            return bar, newline + 1, True
        # At the very end of the data a \n may still follow: wait for it.
        return (bar, bar + 1, False) if bar + 1 < len(data) else None
    return (newline, newline + 1, True) if newline >= 0 else None


class Watcher(Protocol):
    """The part of the event loop that a console needs."""

    def watch(self, descriptor: int, callback: Callable[[], None], *, writing: bool = False) -> None: ...
    def unwatch(self, descriptor: int) -> None: ...


class Console:
    """Our stdout. It may be gone (then the job goes on without it) or slow.

    Without a loop, a write waits for a slow reader. Attended by one it never does: what cannot be written yet is kept,
    and `full` asks those who write to hold back, so that a stalled log never makes the supervisor deaf to signals.
    """

    def __init__(self, descriptor: int = 1) -> None:
        self._descriptor = descriptor
        self._gone = False
        self._kept = bytearray()
        self._loop: Watcher | None = None
        self._waiting = False
        self.on_room: Callable[[], None] = lambda: None

    @property
    def full(self) -> bool:
        return len(self._kept) > _MOST_KEPT

    def attend(self, loop: Watcher) -> None:
        """From now on, write when there is room, as the loop tells."""
        self._loop = loop

    def write(self, data: bytes) -> None:
        if self._gone:
            return
        self._kept += data
        self._pass_on(patience=None if self._loop is None else 0.0)
        if self._kept and self._loop and not self._waiting:
            self._waiting = True
            self._loop.watch(self._descriptor, self._room, writing=True)

    def say(self, speaker: str, text: str) -> None:
        """A message of our own, each of its lines under the host's prefix."""
        self.write("".join(f"[{speaker}] {line}\n" for line in text.splitlines()).encode("utf-8", "replace"))

    def finish(self) -> None:
        """The loop ends: write what is kept, as long as someone reads."""
        if self._waiting and self._loop:
            self._loop.unwatch(self._descriptor)
        self._loop, self._waiting = None, False
        self._pass_on(patience=_LAST_PATIENCE, longest=_LONGEST_END)

    def _room(self) -> None:
        self._pass_on(patience=0.0)
        if not self._kept and self._loop:
            self._waiting = False
            self._loop.unwatch(self._descriptor)
        if not self.full:
            self.on_room()

    def _pass_on(self, *, patience: float | None, longest: float = float("inf")) -> None:
        """Write while there is room; wait for it up to `patience` seconds at a time (None: for ever)."""
        end = time.monotonic() + longest
        while self._kept and not self._gone and time.monotonic() < end:
            try:
                if not select.select([], [self._descriptor], [], patience)[1]:
                    return
                # A pipe that select calls writable takes this much without blocking, and no more for sure.
                written = os.write(self._descriptor, self._kept[: select.PIPE_BUF])
            except BlockingIOError:
                continue
            except OSError:
                self._gone = True
                self._kept.clear()
                return
            del self._kept[:written]
