"""The first host's door: who knocks says which host it is and shows that it knows the key, or stays outside.

    a stranger   {"trainkit": 2, "job", "host", "nonce"}    compared with ours, word by word: refusals say what differs
    the door     {"nonce"}
    a stranger   {"procs", "now", "traits"}, sealed         it knows the key: no stranger any more
    the door     {"beat": true}, sealed                     so do we

Strangers may send anything or nothing. They have STRANGER seconds, their number is bounded, and none is waited for.
"""

from __future__ import annotations

import errno
import math
import os
import socket
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from trainkit.contract.environ import CLUSTER_KEY
from trainkit.contract.seal import Seal, nonce
from trainkit.launch.loop import Loop
from trainkit.launch.peers.listening import VERSION, facts, listing
from trainkit.launch.peers.wire import FORGED, Wire
from trainkit.launch.preflight import UNTOLD, Traits
from trainkit.plan.launch import LaunchPlan

STRANGER = 10.0
"""Seconds in which a connection has to show that it is a host of the job."""
_PAUSE = 1.0  # seconds without accepting, where the process or the machine is out of descriptors or memory
_OUT_OF = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Guest(NamedTuple):
    """A host that has shown who it is."""

    host: str
    procs: int
    clock_ahead: float
    """How far its clock is ahead of ours, seconds."""
    wire: Wire
    prepared: bool = True
    """Whether it is ready to start, rather than busy with its code."""
    traits: Traits = UNTOLD


class _Stranger:
    def __init__(self) -> None:
        self.until = time.monotonic() + STRANGER
        self.host: str | None = None


class Door:
    """Takes the listening socket, and closes it. `admit` gets each host that `expects` wants to see."""

    def __init__(
        self,
        loop: Loop,
        listener: socket.socket,
        plan: LaunchPlan,
        *,
        key: bytes,
        expects: Callable[[str], bool],
        admit: Callable[[Guest], None],
        say: Callable[[str], None],
    ) -> None:
        self._loop = loop
        self._listener = listener
        self._plan = plan
        self._key = key
        self._expects = expects
        self._admit = admit
        self._say = say
        self._strangers: dict[Wire, _Stranger] = {}  # the earliest first, so their times are in order
        self._most = 2 * len(plan.world.hosts) + 64
        self._shut_until: float | None = None
        self._complaints: set[str] = set()
        self.others_list: set[str] = set()
        """Hosts that came with another list of hosts, or strangers in their name."""
        self.port: int = listener.getsockname()[1]
        loop.watch(listener.fileno(), self._accept)

    @property
    def next_tick(self) -> float:
        """The monotonic time at which `tick` wants to be called."""
        patience = next((stranger.until for stranger in self._strangers.values()), math.inf)
        return min(patience, self._shut_until or math.inf)

    def tick(self) -> None:
        """Send away who was given time enough, and open again."""
        now = time.monotonic()
        for wire in [wire for wire, stranger in self._strangers.items() if stranger.until <= now]:
            self._send_away(wire)
        if self._shut_until and self._shut_until <= now:
            self._shut_until = None
            self._loop.watch(self._listener.fileno(), self._accept)

    def close(self) -> None:
        for wire in list(self._strangers):
            self._send_away(wire)
        if not self._shut_until:
            self._loop.unwatch(self._listener.fileno())
        self._listener.close()

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError as error:
            if error.errno in _OUT_OF:
                self._shut(os.strerror(error.errno))
            return
        if len(self._strangers) >= self._most:
            # Not the newcomer: a host of ours is through in a moment, and who lingers is none.
            self._send_away(next(iter(self._strangers)))
        wire = Wire(self._loop, connection, lambda m: self._heard(wire, m), lambda why: self._left(wire, why))
        self._strangers[wire] = _Stranger()

    def _shut(self, why: str) -> None:
        """Who knocks keeps waiting in the kernel's queue, and the loop would turn without end for it."""
        self._complain(f"cannot take a connection: {why}; trying again every {_PAUSE:g} s")
        self._loop.unwatch(self._listener.fileno())
        self._shut_until = time.monotonic() + _PAUSE

    def _left(self, wire: Wire, why: str) -> None:
        stranger = self._strangers.pop(wire, None)
        if stranger and stranger.host and why == FORGED:
            self._complain(f"refused a connection: {self._other_key(stranger.host)}")

    def _send_away(self, wire: Wire, why: str | None = None) -> None:
        del self._strangers[wire]
        if why:
            wire.refuse(why)
        else:
            wire.close()

    def _heard(self, wire: Wire, message: dict[str, Any]) -> None:
        stranger = self._strangers[wire]
        if wire.proven and stranger.host:
            self._enter(wire, stranger.host, message)
        elif "trainkit" in message and not stranger.host:
            self._greeted(wire, stranger, message)
        else:
            self._send_away(wire)

    def _greeted(self, wire: Wire, stranger: _Stranger, message: dict[str, Any]) -> None:
        plan, host, theirs = self._plan, message.get("host"), message.get("nonce")
        if message["trainkit"] != VERSION:
            why = f"{plan.host} speaks version {VERSION} of trainkit's link: run the same image on all hosts"
        elif message.get("job") != plan.job.name:
            why = f"{plan.host} runs job {plan.job.name!r}: two jobs share the port; set TRAINKIT_PORT"
        elif not isinstance(host, str) or not self._expects(host):
            why = self._unexpected(host)
        elif message.get("hosts") != listing(plan):
            why = self._other_list(host)
        elif not isinstance(theirs, str):
            why = "that is no greeting"
        else:
            stranger.host = host
            ours = nonce()
            wire.greet({"nonce": ours})
            seal = Seal(self._key, *facts(plan, host, theirs, ours), first=True)
            wire.seal_with(seal, refusal=self._other_key(host))
            return
        self._send_away(wire, why)

    def _enter(self, wire: Wire, host: str, message: dict[str, Any]) -> None:
        procs, now = message.get("procs"), message.get("now")
        if not self._expects(host):  # another connection was quicker
            self._send_away(wire, self._unexpected(host))
        elif not isinstance(procs, int) or not 1 <= procs <= 1024:
            self._send_away(wire, f"{procs!r} is no number of ranks")
        else:
            del self._strangers[wire]
            ahead = now - time.time() if isinstance(now, int | float) else 0.0
            prepared = message.get("prepared") is not False
            self._admit(Guest(host, procs, ahead, wire, prepared, _plain(message.get("traits"))))
            wire.send({"beat": True})

    def _unexpected(self, host: object) -> str:
        return f"{self._plan.host} expects no {host!r} now, or has met it already"

    def _other_list(self, host: str) -> str:
        hosts = ", ".join(self._plan.world.hosts[:8]) + (", …" if len(self._plan.world.hosts) > 8 else "")
        self.others_list.add(host)
        self._complain(f"refused {host}, which came with another list of hosts: compare resourceconfig.json on both")
        return f"its list of hosts is not that of {self._plan.host} ({hosts}): compare resourceconfig.json on both"

    def _other_key(self, host: str) -> str:
        return (
            f"the key of {host} is not that of {self._plan.host}: {CLUSTER_KEY} differs, or is not set everywhere; "
            f"set it alike on all hosts"
        )

    def _complain(self, what: str) -> None:
        if what not in self._complaints:
            self._complaints.add(what)
            self._say(what)


def _plain(told: object) -> Traits:
    """What a host tells of itself, as far as it is that; nothing depends on it but what is said in the log."""
    members = told.items() if isinstance(told, dict) else ()
    return {str(name)[:40]: value if isinstance(value, int) else str(value)[:40] for name, value in members}
