"""What both ends of the link do alike: beat, and notice silence."""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

from trainkit.contract.outcome import Outcome
from trainkit.launch.peers.wire import Wire
from trainkit.launch.preflight import UNTOLD, Traits
from trainkit.launch.watch import Report, Stance
from trainkit.plan.launch import LaunchPlan, Meeting

VERSION = 3
BEAT = 2.0
"""Seconds between two beats."""
SILENCE = 10.0
"""Seconds without a word from a host after which it is named in the log."""


class Ears(NamedTuple):
    """What a supervisor wants to hear of, and is asked for."""

    end: Callable[[bool], None]  # all ranks are to end: a rank has failed, or (True) a host is lost
    stop: Callable[[int], None]  # another host was told to stop
    agreed: Callable[[int], None]  # the boundary after whose step all ranks stop
    say: Callable[[str], None]  # something for the log
    report: Callable[[], Report]  # how this host's ranks get on?
    reported: Callable[[str, Report], None]  # at the first host: how another's do
    show: Callable[[], None]  # nothing goes on: show the ranks' stacks
    shown: Callable[[str, list[Stance]], None]  # at the first host: where another's ranks stand
    again: Callable[[Outcome], Again | None]  # at the first host: all have ended with this; start again?
    up: Callable[[], None] = lambda: None  # in a cluster: the engine's head answers, at the first host
    released: Callable[[], None] = lambda: None  # in a cluster: the one command has ended well, at the first host
    absent: Callable[[str], None] = lambda _: None  # the engine does not count this host, and why that is a failure
    traits: Traits = UNTOLD  # what this host tells the others of itself


SENSELESS = (LookupError, AttributeError, TypeError, ValueError, OverflowError)
"""What comes of reading a message that is none of ours, though the other end knows the key."""


def nothing() -> None:
    """What there is to do about many a message."""


class Again(NamedTuple):
    """Another generation of ranks, and why, for people."""

    meeting: Meeting
    why: str


class Listening:
    """One end of the link."""

    def __init__(self, plan: LaunchPlan, ears: Ears) -> None:
        self._plan = plan
        self._ears = ears
        self._timeout = plan.job.settings.peer_timeout
        self._next_beat = time.monotonic() + BEAT
        self._silent: set[str] = set()
        self.meeting: Meeting | None = None
        """Where ranks meet, once all hosts are here; another one when they are to start again."""
        self.secret = b""
        """What the hosts of a cluster share, and nobody else: made by the first one, 32 bytes."""
        self.ending = False
        """Whether all ranks of this generation are to end."""
        self.verdict: Outcome | None = None
        """What the job ended with, once all is over; without a failure, Outcome(0)."""

    @property
    def complete(self) -> bool:
        return self.meeting is not None

    @property
    def generation(self) -> int:
        """That of the ranks which are spoken of; what is said of others came too late."""
        return self.meeting.generation if self.meeting else 0

    def _wired(self) -> dict[str, Wire]:
        """Host → open wire."""
        raise NotImplementedError

    def _beat(self) -> dict[str, Any]:
        """I am alive, and what else there is to say."""
        return {"beat": True}

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
        wired, beat = self._wired(), self._beat()
        for host, wire in wired.items():
            wire.send(beat)
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


def listing(plan: LaunchPlan) -> str:
    """The list of hosts, for a comparison by whoever has one of his own."""
    hosts = plan.world.hosts
    return f"{len(hosts)} hosts, {zlib.crc32(json.dumps(hosts).encode()):08x}"


def facts(plan: LaunchPlan, host: str, hosts_nonce: str, firsts_nonce: str) -> tuple[str, ...]:
    """What a connection's seals depend on beside the key: all that the greetings said."""
    return (str(VERSION), plan.job.name, host, hosts_nonce, firsts_nonce)
