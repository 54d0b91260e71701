"""Memory's limits: what the kernel's out-of-memory killer has done in our control group, and the size of /dev/shm."""

from __future__ import annotations

import os
import re
from pathlib import Path

_MOUNT = Path("/sys/fs/cgroup")


def oom_kills(mount: Path = _MOUNT, groups: Path = Path("/proc/self/cgroup")) -> int:
    """How many processes it has killed in this control group so far; 0 where the system does not tell."""
    try:
        lines = groups.read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            folder, file = mount / "memory", "memory.oom_control"
        elif not controllers:
            folder, file = mount, "memory.events"
        else:
            continue
        # In a container the path may be the machine's, and what is mounted is our own group.
        for place in (folder / path.lstrip("/"), folder):
            count = _count(place / file)
            if count is not None:
                return count
    return 0


def shared_memory(folder: Path = Path("/dev/shm")) -> int | None:
    """Its size in bytes; None where there is none."""
    try:
        facts = os.statvfs(folder)
    except OSError:
        return None
    return facts.f_blocks * facts.f_frsize


def _count(file: Path) -> int | None:
    try:
        found = re.search(r"^oom_kill (\d+)$", file.read_text(encoding="ascii"), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) if found else None
