"""Looking up a host's address without holding up the loop."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable

from trainkit.launch.loop import Loop
from trainkit.launch.processes import die_with_parent, reset_signals, send

OnAnswer = Callable[[str | None, str], None]


def resolve(host: str) -> str:
    """The IPv4 address of a host. May take many seconds. Raises OSError where it has none."""
    try:
        return str(socket.getaddrinfo(host, 0, family=socket.AF_INET, type=socket.SOCK_STREAM)[0][4][0])
    except UnicodeError as error:  # a name that IDNA has no letters for
        raise OSError(0, str(error)) from None


def is_address(host: str) -> bool:
    """Whether there is nothing to look up."""
    try:
        socket.inet_pton(socket.AF_INET, host)
    except (OSError, ValueError):
        return False
    return True


class Resolving:
    """One look-up, in a child: getaddrinfo may wait many seconds for a name server that does not answer.

    `on_answer` gets the address, or None and why there is none. Raises OSError where there can be no child.
    """

    def __init__(self, loop: Loop, host: str, on_answer: OnAnswer) -> None:
        self._loop = loop
        self._on_answer = on_answer
        self._answer, tell = os.pipe()
        parent = os.getpid()
        try:
            self._child = os.fork()  # the supervisor has one thread
        except OSError:
            os.close(self._answer)
            os.close(tell)
            raise
        if self._child == 0:
            try:  # nothing but _exit may come out of here
                reset_signals()
                die_with_parent(parent)
                os.write(tell, _look_up(host))
            finally:
                os._exit(0)
        os.close(tell)
        os.set_blocking(self._answer, False)
        loop.watch(self._answer, self._read)

    def close(self) -> None:
        """Do not wait for the answer."""
        try:
            os.read(self._answer, 4096)
        except BlockingIOError:  # the child holds the pipe open, so it lives, and its number is nobody else's
            send(self._child, signal.SIGKILL)
        self._end()

    def _end(self) -> None:
        self._loop.unwatch(self._answer)
        os.close(self._answer)
        try:
            os.waitpid(self._child, 0)
        except ChildProcessError:
            pass  # the supervisor reaps whatever ends

    def _read(self) -> None:
        answer = os.read(self._answer, 4096).decode(errors="replace")  # less than PIPE_BUF comes in one piece
        self._end()
        address, _, problem = answer.partition(" ")
        self._on_answer(address or None, problem or "the look-up was killed")


def _look_up(host: str) -> bytes:
    try:
        return resolve(host).encode()
    except OSError as error:
        return f" {error.strerror}".encode(errors="replace")
