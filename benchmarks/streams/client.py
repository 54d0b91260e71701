"""One loader, one cold epoch, in a process of its own.

    python benchmarks/streams/client.py '{"loader": …, "url": …, "cache": …, "note": …, …}'

Writes to `note` what it cost, from after the imports to the end of the epoch: wall time, CPU of this process and those
it has waited for, time to the first batch, memory above the imports. Every byte is checked; the CPU of that is taken
off again, since it is none of the loader's.
"""

from __future__ import annotations

import json
import math
import resource
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from loaders import LOADERS, Asked
from samples import Check


def main() -> None:
    told: dict[str, Any] = json.loads(sys.argv[1])
    save = {"save": Path(told["save"])} if "save" in told else {}
    asked = Asked(told["url"], Path(told["cache"]), told.get("state", ""))
    loader = LOADERS[told["loader"]](asked, **told.get("choices", {}), **save)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forget the peak of the imports
    before, check, checking, first = _status("VmRSS"), Check(), 0.0, float("nan")
    began, spent = time.perf_counter(), _cpu()
    with closing(loader.run()) as batches:
        for batch in batches:
            if math.isnan(first):
                first = time.perf_counter() - began
                if told.get("first"):
                    break
            mark = time.thread_time()
            for sample in batch:
                check.add(*sample)
            checking += time.thread_time() - mark
    wall, cpu = time.perf_counter() - began, _cpu() - spent - checking
    note = {
        "versions": loader.versions, "wall": wall, "cpu": cpu, "first": first, "check": check.facts(),
        "memory": (_status("VmHWM") - before) / 1e6,
    }  # fmt: skip
    Path(told["note"]).write_text(json.dumps(note), encoding="utf-8")


def _cpu() -> float:
    """User and system time of this process and of the children that it has waited for, in seconds."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def _status(field: str) -> int:
    """Bytes, from /proc/self/status."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) * 1024


if __name__ == "__main__":
    main()
