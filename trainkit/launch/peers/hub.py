"""The first host's end of the link."""

from __future__ import annotations

import fcntl
import socket
import struct
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from trainkit.contract.outcome import Outcome
from trainkit.errors import TrainkitError
from trainkit.launch.loop import Loop
from trainkit.launch.peers.council import HostEnd, decide
from trainkit.launch.peers.door import Door, Guest
from trainkit.launch.peers.listening import Again, Ears, Listening
from trainkit.launch.peers.resolving import resolve
from trainkit.launch.peers.wire import NONSENSE, Wire
from trainkit.launch.watch import Report, Stance
from trainkit.plan.launch import LaunchPlan, Meeting
from trainkit.plan.world import World

_SIOCGIFADDR = 0x8915  # Linux's request for an interface's address; elsewhere it fails, which is an answer too

_SENSELESS = (LookupError, AttributeError, TypeError, ValueError, OverflowError)


class Hub(Listening):
    """Waits for all the others, then tells all of them the same."""

    def __init__(self, loop: Loop, plan: LaunchPlan, ears: Ears, *, key: bytes) -> None:
        super().__init__(plan, ears)
        self._hosts = plan.world.hosts
        self._waiting_for = set(self._hosts) - {plan.host}
        self._procs = {plan.host: len(plan.ranks)}
        self._wires: dict[str, Wire] = {}
        self._clocks: dict[str, float] = {}  # how far each host's clock is ahead of ours, seconds
        self._ends: dict[str, HostEnd] = {}
        self._passed: dict[str, int] = {}
        self._started = False
        self._ending = False
        self._door = Door(
            loop, _listen(plan), plan, key=key, expects=self._waiting_for.__contains__, admit=self._admit, say=ears.say
        )  # fmt: skip

    @property
    def complete(self) -> bool:
        return not self._waiting_for

    def missing(self) -> str:
        """Who has not come, for people."""
        came = ""
        if others := sorted(self._waiting_for & self._door.others_list):
            came = f"; {', '.join(others)} came with another list of hosts: compare resourceconfig.json on all"
        missing = ", ".join(sorted(self._waiting_for))
        return (
            f"{missing} did not come{came}; {self._plan.host} waited at port {self._door.port}. Look at the missing "
            f"hosts' own logs, and whether the security group lets hosts of this job talk to each other"
        )

    @property
    def next_tick(self) -> float:
        return min(super().next_tick, self._door.next_tick)

    def tick(self) -> None:
        self._door.tick()
        super().tick()

    def welcome(self, *, port: int, agent_store: bool) -> Meeting:
        """All are here: tell everyone where ranks meet."""
        self._started = True
        self.meeting = Meeting(World.of(self._hosts, self._procs), port, agent_store)
        self._send_meeting(self.meeting)
        return self.meeting

    def failed(self) -> None:
        """A rank of ours has failed."""
        self._end()

    def stop(self, number: int) -> None:
        """We were told to stop."""
        self._tell({"stop": number})

    def passed(self, count: int) -> None:
        """The highest boundary that a rank of ours has passed."""
        self._has_passed(self._plan.host, count)

    def show(self) -> None:
        """Nothing goes on: every host is to show its ranks' stacks."""
        self._tell({"show": True})

    def shown(self, stances: list[Stance]) -> None:
        """Where our own ranks stand."""
        self._ears.shown(self._plan.host, stances)

    def blame(self, end: HostEnd) -> None:
        """All ranks are to end for this reason. What we said about our own, if they have ended already, is void."""
        if end.host in self._ends:
            self._ends[end.host] = end
        self._end()

    def done(self, end: HostEnd) -> None:
        """Our own ranks have ended."""
        self._ended(end)

    def close(self) -> None:
        for wire in self._wires.values():
            wire.close()
        self._door.close()

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
            if self._started and verdict and (again := self._ears.again(verdict)):
                self._begin(again)
                return
            self.verdict = verdict or Outcome(0)
            self._tell({"verdict": {"exit_code": verdict.exit_code, "failure": verdict.failure} if verdict else {}})

    def _begin(self, again: Again) -> None:
        """Another generation: all hosts start their ranks again."""
        self._ends.clear()
        self._passed.clear()
        self._ending = False
        self.meeting = again.meeting
        self._send_meeting(again.meeting, why=again.why)
        for host, wire in list(self._wires.items()):
            if not wire.open:  # it broke after its host was done
                self._gone(host, "its connection broke: its supervisor is gone")

    def _send_meeting(self, meeting: Meeting, *, why: str = "") -> None:
        where = {"port": meeting.port, "agent_store": meeting.agent_store, "generation": meeting.generation}
        self._tell({"procs": self._procs, **where, "why": why})

    def _gone(self, host: str, why: str, *, silent_for: float = 0.0) -> None:
        if host in self._ends:
            return
        if not self._started and not self._ending:
            del self._wires[host]  # it came and went: it may come again
            self._waiting_for.add(host)
            return
        self._ears.say(f"lost {host}: {why}")
        self._ended(HostEnd.lost(host, why, at=time.time() - silent_for))

    def _admit(self, guest: Guest) -> None:
        host, wire = guest.host, guest.wire
        self._waiting_for.discard(host)
        self._procs[host] = guest.procs
        self._clocks[host] = guest.clock_ahead
        self._wires[host] = wire
        wire.hand_over(lambda message: self._told(host, wire, message), lambda why: self._closed(host, wire, why))

    def _closed(self, host: str, wire: Wire, why: str) -> None:
        if self._wires.get(host) is wire:
            self._gone(host, why)

    def _told(self, host: str, wire: Wire, message: dict[str, Any]) -> None:
        try:
            act = self._understood(host, message)
        except _SENSELESS:
            wire.close()
            self._closed(host, wire, NONSENSE)
        else:
            act()

    def _understood(self, host: str, message: dict[str, Any]) -> Callable[[], None]:
        """What to do now. Raises one of _SENSELESS where the message makes no sense."""
        if "failed" in message:
            return self._end
        if "passed" in message:
            return partial(self._has_passed, host, int(message["passed"]))
        if "beat" in message and message["beat"] is not True:
            return partial(self._ears.reported, host, Report.of(message["beat"]))
        if "stances" in message:
            return partial(self._ears.shown, host, [Stance.of(stance, host=host) for stance in message["stances"]])
        if "stop" in message:
            return partial(self._stopped, int(message["stop"]))
        if "done" in message:
            return partial(self._ended, HostEnd.of(message["done"], host=host, clock_ahead=self._clocks[host]))
        return lambda: None

    def _stopped(self, number: int) -> None:
        """A host was told to stop."""
        self._tell({"stop": number})
        self._ears.stop(number)


def _listen(plan: LaunchPlan) -> socket.socket:
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
    listener.listen(min(len(plan.world.hosts) * 2, 4096))
    listener.setblocking(False)
    return listener


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
            return resolve(plan.host) if address.startswith("127.") else address
        except OSError:
            return ""
