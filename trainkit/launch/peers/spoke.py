"""Every other host's end of the link."""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress
from typing import Any

from trainkit.contract.outcome import Outcome
from trainkit.errors import PeerLost
from trainkit.launch.loop import Loop
from trainkit.launch.peers.council import HostEnd, decide
from trainkit.launch.peers.listening import VERSION, Ears, Listening, resolve
from trainkit.launch.peers.wire import Wire
from trainkit.launch.watch import Stance
from trainkit.plan.launch import LaunchPlan, Meeting
from trainkit.plan.world import World

_RETRY = (0.02, 1.0)  # seconds between two attempts to reach the first host: the first pause, and the longest


class Spoke(Listening):
    """Finds the first host, says who it is, and goes by what that one tells."""

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
            family, kind, protocol, _, address = resolve(self._plan.master, self._plan.link_port)[0]
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

    def shown(self, stances: list[Stance]) -> None:
        """Where our ranks stand."""
        self._send({"stances": stances})

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

    def _beat(self) -> Any:
        return self._ears.report().message()

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
        elif "show" in message:
            self._ears.show()
        elif "procs" in message:
            world = World.of(self._plan.world.hosts, message["procs"])
            self._own_end = None
            self.meeting = Meeting(world, message["port"], message["agent_store"], message["generation"])
            if message["why"]:
                self._ears.say(message["why"])

    def _give_up_try(self) -> None:
        if self._trying:
            self._loop.unwatch(self._trying.fileno())
            with suppress(OSError):
                self._trying.close()
            self._trying = None
