"""The link between the hosts' supervisors: one TCP connection from each host to the first.

    host → first   {"trainkit": 1, "job", "host", "procs", "now"}     I am here, with that many ranks
    first → host   {"procs": {host: n}, "port", "agent_store"}        all are here: start
    host → first   {"failed": true}                                   one of my ranks has failed: end yours
    first → all    {"end": true}                                      a host has failed: end your ranks
    either way     {"stop": signal}                                   I was told to stop: stop too
    host → first   {"passed": n}                                      the highest boundary a rank of mine has passed
    first → all    {"agreed": n}                                      the highest of all: stop after that step
    host → first   {"done": {"exit_code", "failure", "at"}}           my ranks have ended, so
    first → all    {"verdict": {"exit_code", "failure"} or {}}        all have, or are lost: leave, with this
    first → host   {"refused": why}
    either way     {"beat": true}                                     I am alive

Whoever does not come in time is named; whoever falls silent is named after SILENCE, and lost after `peer_timeout`.
A connection that breaks is a supervisor that is gone: lost at once.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

from trainkit.contract.outcome import Outcome
from trainkit.errors import PeerLost, TrainkitError
from trainkit.launch.council import HostEnd, decide
from trainkit.launch.loop import Loop
from trainkit.launch.wire import Wire
from trainkit.plan.launch import LaunchPlan, Meeting
from trainkit.plan.world import World

VERSION = 1
BEAT = 2.0
"""Seconds between two beats."""
SILENCE = 10.0
"""Seconds without a word from a host after which it is named in the log."""
_SIOCGIFADDR = 0x8915  # Linux's request for an interface's address; elsewhere it fails, which is an answer too
_RETRY = (0.02, 1.0)  # seconds between two attempts to reach the first host: the first pause, and the longest


class Ears(NamedTuple):
    """What a supervisor wants to hear of."""

    end: Callable[[], None]  # another host has failed
    stop: Callable[[int], None]  # another host was told to stop
    agreed: Callable[[int], None]  # the boundary after whose step all ranks stop
    say: Callable[[str], None]  # something for the log


class Listening:
    """What both ends do alike: beat, and notice silence."""

    def __init__(self, plan: LaunchPlan, ears: Ears) -> None:
        self._plan = plan
        self._ears = ears
        self._timeout = plan.job.settings.peer_timeout
        self._next_beat = time.monotonic() + BEAT
        self._silent: set[str] = set()
        self.verdict: Outcome | None = None
        """What the job ended with, once all is over; without a failure, Outcome(0)."""

    def _wired(self) -> dict[str, Wire]:
        """Host → open wire."""
        raise NotImplementedError

    def _gone(self, host: str, why: str, *, silent_for: float = 0.0) -> None:
        raise NotImplementedError

    @property
    def next_tick(self) -> float:
        """The monotonic time at which `tick` wants to be called."""
        return self._next_beat

    def tick(self) -> None:
        """Beat, and look who has been silent."""
        now = time.monotonic()
        if now < self._next_beat:
            return
        late, self._next_beat = now - self._next_beat, now + BEAT
        for host, wire in list(self._wired().items()):
            wire.send({"beat": True})
            silence = now - wire.heard_at
            # If we ourselves did not run for a while, what they sent is still waiting to be read.
            if late > BEAT or silence < SILENCE:
                if host in self._silent and silence < SILENCE:
                    self._silent.discard(host)
                    self._ears.say(f"{host} is heard again")
                continue
            if host not in self._silent:
                self._silent.add(host)
                self._ears.say(f"nothing heard from {host} for {silence:.0f} s")
            if self._timeout and silence > self._timeout:
                wire.close()
                self._gone(host, f"nothing was heard from it for {silence:.0f} s", silent_for=silence)


class Hub(Listening):
    """The first host's end: waits for all the others, then tells all of them the same."""

    def __init__(self, loop: Loop, plan: LaunchPlan, ears: Ears) -> None:
        super().__init__(plan, ears)
        self._loop = loop
        self._hosts = plan.world.hosts
        self._waiting_for = set(self._hosts) - {plan.host}
        self._procs = {plan.host: len(plan.ranks)}
        self._wires: dict[str, Wire] = {}
        self._clocks: dict[str, float] = {}  # how far each host's clock is ahead of ours, seconds
        self._ends: dict[str, HostEnd] = {}
        self._passed: dict[str, int] = {}
        self._started = False
        self._ending = False
        self._listener = self._listen(plan)
        loop.watch(self._listener.fileno(), self._accept)

    @property
    def complete(self) -> bool:
        return not self._waiting_for

    def missing(self) -> str:
        """Who has not come, for people."""
        return (
            f"{', '.join(sorted(self._waiting_for))} did not come; {self._plan.host} waited for "
            f"{len(self._hosts) - 1} hosts at port {self._listener.getsockname()[1]}; look at the missing hosts' own "
            f"logs, and whether the security group lets hosts of this job talk to each other"
        )

    def welcome(self, *, port: int, agent_store: bool) -> Meeting:
        """All are here: tell everyone where ranks meet."""
        self._started = True
        self._tell({"procs": self._procs, "port": port, "agent_store": agent_store})
        return Meeting(World.of(self._hosts, self._procs), port, agent_store)

    def failed(self) -> None:
        """A rank of ours has failed."""
        self._end()

    def stop(self, number: int) -> None:
        """We were told to stop."""
        self._tell({"stop": number})

    def passed(self, count: int) -> None:
        """The highest boundary that a rank of ours has passed."""
        self._has_passed(self._plan.host, count)

    def done(self, end: HostEnd) -> None:
        """Our own ranks have ended."""
        self._ended(end)

    def close(self) -> None:
        for wire in self._wires.values():
            wire.close()
        self._loop.unwatch(self._listener.fileno())
        self._listener.close()

    def _wired(self) -> dict[str, Wire]:
        return {host: wire for host, wire in self._wires.items() if wire.open}

    def _tell(self, message: dict[str, Any]) -> None:
        for wire in list(self._wires.values()):
            wire.send(message)

    def _end(self) -> None:
        """A host has failed: everyone's ranks wait for ranks that will not come."""
        if not self._ending:
            self._ending = True
            self._tell({"end": True})
            self._ears.end()

    def _has_passed(self, host: str, count: int) -> None:
        self._passed[host] = count
        if set(self._passed) >= set(self._hosts):
            agreed = max(self._passed.values())
            self._tell({"agreed": agreed})
            self._ears.agreed(agreed)

    def _ended(self, end: HostEnd) -> None:
        """One more host is through. When all are, the verdict."""
        self._ends.setdefault(end.host, end)
        if end.failure:
            self._end()
        # Before the start, hosts that never came are not waited for when the job has failed.
        expected = set(self._hosts) if self._started else {self._plan.host, *self._wires}
        if self.verdict is None and expected <= set(self._ends):
            verdict = decide(self._ends.values())
            self.verdict = verdict or Outcome(0)
            self._tell({"verdict": {"exit_code": verdict.exit_code, "failure": verdict.failure} if verdict else {}})

    def _gone(self, host: str, why: str, *, silent_for: float = 0.0) -> None:
        if host in self._ends:
            return
        if not self._started and not self._ending:
            del self._wires[host]  # it came and went: it may come again
            self._waiting_for.add(host)
            return
        self._ears.say(f"lost {host}: {why}")
        self._ended(HostEnd.lost(host, why, at=time.time() - silent_for))

    def _listen(self, plan: LaunchPlan) -> socket.socket:
        address = (_own_address(plan), plan.link_port)
        listener = socket.socket(socket.AF_INET)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
        except OSError as error:
            listener.close()
            raise TrainkitError(
                f"{plan.host} cannot listen at {address[0] or 'any address'}:{plan.link_port} for the other hosts: "
                f"{error.strerror}. Set TRAINKIT_PORT to a free port, on all hosts alike"
            ) from None
        listener.listen(min(len(self._hosts) * 2, 4096))
        listener.setblocking(False)
        return listener

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return
        wire = Wire(self._loop, connection, lambda m: self._heard(wire, m), lambda: self._closed(wire))

    def _closed(self, wire: Wire) -> None:
        for host in [host for host, known in self._wires.items() if known is wire]:
            self._gone(host, "its connection broke: its supervisor is gone")

    def _heard(self, wire: Wire, message: dict[str, Any]) -> None:
        if "trainkit" in message:
            self._hello(wire, message)
            return
        host = next((host for host, known in self._wires.items() if known is wire), None)
        if host is None:
            wire.close()  # it did not say who it is
        elif "failed" in message:
            self._end()
        elif "passed" in message:
            self._has_passed(host, int(message["passed"]))
        elif "stop" in message:
            self._tell({"stop": message["stop"]})
            self._ears.stop(int(message["stop"]))
        elif "done" in message:
            try:
                self._ended(HostEnd.of(message["done"], host=host, clock_ahead=self._clocks[host]))
            except (KeyError, TypeError, ValueError):
                self._gone(host, "it said something that makes no sense")

    def _hello(self, wire: Wire, message: dict[str, Any]) -> None:
        host, procs = message.get("host"), message.get("procs")
        if message["trainkit"] != VERSION:
            why = f"{self._plan.host} speaks version {VERSION} of trainkit's link: run the same image on all hosts"
        elif message.get("job") != self._plan.job.name:
            why = f"{self._plan.host} runs job {self._plan.job.name!r}: two jobs share the port; set TRAINKIT_PORT"
        elif not isinstance(host, str) or host not in self._waiting_for:
            why = f"{self._plan.host} expects no {host!r} now, or has met it already"
        elif not isinstance(procs, int) or not 1 <= procs <= 1024:
            why = f"{procs!r} is no number of ranks"
        else:
            self._waiting_for.discard(host)
            self._procs[host] = procs
            self._wires[host] = wire
            now = message.get("now")
            self._clocks[host] = now - time.time() if isinstance(now, int | float) else 0.0
            return
        wire.send({"refused": why})
        wire.close()


class Spoke(Listening):
    """Every other host's end."""

    def __init__(self, loop: Loop, plan: LaunchPlan, ears: Ears) -> None:
        super().__init__(plan, ears)
        self._loop = loop
        self._pause = _RETRY[0]
        self._next_try = 0.0
        self._trying: socket.socket | None = None
        self._wire: Wire | None = None
        self._problem = "not tried yet"
        self._own_end: HostEnd | None = None
        self._lost: HostEnd | None = None
        self.meeting: Meeting | None = None

    @property
    def complete(self) -> bool:
        return self.meeting is not None

    @property
    def next_try(self) -> float | None:
        """The monotonic time at which `attempt` wants to be called, if it does."""
        return None if self.connected or self._trying or self.meeting else self._next_try

    @property
    def connected(self) -> bool:
        """Whether the first host has been reached: it is the one that knows who is missing."""
        return self._wire is not None and self._wire.open

    def missing(self) -> str:
        """Why there was no meeting, for people."""
        where = f"{self._plan.world.first} ({self._plan.master}:{self._plan.link_port})"
        if self.connected:
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

    def failed(self) -> None:
        """A rank of ours has failed."""
        self._send({"failed": True})

    def stop(self, number: int) -> None:
        """We were told to stop."""
        self._send({"stop": number})

    def passed(self, count: int) -> None:
        """The highest boundary that a rank of ours has passed."""
        self._send({"passed": count})

    def done(self, end: HostEnd) -> None:
        """Our ranks have ended."""
        self._own_end = end
        self._send({"done": end.message()})
        self._decide_alone()

    def close(self) -> None:
        if self._trying:
            self._give_up_try()
        if self._wire:
            self._wire.close()

    def _wired(self) -> dict[str, Wire]:
        return {self._plan.world.first: self._wire} if self._wire and self._wire.open else {}

    def _send(self, message: dict[str, Any]) -> None:
        if self._wire:
            self._wire.send(message)

    def _gone(self, host: str, why: str, *, silent_for: float = 0.0) -> None:
        if self.verdict or not self.meeting:
            return
        self._ears.say(f"lost {host}: {why}")
        self._lost = HostEnd.lost(host, why, at=time.time() - silent_for)
        self._ears.end()
        self._decide_alone()

    def _decide_alone(self) -> None:
        """Without the first host, our own end and its loss are all that there is to judge by."""
        cut_off = self._wire is None or not self._wire.open
        if cut_off and self._own_end and self.verdict is None:
            self.verdict = decide(filter(None, (self._own_end, self._lost))) or Outcome(0)

    def _connected(self) -> None:
        assert self._trying
        error = self._trying.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            self._problem = os.strerror(error)
            self._give_up_try()
            return
        connection, self._trying = self._trying, None
        self._loop.unwatch(connection.fileno())
        self._wire = Wire(self._loop, connection, self._heard, self._closed)
        plan = self._plan
        hello = {"trainkit": VERSION, "job": plan.job.name, "host": plan.host, "procs": len(plan.ranks)}
        self._wire.send({**hello, "now": time.time()})

    def _closed(self) -> None:
        self._gone(self._plan.world.first, "its connection broke: its supervisor is gone")

    def _heard(self, message: dict[str, Any]) -> None:
        if "refused" in message:
            raise PeerLost(f"{self._plan.world.first} refused {self._plan.host}: {message['refused']}")
        if "verdict" in message:
            told = message["verdict"]
            self.verdict = Outcome(told["exit_code"], told["failure"]) if told else Outcome(0)
        elif "end" in message:
            self._ears.end()
        elif "stop" in message:
            self._ears.stop(int(message["stop"]))
        elif "agreed" in message:
            self._ears.agreed(int(message["agreed"]))
        elif "procs" in message:
            world = World.of(self._plan.world.hosts, message["procs"])
            self.meeting = Meeting(world, message["port"], message["agent_store"])

    def _give_up_try(self) -> None:
        if self._trying:
            self._loop.unwatch(self._trying.fileno())
            with suppress(OSError):
                self._trying.close()
            self._trying = None


def _own_address(plan: LaunchPlan) -> str:
    """Where to listen: on the job's interface; on every address where that one is not to be found.

    Not on what our own name resolves to, in general: Debian and Ubuntu make that 127.0.1.1. Local hosts share the
    loopback interface, and there names are all there is.
    """
    if plan.host in plan.job.addresses:
        return plan.job.addresses[plan.host]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        name = (plan.job.cluster.interface or "").encode()[:15]
        try:
            answer = fcntl.ioctl(any_socket, _SIOCGIFADDR, struct.pack("256s", name))
            address = socket.inet_ntoa(answer[20:24])
            return str(_resolve(plan.host, 0)[0][4][0]) if address.startswith("127.") else address
        except OSError:
            return ""


def _resolve(host: str, port: int) -> list[tuple[Any, ...]]:
    return list(socket.getaddrinfo(host, port, family=socket.AF_INET, type=socket.SOCK_STREAM))
