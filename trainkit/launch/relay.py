"""The pipes between ranks and our stdout."""

from __future__ import annotations

import array
import fcntl
import os
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from trainkit.launch.loop import Loop
from trainkit.launch.output import Console, Lines

_CHUNK = 256 * 1024


class Sink(Protocol):
    """Where lines go."""

    def write(self, data: bytes) -> None: ...


class Relay:
    """One reading end per speaker; what comes out goes to the console, line by line, each after `label(speaker)`."""

    def __init__(self, loop: Loop, console: Sink, *, label: Callable[[str], str], brake: Console | None = None) -> None:
        """While the console `brake` is full, nothing is read: the ranks' pipes fill up, and they wait."""
        self._loop = loop
        self._console = console
        self._label = label
        self._open: dict[str, int] = {}
        self._held: set[str] = set()
        self._heard_at: dict[str, float] = {}
        self._brake = brake
        if brake:
            brake.on_room = self._resume
        self._lines: dict[str, Lines] = {}

    def pipe(self, speaker: str) -> int:
        """The writing end of a new pipe. The caller closes it once it has handed it over."""
        reader, writer = os.pipe()
        self._listen(speaker, reader)
        return writer

    def fifo(self, speaker: str, path: Path) -> None:
        """The same by name, for a writer that inherits no descriptor from us."""
        os.mkfifo(path, 0o600)
        self._listen(speaker, os.open(path, os.O_RDONLY | os.O_NONBLOCK))

    def tail(self, speaker: str) -> tuple[str, ...]:
        """The last lines of a speaker that has ended, with all it wrote before its end."""
        self._drain(speaker)
        return self._lines[speaker].tail if speaker in self._lines else ()

    def heard_at(self, speaker: str) -> float:
        """The monotonic time of a speaker's last output; 0 if there was none."""
        return self._heard_at.get(speaker, 0.0)

    def end(self, speaker: str) -> None:
        """Show what is still in a speaker's pipe and close it, whoever holds its other end."""
        self._drain(speaker)
        if speaker in self._open:  # someone still holds the other end
            self._finish(speaker)

    def close(self) -> None:
        """The same for all of them."""
        for speaker in list(self._open):
            self.end(speaker)

    def _listen(self, speaker: str, reader: int) -> None:
        self.end(speaker)  # the one of that name before, if somebody still holds its other end
        os.set_blocking(reader, False)
        os.set_inheritable(reader, False)
        self._open[speaker] = reader
        self._lines[speaker] = Lines(self._label(speaker))
        self._watch(speaker)

    def _readable(self, speaker: str) -> None:
        if self._brake and self._brake.full:
            self._held.add(speaker)
            self._loop.unwatch(self._open[speaker])
        else:
            self._read(speaker)

    def _resume(self) -> None:
        for speaker in self._held:
            self._watch(speaker)
        self._held.clear()

    def _watch(self, speaker: str) -> None:
        self._loop.watch(self._open[speaker], lambda: self._readable(speaker))

    def _read(self, speaker: str) -> int:
        """Pass one chunk on. Returns its size."""
        try:
            data = os.read(self._open[speaker], _CHUNK)
        except BlockingIOError:
            return 0
        if not data:
            self._finish(speaker)
            return 0
        self._heard_at[speaker] = time.monotonic()
        self._console.write(self._lines[speaker].feed(data))
        return len(data)

    def _drain(self, speaker: str) -> None:
        """Pass on what is in the pipe now. Somebody may go on writing: a child that its rank left behind."""
        if speaker not in self._open:
            return
        waiting = array.array("i", [0])
        fcntl.ioctl(self._open[speaker], termios.FIONREAD, waiting)
        left = waiting[0]
        while left > 0 and speaker in self._open and (size := self._read(speaker)):
            left -= size

    def _finish(self, speaker: str) -> None:
        self._console.write(self._lines[speaker].close())
        reader = self._open.pop(speaker)
        if speaker in self._held:
            self._held.discard(speaker)
        else:
            self._loop.unwatch(reader)
        os.close(reader)
