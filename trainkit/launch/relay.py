"""The pipes between ranks and our stdout."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from trainkit.launch.loop import Loop
from trainkit.launch.output import Lines

_CHUNK = 256 * 1024


class Sink(Protocol):
    """Where lines go."""

    def write(self, data: bytes) -> None: ...


class Relay:
    """One reading end per speaker; what comes out goes to the console, line by line, each after `label(speaker)`."""

    def __init__(self, loop: Loop, console: Sink, *, label: Callable[[str], str]) -> None:
        self._loop = loop
        self._console = console
        self._label = label
        self._open: dict[str, int] = {}
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

    def close(self) -> None:
        """Show what is still in the pipes and close them, whoever holds their other ends."""
        for speaker in list(self._open):
            self._drain(speaker)
            if speaker in self._open:  # someone still holds the other end
                self._finish(speaker)

    def _listen(self, speaker: str, reader: int) -> None:
        os.set_blocking(reader, False)
        os.set_inheritable(reader, False)
        self._open[speaker] = reader
        self._lines[speaker] = Lines(self._label(speaker))
        self._loop.watch(reader, lambda: self._readable(speaker))

    def _readable(self, speaker: str) -> None:
        self._read(speaker)

    def _read(self, speaker: str) -> bool:
        """Pass one chunk on. Returns whether there may be more right now."""
        try:
            data = os.read(self._open[speaker], _CHUNK)
        except BlockingIOError:
            return False
        if not data:
            self._finish(speaker)
            return False
        self._console.write(self._lines[speaker].feed(data))
        return True

    def _drain(self, speaker: str) -> None:
        while speaker in self._open and self._read(speaker):
            pass

    def _finish(self, speaker: str) -> None:
        self._console.write(self._lines[speaker].close())
        reader = self._open.pop(speaker)
        self._loop.unwatch(reader)
        os.close(reader)
