"""The hosts' logs on their way to a person: colours at a terminal, a file per host."""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trainkit.launch.output import Console
from trainkit.local.metrics import Metrics

_PREFIX = re.compile(rb"^(\[[^\]\s]{1,80}\]) ", re.MULTILINE)
_COLOURS = (36, 33, 35, 32, 34, 96, 93, 95, 92, 94)


class Screen:
    """Writes whole lines to the console and to the log of the host they come from."""

    def __init__(self, console: Console, *, colour: bool, metrics: Metrics | None = None) -> None:
        self._console = console
        self._colour = colour
        self._metrics = metrics

    def host(self, log: Path) -> HostLog:
        """The place where one host's lines go."""
        return HostLog(self, log)

    def warn(self, text: str) -> None:
        self._console.say("local", f"warning: {text}")

    def show(self, data: bytes) -> None:
        if self._metrics:
            self._metrics.read(data)
        self._console.write(_PREFIX.sub(_painted, data) if self._colour else data)


class HostLog:
    """A host's sink: its log file, and the screen. The file may be gone (a full disk); the job goes on without it."""

    def __init__(self, screen: Screen, path: Path) -> None:
        self._screen = screen
        self._path = path
        self._log: int | None = None
        with self._or_gone():
            self._log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)

    def write(self, data: bytes) -> None:
        self._screen.show(data)
        with self._or_gone():
            view = memoryview(data)
            while view and self._log is not None:
                view = view[os.write(self._log, view) :]

    def close(self) -> None:
        if self._log is not None:
            descriptor, self._log = self._log, None
            with self._or_gone():
                os.close(descriptor)

    @contextmanager
    def _or_gone(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._screen.warn(f"{self._path} is cut off, the log goes on here only: {error.strerror}")
            self.close()


def _painted(match: re.Match[bytes]) -> bytes:
    colour = _COLOURS[zlib.crc32(match[1]) % len(_COLOURS)]
    return b"\x1b[%dm%s\x1b[0m " % (colour, match[1])
