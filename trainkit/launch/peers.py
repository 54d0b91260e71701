"""The link between the hosts' supervisors: one TCP connection from each host to the first.

    host → first   {"trainkit": 1, "job": …, "host": …, "procs": n}    I am here, with n ranks
    first → host   {"procs": {host: n, …}, "port": p, "agent_store": b}   all are here: start
    host → first   {"done": exit code}                                    my ranks have ended
    first → all    {"leave": true}                                        all have: leave together
    first → host   {"refused": why}

Messages are JSON, one a line. Whoever does not come in time is named.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from trainkit.errors import PeerLost, TrainkitError
from trainkit.launch.loop import Loop
from trainkit.plan.launch import LaunchPlan, Meeting
from trainkit.plan.world import World

VERSION = 1
_LONGEST = 1 << 20  # bytes of a message; a stranger that sends more is cut off
_RETRY = (0.02, 1.0)  # seconds between two attempts to reach the first host: the first pause, and the longest


class Wire:
    """One connection: messages out, messages in."""

    def __init__(self, loop: Loop, connection: socket.socket, on_message: Callable[[dict[str, Any]], None]) -> None:
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._loop = loop
        self._connection: socket.socket | None = connection
        self._on_message = on_message
        self._buffer = b""
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
                self.close()

    def close(self) -> None:
        if self._connection:
            self._loop.unwatch(self._connection.fileno())
            self._connection.close()
            self._connection = None

    def _read(self) -> None:
        assert self._connection
        try:
            data = self._connection.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self._buffer += data
        *lines, self._buffer = self._buffer.split(b"\n")
        if not data or len(self._buffer) > _LONGEST:
            self.close()
        for line in lines:
            try:
                message = json.loads(line)
            except ValueError:
                message = None
            if not isinstance(message, dict):
                self.close()  # not one of us
                return
            self._on_message(message)


class Hub:
    """The first host's end: waits for all the others, then tells all of them the same."""

    def __init__(self, loop: Loop, plan: LaunchPlan) -> None:
        self._loop = loop
        self._job = plan.job.name
        self._host = plan.host
        self._waiting_for = set(plan.world.hosts) - {plan.host}
        self._procs = {plan.host: len(plan.ranks)}
        self._wires: dict[str, Wire] = {}
        self._done: set[str] = set()
        self._hosts = plan.world.hosts
        self._listener = self._listen(plan)
        loop.watch(self._listener.fileno(), self._accept)

    @property
    def complete(self) -> bool:
        for host in [host for host, wire in self._wires.items() if not wire.open]:
            del self._wires[host]  # it came and went: it may come again
            self._waiting_for.add(host)
        return not self._waiting_for

    def missing(self) -> str:
        """Who has not come, for people."""
        return (
            f"{', '.join(sorted(self._waiting_for))} did not come; {self._host} waited for {len(self._hosts) - 1} "
            f"hosts at port {self._listener.getsockname()[1]}; look at the missing hosts' own logs, "
            f"and whether the security group lets hosts of this job talk to each other"
        )

    def welcome(self, *, port: int, agent_store: bool) -> Meeting:
        """All are here: tell everyone where ranks meet."""
        for wire in self._wires.values():
            wire.send({"procs": self._procs, "port": port, "agent_store": agent_store})
        return Meeting(World.of(self._hosts, self._procs), port, agent_store)

    @property
    def may_leave(self) -> bool:
        """Whether every other host is done, or gone."""
        return all(host in self._done or not wire.open for host, wire in self._wires.items())

    def done(self, exit_code: int) -> None:
        """Our own ranks have ended. The first host leaves last, since the ranks' store lives there."""

    def close(self) -> None:
        for wire in self._wires.values():
            wire.send({"leave": True})
            wire.close()
        self._loop.unwatch(self._listener.fileno())
        self._listener.close()

    def _listen(self, plan: LaunchPlan) -> socket.socket:
        family, kind, protocol, _, address = _resolve(plan.master, plan.link_port)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
        except OSError as error:
            listener.close()
            raise TrainkitError(
                f"{plan.host} cannot listen at {address[0]}:{plan.link_port} for the other hosts: {error.strerror}. "
                f"Set TRAINKIT_PORT to a free port, on all hosts alike"
            ) from None
        listener.listen(min(len(self._hosts) * 2, 4096))
        listener.setblocking(False)
        return listener

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return
        wire = Wire(self._loop, connection, lambda message: self._heard(wire, message))

    def _heard(self, wire: Wire, message: dict[str, Any]) -> None:
        if "trainkit" in message:
            self._hello(wire, message)
        elif "done" in message:
            self._done |= {host for host, known in self._wires.items() if known is wire}

    def _hello(self, wire: Wire, message: dict[str, Any]) -> None:
        host, procs = message.get("host"), message.get("procs")
        if message["trainkit"] != VERSION:
            why = f"{self._host} speaks version {VERSION} of trainkit's link: run the same image on all hosts"
        elif message.get("job") != self._job:
            why = f"{self._host} runs job {self._job!r}: two jobs share the port; set TRAINKIT_PORT"
        elif host not in self._waiting_for or not isinstance(procs, int):
            why = f"{self._host} expects no {host!r}, or has met it already"
        else:
            self._waiting_for.discard(host)
            self._procs[host] = procs
            self._wires[host] = wire
            return
        wire.send({"refused": why})
        wire.close()


class Spoke:
    """Every other host's end."""

    def __init__(self, loop: Loop, plan: LaunchPlan) -> None:
        self._loop = loop
        self._plan = plan
        self._pause = _RETRY[0]
        self._next_try = 0.0
        self._trying: socket.socket | None = None
        self._wire: Wire | None = None
        self._problem = "not tried yet"
        self._leave = False
        self.meeting: Meeting | None = None

    @property
    def complete(self) -> bool:
        return self.meeting is not None

    @property
    def next_try(self) -> float | None:
        """The monotonic time at which `attempt` wants to be called, if it does."""
        connected = self._wire is not None and self._wire.open
        return None if connected or self._trying or self.meeting else self._next_try

    def missing(self) -> str:
        """Why there was no meeting, for people."""
        where = f"{self._plan.world.first} ({self._plan.master}:{self._plan.link_port})"
        if self._wire and self._wire.open:
            return f"{self._plan.host} reached {where}, which is still waiting for other hosts: its log names them"
        return f"{self._plan.host} could not reach {where}: {self._problem}. Look at that host's own log"

    def attempt(self) -> None:
        """Begin to connect, if it is time to."""
        if self.next_try is None or time.monotonic() < self.next_try:
            return
        self._next_try = time.monotonic() + self._pause
        self._pause = min(self._pause * 2, _RETRY[1])
        try:
            family, kind, protocol, _, address = _resolve(self._plan.master, self._plan.link_port)[0]
            connection = socket.socket(family, kind, protocol)
        except OSError as error:
            self._problem = f"the name does not resolve ({error.strerror})"
            return
        connection.setblocking(False)
        connection.connect_ex(address)
        self._trying = connection
        self._loop.watch(connection.fileno(), self._connected, writing=True)

    def done(self, exit_code: int) -> None:
        """Our ranks have ended."""
        if self._wire:
            self._wire.send({"done": exit_code})

    @property
    def may_leave(self) -> bool:
        """Whether the first host says so, or is gone."""
        return self._leave or self._wire is None or not self._wire.open

    def close(self) -> None:
        if self._trying:
            self._give_up_try()
        if self._wire:
            self._wire.close()

    def _connected(self) -> None:
        assert self._trying
        error = self._trying.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            self._problem = os.strerror(error)
            self._give_up_try()
            return
        connection, self._trying = self._trying, None
        self._loop.unwatch(connection.fileno())
        self._wire = Wire(self._loop, connection, self._heard)
        plan = self._plan
        self._wire.send({"trainkit": VERSION, "job": plan.job.name, "host": plan.host, "procs": len(plan.ranks)})

    def _heard(self, message: dict[str, Any]) -> None:
        if "refused" in message:
            raise PeerLost(f"{self._plan.world.first} refused {self._plan.host}: {message['refused']}")
        if "leave" in message:
            self._leave = True
        elif "procs" in message:
            world = World.of(self._plan.world.hosts, message["procs"])
            self.meeting = Meeting(world, message["port"], message["agent_store"])

    def _give_up_try(self) -> None:
        if self._trying:
            self._loop.unwatch(self._trying.fileno())
            with suppress(OSError):
                self._trying.close()
            self._trying = None


def _resolve(host: str, port: int) -> list[tuple[Any, ...]]:
    return list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
