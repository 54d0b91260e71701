"""The hosts' logs on their way to a person: colours at a terminal, a file per host, and each metric's last value."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from trainkit.launch.output import Console

_PREFIX = re.compile(rb"^(\[[^\]\s]{1,80}\]) ", re.MULTILINE)
_METRIC = re.compile(rb"trainkit\.metric ([^\r\n]*)")
_PAIR = re.compile(r"([A-Za-z_][\w.:/-]*)=(\S+)")
_COLOURS = (36, 33, 35, 32, 34, 96, 93, 95, 92, 94)


class Screen:
    """Writes whole lines to the console and to the log of the host they come from."""

    def __init__(self, console: Console, *, colour: bool) -> None:
        self._console = console
        self._colour = colour
        self.metrics: dict[str, float] = {}

    def host(self, log: Path) -> HostLog:
        """The place where one host's lines go."""
        return HostLog(self, log.open("wb"))

    def show(self, data: bytes) -> None:
        for line in _METRIC.findall(data):
            self.metrics.update(_numbers(line.decode("utf-8", "replace")))
        self._console.write(_PREFIX.sub(_painted, data) if self._colour else data)


class HostLog:
    """A host's sink: its log file, and the screen."""

    def __init__(self, screen: Screen, log: BinaryIO) -> None:
        self._screen = screen
        self._log = log

    def write(self, data: bytes) -> None:
        self._log.write(data)
        self._log.flush()
        self._screen.show(data)

    def close(self) -> None:
        self._log.close()


def _painted(match: re.Match[bytes]) -> bytes:
    colour = _COLOURS[zlib.crc32(match[1]) % len(_COLOURS)]
    return b"\x1b[%dm%s\x1b[0m " % (colour, match[1])


def _numbers(line: str) -> Mapping[str, float]:
    found = {}
    for name, text in _PAIR.findall(line):
        try:
            found[name] = float(text)
        except ValueError:
            continue
    return found
