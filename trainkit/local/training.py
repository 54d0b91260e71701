"""The time between the start of the hosts and the end of the last: limits, stops, signals."""

from __future__ import annotations

import enum
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from trainkit.launch.loop import Loop
from trainkit.launch.output import Console
from trainkit.local.faults import Faults
from trainkit.local.hosts import Hosts, Running
from trainkit.local.isolation import Host, Isolation
from trainkit.local.screen import Screen

STOP_GRACE = 120.0
"""Seconds from SIGTERM to SIGKILL, as the service grants them."""
_OTHERS_GRACE = 30.0
"""Seconds that the other hosts get to end by themselves when one has failed."""
_DEAF_PAUSE = 0.02
"""Seconds until a host that could not hear its stop yet is told again."""


class Stop(enum.Enum):
    """Why hosts were told to stop; the value is what a person reads."""

    ASKED = "stopped"
    MAX_RUNTIME = "MaxRuntimeInSeconds is over"
    MAX_WAIT = "MaxWaitTimeInSeconds is over"
    FAILED = "another host has failed"


class _Step(enum.Enum):
    KILL = enum.auto()
    TELL_AGAIN = enum.auto()


@dataclass(frozen=True, slots=True)
class Ended:
    """All hosts have ended. Times are monotonic."""

    hosts: Sequence[Running]
    stop: Stop | None
    stopped_at: float
    interrupted: bool  # a Ctrl-C went to the host that shares our terminal


class Training:
    """See the hosts through. `on_stop` is called when the job, and not just a host, is told to stop."""

    def __init__(self, console: Console, screen: Screen, faults: Faults, *, on_stop: Callable[[], None]) -> None:
        self._console = console
        self._screen = screen
        self._faults = faults
        self._on_stop = on_stop
        self._deadlines: dict[Stop | _Step, float] = {}
        self._stop: Stop | None = None
        self._stopped_at = 0.0
        self._interrupted = False
        self._hosts: Hosts | None = None

    def run(
        self,
        hosts: Sequence[tuple[Host, dict[str, str]]],
        chosen: Isolation,
        *,
        logs: Path,
        hosts_file: Path,
        own_terminal: bool,
        limits: dict[Stop, float],
        begun: Callable[[], None] = lambda: None,
    ) -> Ended:
        """Start every host, with its environment, and wait for all; `limits` in seconds from then.

        `begun` is called once all have started: no process is forked here after that.
        """
        with Loop(on_signal=self._signalled) as loop:
            self._hosts = Hosts(chosen, loop, self._screen, logs=logs, hosts_file=hosts_file)
            try:
                for host, environ in hosts:
                    self._hosts.start(host, environ=environ, own_terminal=own_terminal)
                now = time.monotonic()
                self._deadlines.update({why: now + seconds for why, seconds in limits.items()})
                self._faults.begin()
                begun()
                while self._hosts.running:
                    loop.turn(until=min([*self._deadlines.values(), self._faults.next_look]))
                    self._pass_deadlines(self._hosts)
                    self._faults.tick(self._hosts)
            finally:
                self._hosts.close()
                for fault in self._faults.left(self._hosts.all):
                    self._screen.warn(f"--kill {fault} never happened: job.steps counts steps, and ranks from 0")
                for host, _ in hosts:  # a supervisor that was killed could not remove its scratch
                    shutil.rmtree(host.root / "run", ignore_errors=True)
        return Ended(self._hosts.all, self._stop, self._stopped_at, self._interrupted)

    def _pass_deadlines(self, hosts: Hosts) -> None:
        now = time.monotonic()
        for what, when in sorted(self._deadlines.items(), key=lambda item: item[1]):
            if when > now or what not in self._deadlines:
                continue
            del self._deadlines[what]
            if what is _Step.KILL:
                self._console.say("local", f"hosts still run {STOP_GRACE:g} s after SIGTERM: SIGKILL")
                hosts.kill()
            elif what is _Step.TELL_AGAIN:
                self._tell(hosts)
            elif isinstance(what, Stop):
                self._end(what, hosts)

    def _end(self, why: Stop, hosts: Hosts) -> None:
        """What StopTrainingJob does: SIGTERM now, SIGKILL later."""
        if self._stop:
            return
        self._stop, self._stopped_at = why, time.monotonic()
        self._deadlines = {_Step.KILL: self._stopped_at + STOP_GRACE}
        if why is not Stop.FAILED:
            self._on_stop()
        self._console.say("local", f"SIGTERM to every host ({why.value}); SIGKILL in {STOP_GRACE:g} s")
        self._tell(hosts)

    def _tell(self, hosts: Hosts) -> None:
        if not hosts.stop():
            self._deadlines[_Step.TELL_AGAIN] = time.monotonic() + _DEAF_PAUSE

    def _signalled(self, number: int) -> None:
        hosts = self._hosts
        if hosts is None:
            return
        if number == signal.SIGCHLD:
            for ended in hosts.poll():
                if ended.exit_status and hosts.running and not self._stop:
                    self._deadlines[Stop.FAILED] = time.monotonic() + _OTHERS_GRACE
        elif number in (signal.SIGTERM, signal.SIGINT):
            if number == signal.SIGINT and any(host.relay is None for host in hosts.all):
                self._interrupted = True  # the one rank shares our terminal and has had the signal itself
                return
            if self._stop:
                hosts.kill()
            self._end(Stop.ASKED, hosts)
