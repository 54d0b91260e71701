"""The only module that looks at hardware."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_AMAZON = "0x1d0f"  # PCI vendor of the EFA devices


@dataclass(frozen=True, slots=True)
class Machine:
    """What this host has, as far as a launch depends on it."""

    cpus: int
    gpus: int
    interfaces: tuple[str, ...]
    efa: int
    memory: int = 0
    """Bytes that this container may use."""


def look(environ: Mapping[str, str]) -> Machine:
    """This host, without a driver library, a subprocess, or torch."""
    return Machine(
        cpus=_cpus(),
        gpus=_gpus(environ),
        interfaces=tuple(name for _, name in socket.if_nameindex()),
        efa=_efa(),
        memory=_memory(),
    )


def _cpus() -> int:
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota()
    return max(1, min(allowed, quota)) if quota else allowed


def _quota() -> int:
    """CPUs that the control group grants, rounded down; 0 where it sets no limit."""
    try:
        limit, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        try:
            limit = Path("/sys/fs/cgroup/cpu/cpu.cfs_quota_us").read_text(encoding="ascii").strip()
            period = Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us").read_text(encoding="ascii").strip()
        except OSError:
            return 0
    return int(limit) // int(period) if limit not in ("max", "-1") else 0


def _memory() -> int:
    """The machine's memory, or what the control group grants of it."""
    least = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            text = Path(f"/sys/fs/cgroup/{name}").read_text(encoding="ascii").strip()
        except OSError:
            continue
        least = min(least, int(text)) if text.isdigit() else least
    return least


def _gpus(environ: Mapping[str, str]) -> int:
    """Devices that the driver lists, narrowed by CUDA_VISIBLE_DEVICES as CUDA itself reads it."""
    present = sum(1 for node in _listing("/dev") if node.startswith("nvidia") and node[6:].isdigit())
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None or not present:
        return present
    count = 0
    for device in visible.split(","):
        # CUDA stops at the first entry that names no device: "0,-1,1" is one GPU, "" is none.
        named = device.strip()
        if not (named.startswith(("GPU-", "MIG-")) or (named.isdigit() and int(named) < present)):
            break
        count += 1
    return count


def _efa() -> int:
    """EFA devices, told by their vendor: names differ between kernels and instance types."""
    root = Path("/sys/class/infiniband")
    return sum(1 for device in _listing(str(root)) if _vendor(root / device) == _AMAZON)


def _vendor(device: Path) -> str:
    try:
        return (device / "device/vendor").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _listing(directory: str) -> list[str]:
    try:
        return sorted(entry.name for entry in Path(directory).iterdir())
    except OSError:
        return []
