"""Every other host's end of the link."""

from __future__ import annotations

import errno
import math
import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

from trainkit.contract.environ import CLUSTER_KEY
from trainkit.contract.outcome import Outcome
from trainkit.contract.seal import Seal, nonce
from trainkit.errors import PeerLost
from trainkit.launch.loop import Loop
from trainkit.launch.peers.council import HostEnd, decide
from trainkit.launch.peers.listening import SENSELESS, VERSION, Ears, Listening, facts, listing, nothing
from trainkit.launch.peers.resolving import Resolving, is_address
from trainkit.launch.peers.wire import FORGED, NONSENSE, Wire
from trainkit.launch.watch import Stance
from trainkit.plan.launch import LaunchPlan, Meeting
from trainkit.plan.world import World

_RETRY = (0.02, 1.0)  # seconds between two attempts to reach the first host: the first pause, and the longest
PATIENCE = 10.0
"""Seconds in which the first host has to take a connection and greet, before another is tried."""


class Spoke(Listening):
    """Finds the first host, says who it is, and goes by what that one tells."""

    def __init__(self, loop: Loop, plan: LaunchPlan, ears: Ears, *, key: bytes) -> None:
        super().__init__(plan, ears)
        self._loop = loop
        self._key = key
        self._nonce = ""
        self._pause = _RETRY[0]
        self._next_try = 0.0
        self._resolving: Resolving | None = None
        self._trying: socket.socket | None = None
        self._give_up_at = math.inf
        self._wire: Wire | None = None
        self._problem = "not tried yet"
        self._own_end: HostEnd | None = None
        self._lost: HostEnd | None = None
        self._prepared = True

    @property
    def met(self) -> bool:
        """Whether the first host has been reached."""
        return self.connected

    def prepare(self) -> None:
        """This host is busy with its code: the others are not to start without it."""
        self._prepared = False

    def prepared(self) -> None:
        """That is done."""
        self._prepared = True  # where we are not connected yet, the greeting says so
        self._send({"prepared": True})

    @property
    def next_try(self) -> float | None:
        """The monotonic time at which `attempt` wants to be called, if it does."""
        busy = self._resolving or self._trying or (self._wire and self._wire.open)
        return None if busy or self.meeting else self._next_try

    @property
    def connected(self) -> bool:
        """Whether the first host has been reached: it is the one that knows who is missing."""
        return self._wire is not None and self._wire.open and self._wire.proven

    @property
    def first_address(self) -> str:
        """Where the first host was reached. Raises OSError where it is gone."""
        if self._wire is None:
            raise OSError(self._problem)
        return self._wire.address

    @property
    def next_tick(self) -> float:
        return min(super().next_tick, self._give_up_at)

    def tick(self) -> None:
        if time.monotonic() >= self._give_up_at:
            self._give_up_try()
            self._decide_alone()
        super().tick()

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
        master = self._plan.master
        try:
            if is_address(master):
                self._connect(master)
            else:
                self._problem = "its name is still being looked up"
                self._resolving = Resolving(self._loop, master, self._resolved)
        except OSError as error:
            self._problem = f"this host cannot even try ({error.strerror})"

    def _resolved(self, address: str | None, problem: str) -> None:
        self._resolving = None
        if address is None:
            self._problem = f"the name does not resolve ({problem})"
            return
        try:
            self._connect(address)
        except OSError as error:
            self._problem = f"this host cannot even try ({error.strerror})"

    def _connect(self, address: str) -> None:
        """Begin to. Raises OSError where that fails at once."""
        connection = socket.socket(socket.AF_INET)
        connection.setblocking(False)
        error = connection.connect_ex((address, self._plan.link_port))
        if error not in (0, errno.EINPROGRESS):
            connection.close()
            raise OSError(error, os.strerror(error))
        self._problem = "nothing answers"
        self._trying = connection
        self._give_up_at = time.monotonic() + PATIENCE
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

    def shown(self, stances: list[Stance]) -> None:
        """Where our ranks stand."""
        self._send({"stances": stances})

    def done(self, end: HostEnd) -> None:
        """Our ranks have ended."""
        self._own_end = end
        self._send({"done": end.message()})
        self._decide_alone()

    def close(self) -> None:
        self._give_up_try()
        if self._resolving:
            self._resolving.close()
            self._resolving = None
        if self._wire:
            self._wire.close()

    def _wired(self) -> dict[str, Wire]:
        return {self._plan.world.first: self._wire} if self._wire and self.connected else {}

    def _beat(self) -> dict[str, Any]:
        return {"beat": self._ears.report().message(), "now": time.time()}

    def _send(self, message: dict[str, Any]) -> None:
        if self._wire:
            self._wire.send({**message, "generation": self.generation})

    def _gone(self, host: str, why: str, *, silent_for: float = 0.0) -> None:
        if self.verdict:
            return
        if self.meeting:  # else it is tried again
            self._ears.say(f"lost {host}: {why}")
            self._lost = HostEnd.lost(host, why, at=time.time() - silent_for)
            self._told_to_end(True)
        elif self._wire and self._wire.proven:
            self._ears.say(f"lost {host}, before the ranks have started: {why}. It is sought again")
        self._decide_alone()

    def _decide_alone(self) -> None:
        """Without the first host, our own end and its loss are all that there is to judge by."""
        cut_off = self._wire is None or not self._wire.open
        if cut_off and self._own_end and self.verdict is None:
            verdict = decide([end for end in (self._own_end, self._lost) if end]) or Outcome(0)
            self.verdict = replace(verdict, alone=True)

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
        self._problem = "what listens there does not answer as a first host does"
        self._nonce = nonce()
        plan = self._plan
        self._wire.greet(
            {"trainkit": VERSION, "job": plan.job.name, "host": plan.host, "hosts": listing(plan), "nonce": self._nonce}
        )

    def _closed(self, why: str) -> None:
        self._give_up_at = math.inf
        if why == FORGED and not self.meeting:
            self._problem = f"what listens there has another key: set {CLUSTER_KEY} alike on all hosts"
        self._gone(self._plan.world.first, why)

    def _greeted(self, message: dict[str, Any]) -> None:
        """The first host has not shown yet who it is: it may greet and refuse, and that is all we hear."""
        assert self._wire
        if "refused" in message:
            why = "".join(letter if letter.isprintable() else " " for letter in str(message["refused"]))
            self._wire.close()
            raise PeerLost(f"{self._plan.world.first} refused {self._plan.host}: {why}")
        theirs = message.get("nonce")
        if isinstance(theirs, str) and self._nonce:
            seal = Seal(self._key, *facts(self._plan, self._plan.host, self._nonce, theirs), first=False)
            self._nonce = ""
            here = {"procs": len(self._plan.ranks), "now": time.time(), "prepared": self._prepared}
            self._wire.seal_with(seal, here | {"traits": dict(self._ears.traits)})

    def _heard(self, message: dict[str, Any]) -> None:
        if not self.connected:
            self._greeted(message)
            return
        self._give_up_at = math.inf
        try:
            act = self._understood(message)
        except SENSELESS:
            assert self._wire
            self._wire.close()
            self._closed(NONSENSE)
        else:
            act()

    def _understood(self, message: dict[str, Any]) -> Callable[[], None]:
        """What to do now. Raises one of SENSELESS where the message makes no sense."""
        if "verdict" in message:
            told = message["verdict"]
            return partial(self._judged, Outcome(int(told["exit_code"]), told["failure"]) if told else Outcome(0))
        if "procs" in message:
            world = World.of(self._plan.world.hosts, message["procs"])
            meeting = Meeting(world, int(message["port"]), bool(message["agent_store"]), int(message["generation"]))
            return partial(self._welcomed, meeting, str(message["why"]))
        if "secret" in message and self._wire:
            return partial(self._shared, self._wire.cover(bytes.fromhex(message["secret"])))
        if "stop" in message:
            return partial(self._ears.stop, int(message["stop"]))
        if "generation" in message and message["generation"] != self.generation:
            return nothing  # our ranks of then have ended
        if "end" in message:
            return partial(self._told_to_end, bool(message["lost"]))
        if "up" in message:
            return self._ears.up
        if "released" in message:
            return self._ears.released
        if "absent" in message:
            missed = self._plan.host in message["absent"]
            return partial(self._ears.absent, str(message["why"])) if missed else nothing
        if "agreed" in message:
            return partial(self._ears.agreed, int(message["agreed"]))
        return self._ears.show if "show" in message else nothing

    def _judged(self, verdict: Outcome) -> None:
        self.verdict = verdict

    def _shared(self, secret: bytes) -> None:
        self.secret = secret

    def _welcomed(self, meeting: Meeting, why: str) -> None:
        """All hosts are here, or all ranks start again."""
        self._own_end = None
        self.ending = False
        self.meeting = meeting
        if why:
            self._ears.say(why)

    def _told_to_end(self, lost: bool) -> None:
        self.ending = True
        self._ears.end(lost)

    def _give_up_try(self) -> None:
        if self._trying:
            self._loop.unwatch(self._trying.fileno())
            with suppress(OSError):
                self._trying.close()
            self._trying = None
        if self._wire and not self._wire.proven:
            self._wire.close()
        self._give_up_at = math.inf
