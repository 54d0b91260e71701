"""Faults on request: kill a rank at a step, kill a host, cut its link and heal it (see contract.rehearsal)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from trainkit.contract import rehearsal
from trainkit.contract.rehearsal import REHEARSAL, Fault
from trainkit.errors import UsageError
from trainkit.local.hosts import Hosts, Running
from trainkit.local.isolation import Host, Isolation

_LOOK = 0.005
"""Seconds between two looks for a step that has been reached; the rank stands still until the fault has happened."""


class Faults:
    """What is to happen to the hosts of one job, and what has."""

    def __init__(self, faults: Iterable[Fault], isolation: Isolation, *, say: Callable[[str], None]) -> None:
        self._waiting = list(faults)
        self._isolation = isolation
        self._say = say
        self._began = time.monotonic()
        self._healing: list[tuple[float, Host]] = []
        self.killed: list[str] = []
        """The hosts that were killed, by name."""

    @property
    def next_look(self) -> float:
        """The monotonic time at which `tick` wants to be called; infinity where nothing is left to do."""
        now = time.monotonic()
        moments = [
            now + _LOOK if fault.after is None else self._began + fault.after
            for fault in self._waiting
            if fault.kind != "rank"  # that one happens by itself
        ]
        return min([*moments, *(when for when, _ in self._healing)], default=float("inf"))

    @property
    def waiting(self) -> tuple[Fault, ...]:
        """Those of hosts and links that have not happened."""
        return tuple(fault for fault in self._waiting if fault.kind != "rank")

    def begin(self) -> None:
        """Training begins: times count from here."""
        self._began = time.monotonic()

    def tick(self, hosts: Hosts) -> None:
        """Let happen what is due."""
        now = time.monotonic()
        running = {host.host.name: host for host in hosts.running}
        for fault in [fault for fault in self._waiting if fault.kind != "rank"]:
            host = running.get(f"algo-{fault.target}")
            if host and self._is_due(fault, host, now=now):
                self._waiting.remove(fault)
                self._happen(fault, host, hosts, now=now)
        for when, wired in [item for item in self._healing if item[0] <= now]:
            self._healing.remove((when, wired))
            self._say(f"the link of {wired.name} is whole again")
            self._isolation.link(wired, up=True)

    def left(self, hosts: Sequence[Running]) -> list[str]:
        """At the end: those that never happened."""
        roots = [running.host.root / "run" for running in hosts]
        return [str(f) for f in self._waiting if f.kind != "rank" or not any(f.mark(run).exists() for run in roots)]

    def _is_due(self, fault: Fault, host: Running, *, now: float) -> bool:
        if fault.after is not None:
            return now >= self._began + fault.after
        return fault.mark(host.host.root / "run").exists()

    def _happen(self, fault: Fault, host: Running, hosts: Hosts, *, now: float) -> None:
        if fault.kind == "host":
            self._say(f"{fault}: SIGKILL to {host.host.name}")
            hosts.kill_one(host)
            self.killed.append(host.host.name)
            return
        self._say(f"{fault}: the link of {host.host.name} is cut")
        self._isolation.link(host.host, up=False)
        if fault.heals is not None:
            self._healing.append((now + fault.heals, host.host))
        fault.mark(host.host.root / "run").write_text("done", encoding="ascii")  # the rank that waits goes on


def check(faults: Sequence[Fault], isolation: Isolation, *, hosts: int) -> None:
    """Raises UsageError for what cannot happen in this job."""
    for fault in faults:
        if fault.kind == "link" and not isolation.has_links:
            raise UsageError(f"--kill {fault}: hosts have links of their own only with --isolation network")
        if fault.kind != "rank" and fault.target > hosts:
            raise UsageError(f"--kill {fault}: there is no algo-{fault.target}, the job has {hosts} hosts")


def environment(faults: Sequence[Fault]) -> Mapping[str, str]:
    """What the ranks must know."""
    text = rehearsal.spell(tuple(faults))
    return {REHEARSAL: text} if text else {}
