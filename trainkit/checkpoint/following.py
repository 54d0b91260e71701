"""The way from a writer to the coordinator on the first host, made anew where it broke."""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Callable

from trainkit.checkpoint.line import Line, Message
from trainkit.checkpoint.loop import Loop
from trainkit.contract.seal import Seal, nonce

_CONNECT = 10.0  # seconds
_AGAIN = 60.0
"""Seconds after a connection that took long to fail: it holds up the training, so it must be seldom."""
_SLOW = 1.0  # seconds
_QUESTIONS = ("ask", "planned")  # the rank waits for an answer


class Follow:
    """`tell` hears what the coordinator says; and {"alone": why} where there is no way to it."""

    def __init__(self, rank: int, loop: Loop, tell: Callable[[Message], None]) -> None:
        self._rank, self._loop, self._tell = rank, loop, tell
        self._address = ("", 0)
        self._key = b""
        self._not_before = 0.0
        self._line: Line | None = None
        self._held: list[Message] | None = None
        """What is to be said as soon as the coordinator knows us; None once it does."""

    def connect(self, host: str, port: int, key: bytes) -> None:
        """Where the coordinator is. {"welcome": rank} will say that it knows us."""
        self._address, self._key = (host, port), key
        self._connect()

    def say(self, message: Message) -> None:
        if self._line is None and message["say"] in _QUESTIONS:
            # Of anything else, a coordinator that has just come would know nothing.
            self._connect()
        if self._line is None:
            return
        if self._held is None:
            self._line.send(message)
        else:
            self._held.append(message)

    def _connect(self) -> None:
        gone = f"the checkpoints' coordinator on {self._address[0]}"
        if time.monotonic() < self._not_before:
            self._tell({"alone": f"{gone} did not answer"})
            return
        began = time.monotonic()
        try:
            connection = socket.create_connection(self._address, timeout=_CONNECT)
            if connection.getsockname() == connection.getpeername():  # nobody listens there, and our own port was it
                connection.close()
                raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
        except OSError as error:
            # What fails at once costs nothing: the coordinator is about to be started again.
            if time.monotonic() - began > _SLOW:
                self._not_before = time.monotonic() + _AGAIN
            self._tell({"alone": f"{gone} does not answer: {error}"})
            return
        ours = nonce()
        line, self._held = Line(connection), []
        self._line = line

        def heard(message: Message) -> None:
            theirs = message.get("nonce")
            if self._held is None or not isinstance(theirs, str):
                self._hear(message)
                return
            line.seal_with(Seal(self._key, ours, theirs, first=False))
            line.send({"here": self._rank})

        self._loop.watch(line, heard, self._lost)
        line.send({"nonce": ours})

    def _hear(self, message: Message) -> None:
        if "welcome" in message and self._line:
            held, self._held = self._held or [], None
            for one in held:
                self._line.send(one)
        self._tell(message)

    def _lost(self) -> None:
        self._line = None
        self._tell({"alone": f"the checkpoints' coordinator on {self._address[0]} is gone"})
