"""How much memory the engine may take: what the machine or its control group grants, less what Python needs."""

from __future__ import annotations

import os
from pathlib import Path

_GROUPS = ("memory.max", "memory/memory.limit_in_bytes", "memory.limit_in_bytes")
BESIDE = 512 << 20
"""Bytes for Python, Arrow's batches and the writers, which the engine does not count."""


def granted(root: Path = Path("/sys/fs/cgroup"), me: Path = Path("/proc/self/cgroup")) -> int:
    """Bytes that this process may use: the least of all limits around it, and the machine's memory."""
    least = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for folder in _around(root, me):
        for name in _GROUPS:
            try:
                text = (folder / name).read_text(encoding="ascii").strip()
            except OSError:
                continue
            if text.isdigit():
                least = min(least, int(text))
    return least


def for_engine(limit: int) -> int:
    """Of `limit` bytes, the engine's: three quarters of much, half of little."""
    return max(128 << 20, min(limit * 3 // 4, limit - BESIDE), limit // 4)


def _around(root: Path, me: Path) -> list[Path]:
    """The control group's folder and those above it, as version 1 and version 2 lay them out."""
    try:
        lines = me.read_text(encoding="utf-8").splitlines()
    except OSError:
        return [root]
    found = [root, root / "memory"]
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "memory") or "memory" in controllers.split(","):
            base = root / "memory" if controllers else root
            inside = base / path.strip("/")
            found += [one for one in (inside, *inside.parents) if one.is_relative_to(root)]
    return found
