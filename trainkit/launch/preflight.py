"""What is worth knowing of the hosts before ranks start: too little of something here, or another thing there.

All of it is warnings: the ranks may get through, and what ends them hours later is then in the log from the start.
Versions are read from the names of the installed distributions; nothing is imported for it.
"""

from __future__ import annotations

import os
import resource
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from trainkit.plan import machine
from trainkit.plan.launch import LaunchPlan

Traits = Mapping[str, str | int]
"""What hosts of one job should have in common; only plain values, since they cross the link."""
UNTOLD: Traits = MappingProxyType({})
CLOCKS_APART = 5.0
"""Seconds; S3 refuses requests that are 15 minutes off, and certificates are not valid yet."""
_SHM_PER_RANK = 128 << 20  # bytes: a few batches of a few workers; Docker's own default is 64 MB for all ranks
_DISK = 1 << 30
_NOFILE = 1024
_VERSIONS = {"torch": "torch", "nvidia_nccl": "NCCL", "trainkit": "trainkit"}
"""How names of distributions begin → what people call them."""


def here(plan: LaunchPlan, environ: Mapping[str, str]) -> Iterator[str]:
    """What this host has too little of."""
    yield from _shared_memory(len(plan.ranks)) if plan.script.uses_torch else ()
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= soft < _NOFILE:
        yield f"ulimit -n is {soft}: DataLoader workers and S3 connections need more. docker run --ulimit nofile=65536"
    locked, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if locked != resource.RLIM_INFINITY and machine.look(environ).efa:
        yield f"ulimit -l is {locked}, and EFA locks memory: NCCL may fail to start. docker run --ulimit memlock=-1"
    paths = plan.job.paths
    for folder in (paths.model, plan.job.checkpoints, paths.output_data):
        if (free := _free(folder)) is not None and free < _DISK:
            yield f"{folder} has {free >> 20} MB left: models and checkpoints may not fit. Raise VolumeSizeInGB"
            break


def traits(environ: Mapping[str, str]) -> Traits:
    """What this host tells the others of itself."""
    return {"GPUs": machine.look(environ).gpus, "Python": sys.version.split()[0], **_versions()}


def differences(hosts: Mapping[str, Traits], clocks: Mapping[str, float]) -> Iterator[str]:
    """Where hosts are not alike. `clocks`: how far each is ahead of the first host's, seconds."""
    told = {host: one for host, one in hosts.items() if one}
    for name in dict.fromkeys(name for one in told.values() for name in one):
        by_value = defaultdict(list)
        for host, one in told.items():
            by_value[str(one.get(name, "none"))].append(host)
        if len(by_value) > 1:
            listed = "; ".join(f"{value} on {_few(which)}" for value, which in by_value.items())
            advice = (
                "each host runs as many ranks as it has" if name == "GPUs"
                else "run the same image on all hosts: ranks of different versions may hang, or compute other things"
            )  # fmt: skip
            yield f"hosts have different {name if name == 'GPUs' else f'versions of {name}'}: {listed}; {advice}"
    for host, ahead in clocks.items():
        if abs(ahead) > CLOCKS_APART:
            way = "ahead of" if ahead > 0 else "behind"
            yield f"the clock of {host} is {abs(ahead):.0f} s {way} that of the first host: S3 refuses what it signs"


def _few(hosts: list[str]) -> str:
    return ", ".join(hosts[:4]) + (f" and {len(hosts) - 4} more" if len(hosts) > 4 else "")


def _shared_memory(ranks: int) -> Iterator[str]:
    try:
        facts = os.statvfs("/dev/shm")
    except OSError:
        return  # macOS has none, and needs none
    size = facts.f_frsize * facts.f_blocks
    if size < _SHM_PER_RANK * ranks:
        yield (
            f"/dev/shm has {size >> 20} MB for {ranks} ranks: DataLoader workers die of a bus error when it is full. "
            f"docker run --shm-size=8g, or num_workers=0"
        )


def _free(folder: Path) -> int | None:
    try:
        facts = os.statvfs(folder)
    except OSError:
        return None
    return facts.f_frsize * facts.f_bavail


def _versions() -> dict[str, str]:
    """Of the first distribution with each name along sys.path, as import would find it."""
    found: dict[str, str] = {}
    for folder in sys.path:
        try:
            names = [entry.name for entry in os.scandir(folder or ".") if entry.name.endswith(".dist-info")]
        except OSError:
            continue
        for name in names:
            distribution, _, version = name.removesuffix(".dist-info").partition("-")
            for prefix, called in _VERSIONS.items():
                if distribution == prefix or (prefix.endswith("nccl") and distribution.startswith(f"{prefix}_cu")):
                    found.setdefault(called, version)
    return found
