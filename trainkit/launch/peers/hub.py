"""The first host's end of the link."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection
from functools import partial
from typing import Any

from trainkit.contract.outcome import Outcome
from trainkit.errors import PeerLost
from trainkit.launch.loop import Loop
from trainkit.launch.peers.address import listen
from trainkit.launch.peers.council import HostEnd, decide
from trainkit.launch.peers.door import Door, Guest
from trainkit.launch.peers.listening import SENSELESS, Again, Ears, Listening, nothing
from trainkit.launch.peers.wire import NONSENSE, Wire
from trainkit.launch.preflight import differences
from trainkit.launch.watch import Report, Stance
from trainkit.plan.launch import LaunchPlan, Meeting
from trainkit.plan.world import World

_MOST_STEPS = 1 << 62  # what a stop board can hold


class Hub(Listening):
    """Waits for all the others, then tells all of them the same."""

    def __init__(self, loop: Loop, plan: LaunchPlan, ears: Ears, *, key: bytes) -> None:
        super().__init__(plan, ears)
        self._hosts = plan.world.hosts
        self._waiting_for = set(self._hosts) - {plan.host}
        self._unprepared: set[str] = set()  # they are here, and still busy with their code
        self._procs = {plan.host: len(plan.ranks)}
        self._wires: dict[str, Wire] = {}
        self._clocks: dict[str, float] = {}  # how far each host's clock is ahead of ours, seconds
        self._traits = {plan.host: ears.traits}
        self._ends: dict[str, HostEnd] = {}
        self._passed: dict[str, int] = {}
        self.secret = os.urandom(32) if plan.cluster else b""
        self._started = False
        self._beginning = False
        self._door = Door(
            loop, listen(plan), plan, key=key, expects=self._waiting_for.__contains__, admit=self._admit, say=ears.say
        )  # fmt: skip

    @property
    def complete(self) -> bool:
        return not self._waiting_for and not self._unprepared

    @property
    def met(self) -> bool:
        """Whether every host has come, ready or not."""
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
        for text in differences({host: self._traits[host] for host in self._hosts}, self._clocks):
            self._ears.say(f"warning: {text}")
        self.meeting = Meeting(World.of(self._hosts, self._procs), port, agent_store)
        if self.secret:
            for wire in list(self._wires.values()):
                wire.send({"secret": wire.cover(self.secret).hex()})
        self._send_meeting(self.meeting)
        return self.meeting

    def failed(self) -> None:
        """A rank of ours has failed."""
        self._end()

    def up(self) -> None:
        """In a cluster: the engine's head answers."""
        self._tell({"up": True})

    def release(self) -> None:
        """In a cluster: our one command has ended well."""
        self._tell({"released": True})

    def absent(self, hosts: Collection[str], why: str) -> None:
        """In a cluster: these hosts' daemons have not joined, and they are to say what they know of it."""
        self._tell({"absent": sorted(hosts), "why": why})

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
        if end.host in self._ends and not self._ends[end.host].failure:
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
            wire.send({**message, "generation": self.generation})

    def _end(self, *, lost: bool = False) -> None:
        """A rank has failed, or a host is lost: everyone's ranks wait for ranks that will not come."""
        if not self.ending:
            self.ending = True
            self._tell({"end": True, "lost": lost})
            self._ears.end(lost)

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
            self._end(lost=end.exit_code == PeerLost.exit_code)
        # Before the start, hosts that never came are not waited for when the job has failed.
        expected = set(self._hosts) if self._started else {self._plan.host, *self._wires}
        if self.verdict is None and expected <= set(self._ends):
            verdict = decide(self._ends.values())
            all_here = self._started and all(wire.alive for wire in self._wires.values())
            if verdict and all_here and (again := self._ears.again(verdict)):
                self._begin(again)
                return
            self.verdict = verdict or Outcome(0)
            self._tell({"verdict": {"exit_code": verdict.exit_code, "failure": verdict.failure} if verdict else {}})

    def _begin(self, again: Again) -> None:
        """Another generation: all hosts start their ranks again."""
        self._ends.clear()
        self._passed.clear()
        self.ending = False
        self.meeting = again.meeting
        self._beginning = True  # whoever turns out to be gone is told of when all others know what begins
        self._send_meeting(again.meeting, why=again.why)
        self._beginning = False
        for host, wire in list(self._wires.items()):
            if not wire.open:
                self._gone(host, "its connection broke: its supervisor is gone")

    def _send_meeting(self, meeting: Meeting, *, why: str = "") -> None:
        where = {"port": meeting.port, "agent_store": meeting.agent_store}
        self._tell({"procs": self._procs, **where, "why": why})

    def _gone(self, host: str, why: str, *, silent_for: float = 0.0) -> None:
        if host in self._ends or self._beginning:
            return
        if not self._started and not self.ending:
            del self._wires[host]  # it came and went: it may come again
            self._waiting_for.add(host)
            self._unprepared.discard(host)
            self._ears.say(f"lost {host}, before the ranks have started: {why}. It is waited for again")
            return
        self._ears.say(f"lost {host}: {why}")
        self._ended(HostEnd.lost(host, why, at=time.time() - silent_for))

    def _admit(self, guest: Guest) -> None:
        host, wire = guest.host, guest.wire
        self._waiting_for.discard(host)
        self._procs[host] = guest.procs
        if not guest.prepared:
            self._unprepared.add(host)
        self._clocks[host] = guest.clock_ahead
        self._traits[host] = guest.traits
        self._wires[host] = wire
        wire.hand_over(lambda message: self._told(host, wire, message), lambda why: self._closed(host, wire, why))

    def _closed(self, host: str, wire: Wire, why: str) -> None:
        if self._wires.get(host) is wire:
            self._gone(host, why)

    def _told(self, host: str, wire: Wire, message: dict[str, Any]) -> None:
        try:
            act = self._understood(host, message)
        except SENSELESS:
            wire.close()
            self._closed(host, wire, NONSENSE)
        else:
            act()

    def _understood(self, host: str, message: dict[str, Any]) -> Callable[[], None]:
        """What to do now. Raises one of SENSELESS where the message makes no sense."""
        if "beat" in message and message["beat"] is not True:
            self._clocks[host] = float(message["now"]) - time.time()
            return partial(self._ears.reported, host, Report.of(message["beat"]))
        if "stop" in message:  # of the job, whichever of its generations it crosses with
            return partial(self._stopped, int(message["stop"]))
        if "generation" in message and message["generation"] != self.generation:
            return nothing  # its ranks of then have ended
        if "prepared" in message:
            return partial(self._unprepared.discard, host)
        if "failed" in message:
            return self._end
        if "passed" in message:
            return partial(self._has_passed, host, min(max(int(message["passed"]), 0), _MOST_STEPS))
        if "stances" in message and self.meeting:
            own = self.meeting.world.ranks(host)
            stances = [Stance.of(stance, host=host) for stance in message["stances"]]
            return partial(self._ears.shown, host, [stance for stance in stances if stance.rank in own])
        if "done" in message:
            return partial(self._ended, HostEnd.of(message["done"], host=host, clock_ahead=self._clocks[host]))
        return nothing

    def _stopped(self, number: int) -> None:
        """A host was told to stop."""
        self._tell({"stop": number})
        self._ears.stop(number)
