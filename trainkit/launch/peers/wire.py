"""One connection between two supervisors: JSON messages, one a line, and a beat when there is nothing else to say."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from typing import Any

from trainkit.launch.loop import Loop

_LONGEST = 1 << 20  # bytes of a message; a stranger that sends more is cut off


class Wire:
    """Messages out, messages in. `on_message` gets what comes; `on_close` is called when the other end is gone."""

    def __init__(
        self,
        loop: Loop,
        connection: socket.socket,
        on_message: Callable[[dict[str, Any]], None],
        on_close: Callable[[], None] = lambda: None,
    ) -> None:
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._loop = loop
        self._connection: socket.socket | None = connection
        self._on_message = on_message
        self._on_close = on_close
        self._buffer = b""
        self.heard_at = time.monotonic()
        loop.watch(connection.fileno(), self._read)

    @property
    def open(self) -> bool:
        return self._connection is not None

    def send(self, message: dict[str, Any]) -> None:
        """A message is far smaller than a socket's buffer: a peer that reads nothing cannot hold us up, it is cut."""
        if self._connection:
            try:
                self._connection.sendall(json.dumps(message).encode() + b"\n")
            except OSError:
                self._lose()

    def close(self) -> None:
        """Leave, without a call back."""
        if self._connection:
            self._loop.unwatch(self._connection.fileno())
            self._connection.close()
            self._connection = None

    def _lose(self) -> None:
        if self._connection:
            self.close()
            self._on_close()

    def _read(self) -> None:
        assert self._connection
        try:
            data = self._connection.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self.heard_at = time.monotonic()
        self._buffer += data
        *lines, self._buffer = self._buffer.split(b"\n")
        for line in lines:
            try:
                message = json.loads(line)
            except (ValueError, RecursionError):
                message = None
            if not isinstance(message, dict):
                self._lose()  # not one of us
                return
            self._on_message(message)
        if not data or len(self._buffer) > _LONGEST:
            self._lose()
