"""The first host's end of the link."""

from __future__ import annotations

import fcntl
import socket
import struct
import time
from typing import Any

from trainkit.contract.outcome import Outcome
from trainkit.errors import TrainkitError
from trainkit.launch.loop import Loop
from trainkit.launch.peers.council import HostEnd, decide
from trainkit.launch.peers.listening import VERSION, Again, Ears, Listening, resolve
from trainkit.launch.peers.wire import Wire
from trainkit.launch.watch import Report, Stance
from trainkit.plan.launch import LaunchPlan, Meeting
from trainkit.plan.world import World

_SIOCGIFADDR = 0x8915  # Linux's request for an interface's address; elsewhere it fails, which is an answer too


class Hub(Listening):
    """Waits for all the others, then tells all of them the same."""

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
        elif "beat" in message and message["beat"] is not True:
            self._ears.reported(host, Report.of(message["beat"]))
        elif "stances" in message:
            self._ears.shown(host, [Stance.of(stance, host=host) for stance in message["stances"]])
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
            return str(resolve(plan.host, 0)[0][4][0]) if address.startswith("127.") else address
        except OSError:
            return ""
