"""What processes cost: CPU seconds and memory of one and of all that it has started, from /proc."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

_TICK = 1 / os.sysconf("SC_CLK_TCK")


def family(pid: int) -> list[int]:
    """The process and its descendants that are alive."""
    found = [pid]
    for one in found:
        with suppress(OSError):
            for task in Path(f"/proc/{one}/task").iterdir():
                found += map(int, (task / "children").read_text(encoding="ascii").split())
    return found


def cpu(pid: int) -> float:
    """User and system time of all of them, and of the children that they have waited for."""
    total = 0
    for one in family(pid):
        with suppress(OSError):
            fields = Path(f"/proc/{one}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            total += sum(map(int, fields[11:15]))
    return total * _TICK


def memory(pid: int) -> tuple[int, int]:
    """Bytes: the proportional set sizes of all of them together, shared memory counted once; and the resident ones."""
    pss = rss = 0
    for one in family(pid):
        with suppress(OSError):
            for line in Path(f"/proc/{one}/smaps_rollup").read_text(encoding="ascii").splitlines():
                if line.startswith("Pss:"):
                    pss += int(line.split()[1]) << 10
                elif line.startswith("Rss:"):
                    rss += int(line.split()[1]) << 10
    return pss, rss


def read_bytes() -> int:
    """Bytes that this process has had from read(2), wherever they came from."""
    lines = Path("/proc/self/io").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith("rchar")).split()[1])
