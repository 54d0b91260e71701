"""One fault under one launcher, from the start to what every host has to say at the end."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from faults.catalogue import Fault
from faults.cluster import Cluster, Launcher

START = 120.0
"""Seconds until the ranks train: torch is imported by up to six processes."""


@dataclass(frozen=True, slots=True)
class HostSays:
    """A host's end: `seconds` after the fault, and None for what never came."""

    code: int | None
    seconds: float | None
    failure: str
    log: str


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a fault on the hosts that lived."""

    hosts: Mapping[str, HostSays]
    ended: bool
    """Whether they all ended in time by themselves."""
    left: list[str]

    @property
    def seconds(self) -> float:
        return max((host.seconds or 0.0) for host in self.hosts.values())


def run(fault: Fault, launcher: Launcher, folder: Path, *, within: float) -> Result:
    """Let the fault happen, and wait `within` seconds at most for what comes of it.

    Raises AssertionError, with the log, where the ranks never came so far. Raises IsolationUnavailable.
    """
    with fault.cluster(folder, launcher) as cluster:
        cluster.start()
        began = _happen(fault, cluster)
        ended = cluster.wait(until=began + within, hosts=fault.waits)
        if fault.relent:
            fault.relent(cluster)
            ended = cluster.wait(until=time.monotonic() + within / 2) and ended
        hosts = {name: cluster[name] for name in fault.alive}
        says = {
            name: HostSays(host.code, host.ended_at and host.ended_at - began, host.failure, host.log)
            for name, host in hosts.items()
        }
    return Result(says, ended, cluster.left_behind())


def _happen(fault: Fault, cluster: Cluster) -> float:
    """When it did, or when it was bound to (monotonic)."""
    if fault.strike:
        cluster.wait_for("reached step", within=START)
        fault.strike(cluster)
        return time.monotonic()
    return cluster.planted_at(within=START) if fault.plant != "none" else cluster.started_at
