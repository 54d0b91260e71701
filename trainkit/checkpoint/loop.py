"""Waits for sockets and for threads: the one place where a writer sleeps."""

from __future__ import annotations

import os
import selectors
import socket
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from typing import Any

from trainkit.checkpoint.line import Line, Message

OnMessage = Callable[[Message], None]


class Loop:
    """Calls back when a line has messages, a connection comes, or a thread has done its work."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._told, self._tell = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK) if hasattr(os, "pipe2") else os.pipe()
        self._selector.register(self._told, selectors.EVENT_READ, self._drain)
        self._watched: dict[Line, tuple[OnMessage, Callable[[], None]]] = {}
        self._done: deque[Callable[[], None]] = deque()
        """One for all time: a thread that was about to add to one that is replaced would never be heard."""
        self.pending = 0

    def watch(self, line: Line, on_message: OnMessage, on_close: Callable[[], None]) -> None:
        """Call back for each message, and once when there will be no more; from now on these, if others were."""
        if line not in self._watched:
            self._selector.register(line, line.wanted, partial(self._serve, line))
        self._watched[line] = (on_message, on_close)

    def unwatch(self, line: Line) -> None:
        """Close the line, without a call back."""
        if self._watched.pop(line, None):
            self._selector.unregister(line)
            line.close()

    def accept(self, listener: socket.socket, on_connection: Callable[[], None]) -> None:
        """Call back when somebody is at the door."""
        self._selector.register(listener, selectors.EVENT_READ, on_connection)

    def later(self, pool: Executor, work: Callable[[], Any], then: Callable[[Any], None]) -> None:
        """Do `work` in the pool, and `then` here with what it returns."""
        self.pending += 1

        def hand_over(future: Future[Any]) -> None:
            self._done.append(partial(self._finish, future, then))
            os.write(self._tell, b".")

        pool.submit(work).add_done_callback(hand_over)

    def turn(self, *, timeout: float | None = None) -> None:
        """Wait for one thing at least, and do what follows from all that is there."""
        for line in self._watched:
            self._selector.modify(line, line.wanted, partial(self._serve, line))
        for key, _ in self._selector.select(timeout):
            key.data()

    def _serve(self, line: Line) -> None:
        if line not in self._watched:  # what came before it in this turn was the end of it
            return
        line.flush()
        for message in line.receive():
            self._watched[line][0](message)
            if line not in self._watched:
                return
        if line.closed:
            _, on_close = self._watched[line]
            self.unwatch(line)
            on_close()

    def _drain(self) -> None:
        os.read(self._told, 4096)
        while self._done:
            self._done.popleft()()

    def _finish(self, future: Future[Any], then: Callable[[Any], None]) -> None:
        self.pending -= 1
        then(future.result())
