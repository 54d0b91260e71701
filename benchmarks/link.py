"""What the link between hosts costs: time, messages and CPU, as the number of hosts grows.

    python benchmarks/link.py [--quick] [--json]

One process plays all hosts of a job, through the classes and the event loop that supervisors use, over loopback TCP:
they meet, rest, are told to stop and agree on a step, hear of a failure, and hear the verdict. CPU is counted around
each callback, so that the first host's share is known; the wall time is that of all hosts taking turns on one core,
and so more than a cluster needs.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import socket
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainkit.contract.cluster import Cluster
from trainkit.contract.hyperparameters import Hyperparameters
from trainkit.contract.job import Job
from trainkit.contract.paths import Paths
from trainkit.contract.seal import key_for
from trainkit.contract.settings import Settings
from trainkit.launch.loop import Loop
from trainkit.launch.peers import Ears, Hub, Spoke
from trainkit.launch.peers.council import HostEnd
from trainkit.launch.peers.listening import BEAT
from trainkit.launch.peers.wire import Wire
from trainkit.launch.watch import Report
from trainkit.plan import launch
from trainkit.plan.launch import LaunchPlan
from trainkit.plan.machine import Machine
from trainkit.plan.script import Script

SWEEP = 0.02  # seconds between two looks at whose time to connect or to beat has come
PATIENCE = 120.0  # seconds that a phase may take
COLUMNS = {
    "wall": "wall ms",
    "messages": "messages/host",
    "bytes": "bytes/host",
    "first_cpu": "first host, CPU ms",
    "host_cpu": "each other, CPU ms",
}


class Metered(Loop):
    """One role's view of the loop: counts the CPU seconds that its callbacks take."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self.cpu = 0.0

    def watch(self, descriptor: int, callback: Callable[[], None], *, writing: bool = False) -> None:
        self._loop.watch(descriptor, lambda: self.spend(callback), writing=writing)

    def unwatch(self, descriptor: int) -> None:
        self._loop.unwatch(descriptor)

    def spend(self, call: Callable[[], object]) -> None:
        began = time.thread_time()
        call()
        self.cpu += time.thread_time() - began


class Traffic:
    """Counts what all wires say: they count nothing themselves."""

    def __init__(self) -> None:
        self.messages = self.bytes = 0
        put = Wire._put

        def counted(wire: Wire, line: bytes) -> None:
            self.messages += 1
            self.bytes += len(line) + 1
            put(wire, line)

        Wire._put = counted  # type: ignore[method-assign]


@dataclass
class Told:
    """What one host has heard, and how it answers a stop: with the boundary that its ranks have passed."""

    passes: Callable[[int], None] | None = None
    stopped: bool = False
    agreed: bool = False
    ended: bool = False
    said: list[str] = field(default_factory=list)

    def end(self, lost: bool) -> None:
        self.ended = True

    def stop(self, number: int) -> None:
        if not self.stopped:
            self.stopped = True
            assert self.passes
            self.passes(number)

    def agree(self, count: int) -> None:
        self.agreed = True

    @property
    def ears(self) -> Ears:
        return Ears(
            end=self.end, stop=self.stop, agreed=self.agree, say=self.said.append,
            report=_report, reported=lambda host, report: None, show=lambda: None,
            shown=lambda host, stances: None, again=lambda outcome: None,
        )  # fmt: skip


class Hosts:
    """All hosts of one job."""

    def __init__(self, loop: Loop, hosts: int, traffic: Traffic) -> None:
        self._loop, self._traffic = loop, traffic
        self._first, self._others = Metered(loop), Metered(loop)
        names = tuple(f"algo-{number + 1}" for number in range(hosts))
        key, port = key_for({}, job="link", hosts=names), _free_port()
        self._told = [Told() for _ in names]
        plans = [_plan(name, names, port) for name in names]
        self.hub = Hub(self._first, plans[0], self._told[0].ears, key=key)
        self.spokes = [
            Spoke(self._others, plan, told.ears, key=key)
            for plan, told in zip(plans[1:], self._told[1:], strict=True)
        ]  # fmt: skip
        for told, end in zip(self._told, (self.hub, *self.spokes), strict=True):
            told.passes = end.passed
        self._sweep_at = 0.0

    def measure(self, rest: float) -> dict[str, dict[str, float]]:
        told, spokes = self._told, self.spokes
        figures = {"meet": self._phase(lambda: None, lambda: self.hub.complete, self._welcome)}
        between_beats = self.hub.next_tick + BEAT / 2
        self._turn(lambda: time.monotonic() >= between_beats)
        until = between_beats + rest
        resting = self._phase(lambda: None, lambda: time.monotonic() >= until)
        seconds = resting.pop("wall") / 1000
        figures["rest, each second"] = {name: value / seconds for name, value in resting.items()}
        figures["stop until agreed"] = self._phase(self._stop_at_the_second, lambda: all(one.agreed for one in told))
        figures["failure until all heard"] = self._phase(spokes[0].failed, lambda: all(one.ended for one in told))
        figures["ends until the verdict"] = self._phase(self._all_done, lambda: all(spoke.verdict for spoke in spokes))
        if said := [text for one in told for text in one.said]:
            raise SystemExit(f"the hosts did not stay quiet: {said[0]} ({len(said)} such)")
        return figures

    def close(self) -> None:
        for end in (self.hub, *self.spokes):
            end.close()

    def _welcome(self) -> None:
        """The second half of the meeting: all are here, and hear of it."""
        self._first.spend(lambda: self.hub.welcome(port=4242, agent_store=True))
        self._turn(lambda: all(spoke.complete for spoke in self.spokes))

    def _stop_at_the_second(self) -> None:
        self.spokes[0].stop(15)
        self._told[1].stop(15)

    def _all_done(self) -> None:
        for number, spoke in enumerate(self.spokes, start=2):
            spoke.done(HostEnd(f"algo-{number}", 1, "ValueError: x", time.time()))
        self._first.spend(lambda: self.hub.done(HostEnd("algo-1", 0, None, time.time())))

    def _phase(
        self, begin: Callable[[], object], until: Callable[[], bool], then: Callable[[], object] = lambda: None
    ) -> dict[str, float]:
        before = (time.monotonic(), self._traffic.messages, self._traffic.bytes, self._first.cpu, self._others.cpu)
        self._others.spend(begin)
        self._turn(until)
        then()
        after = (time.monotonic(), self._traffic.messages, self._traffic.bytes, self._first.cpu, self._others.cpu)
        wall, messages, size, first, others = (now - then for now, then in zip(after, before, strict=True))
        count = len(self.spokes)
        return {
            "wall": wall * 1000,
            "messages": messages / count,
            "bytes": size / count,
            "first_cpu": first * 1000,
            "host_cpu": others * 1000 / count,
        }

    def _turn(self, until: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not until():
            now = time.monotonic()
            if now > deadline:
                raise SystemExit(f"not done after {PATIENCE:g} s; {self.hub.missing()}")
            if now >= self._sweep_at:
                self._sweep_at = now + SWEEP
                self._first.spend(self.hub.tick)
                self._others.spend(self._sweep)
            self._loop.turn(until=self._sweep_at)

    def _sweep(self) -> None:
        for spoke in self.spokes:
            spoke.tick()
            spoke.attempt()


def _report() -> Report:
    """What a beat says of eight ranks."""
    return Report(looping=0.125, quiet=0.125, waited=dict.fromkeys(range(8), 12.125))


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as any_port:
        return int(any_port.getsockname()[1])


def _plan(here: str, hosts: tuple[str, ...], port: int) -> LaunchPlan:
    job = Job(
        name="link",
        paths=Paths(),
        cluster=Cluster(here, hosts),
        channels=(),
        hyperparameters=Hyperparameters({}),
        settings=Settings(port=port, procs=8, engine="spawn"),
        checkpoints=Path("/tmp"),
        addresses=dict.fromkeys(hosts, "127.0.0.1"),
    )
    machine = Machine(cpus=8, gpus=0, interfaces=("lo",), efa=0)
    return launch.make(job, machine=machine, script=Script(Path("/x.py"), Path("/")), environ={})


def affordable(hosts: int) -> int:
    """As many hosts as there are descriptors for, two a host."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = 1 << 20 if hard == resource.RLIM_INFINITY else hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    if hosts > (fits := (most - 64) // 2):
        print(f"ulimit -n is {most}: {fits} hosts instead of {hosts}", file=sys.stderr)
        return fits
    return hosts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="3 rounds of 64 hosts instead of 5 of 32 and of 1024")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    counts, rounds, rest = ((64,), 3, 2 * BEAT) if arguments.quick else ((32, 1024), 5, 3 * BEAT)
    traffic = Traffic()
    report: dict[str, dict[str, dict[str, Any]]] = {}
    for hosts in dict.fromkeys(map(affordable, counts)):
        samples = [_round(hosts, traffic, rest) for _ in range(rounds)]
        report[f"{hosts} hosts"] = {
            phase: {name: _spread([sample[phase][name] for sample in samples]) for name in figures}
            for phase, figures in samples[0].items()
        }
    print(json.dumps(report) if arguments.json else _table(report, rounds))


def _round(hosts: int, traffic: Traffic, rest: float) -> dict[str, dict[str, float]]:
    with Loop(on_signal=lambda number: sys.exit(128 + number)) as loop:
        cluster = Hosts(loop, hosts, traffic)
        try:
            return cluster.measure(rest)
        finally:
            cluster.close()


def _spread(values: list[float]) -> dict[str, float]:
    middle = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {name: round(value, 4) for name, value in middle.items()}


def _table(report: dict[str, dict[str, dict[str, Any]]], rounds: int) -> str:
    machine = f"Python {sys.version.split()[0]}, {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f}"
    lines = [f"{machine}; {rounds} rounds, median (least–most)"]
    for title, phases in report.items():
        lines += ["", f"{title:26}" + "".join(f"{head:>26}" for head in COLUMNS.values())]
        for phase, figures in phases.items():
            cells = (_cell(figures[name]) if name in figures else "" for name in COLUMNS)
            lines.append(f"{phase:26}" + "".join(f"{cell:>26}" for cell in cells))
    return "\n".join(lines)


def _cell(figure: dict[str, float]) -> str:
    digits = 2 if figure["max"] < 10 else 0
    return f"{figure['median']:.{digits}f} ({figure['min']:.{digits}f}–{figure['max']:.{digits}f})"


if __name__ == "__main__":
    main()
