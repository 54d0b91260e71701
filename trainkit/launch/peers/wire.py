"""One connection between two supervisors: JSON messages, one a line, each behind its seal but for the greetings."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from typing import Any

from trainkit.contract.seal import BrokenSeal, Seal
from trainkit.launch.loop import Loop

_LONGEST = 1 << 20  # bytes of a message
_LONGEST_OF_A_STRANGER = 4096
_GONE = "its connection broke: its supervisor is gone"
NONSENSE = "it said something that makes no sense"
FORGED = "a message came in its name that it did not send so: the link was tampered with"

OnMessage = Callable[[dict[str, Any]], None]
OnClose = Callable[[str], None]


class Wire:
    """Messages out, messages in. `on_message` gets what comes; `on_close` is told why there will be no more."""

    def __init__(self, loop: Loop, connection: socket.socket, on_message: OnMessage, on_close: OnClose) -> None:
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._loop = loop
        self._connection: socket.socket | None = connection
        self._on_message = on_message
        self._on_close = on_close
        self._seal: Seal | None = None
        self._refusal: str | None = None
        self._held: list[dict[str, Any]] = []
        self._buffer = b""
        self.heard_at = time.monotonic()
        loop.watch(connection.fileno(), self._read)

    @property
    def open(self) -> bool:
        return self._connection is not None

    @property
    def alive(self) -> bool:
        """Whether the other end is there, as far as the kernel knows by now: its end may be in the queue, unread."""
        if self._connection is None:
            return False
        try:
            return bool(self._connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        except BlockingIOError:
            return True
        except OSError:
            return False

    @property
    def proven(self) -> bool:
        """Whether the other end has shown that it knows the key. What came before could be anyone's word."""
        return self._seal is not None and self._seal.proven

    @property
    def address(self) -> str:
        """The other end's. Raises OSError where it is gone."""
        if self._connection is None:
            raise OSError(_GONE)
        return str(self._connection.getpeername()[0])

    def cover(self, secret: bytes) -> bytes:
        """See Seal.cover. The greetings are over by then."""
        assert self._seal
        return self._seal.cover(secret)

    def hand_over(self, on_message: OnMessage, on_close: OnClose) -> None:
        """From now on, others are told."""
        self._on_message, self._on_close = on_message, on_close

    def greet(self, message: dict[str, Any]) -> None:
        """Say something without a seal."""
        self._put(json.dumps(message).encode())

    def seal_with(self, seal: Seal, first: dict[str, Any] | None = None, *, refusal: str | None = None) -> None:
        """The greetings are over: seal what is said, beginning with `first`.

        Whoever then cannot seal is cut off, and told `refusal`.
        """
        self._seal, self._refusal = seal, refusal
        if first:
            self._put(seal.seal(json.dumps(first).encode()))

    def send(self, message: dict[str, Any]) -> None:
        """Say something, or keep it until the other end has shown who it is.

        A message is far smaller than a socket's buffer: a peer that reads nothing cannot hold us up, it is cut.
        """
        if self._seal and self._seal.proven:
            self._put(self._seal.seal(json.dumps(message).encode()))
        else:
            self._held.append(message)

    def refuse(self, why: str) -> None:
        """Leave, and say why."""
        self.greet({"refused": why})
        self.close()

    def close(self) -> None:
        """Leave, without a call back."""
        if self._connection:
            self._loop.unwatch(self._connection.fileno())
            self._connection.close()
            self._connection = None

    def _put(self, line: bytes) -> None:
        if self._connection:
            try:
                self._connection.sendall(line + b"\n")
            except OSError:
                self._lose(_GONE)

    def _lose(self, why: str) -> None:
        if self._connection:
            self.close()
            self._on_close(why)

    def _read(self) -> None:
        assert self._connection
        try:
            data = self._connection.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            self._take(line)
            if not self._connection:
                return
        if not data:
            self._lose(_GONE)
        elif len(self._buffer) > self._longest:
            self._lose(NONSENSE)

    @property
    def _longest(self) -> int:
        return _LONGEST if self.proven else _LONGEST_OF_A_STRANGER

    def _take(self, line: bytes) -> None:
        """One line. A message is whole before it counts as a word: bytes could be anyone's."""
        known = self.proven
        try:
            if len(line) > self._longest:
                raise ValueError
            # Before it has shown who it is, the other end may still refuse us in plain words.
            message = json.loads(line if self._seal is None or _plain(line, known) else self._seal.open(line))
            if not isinstance(message, dict):
                raise ValueError
        except BrokenSeal:
            if self._refusal and not known:
                self.greet({"refused": self._refusal})
            self._lose(FORGED)
            return
        except (ValueError, RecursionError):
            self._lose(NONSENSE)
            return
        self.heard_at = time.monotonic()
        if self.proven and not known:
            held, self._held = self._held, []
            for waiting in held:
                self.send(waiting)
        self._on_message(message)


def _plain(line: bytes, known: bool) -> bool:
    return not known and line.startswith(b"{")
