"""One rank of a benchmark's job: python rank.py '{"task": …, "way": …, …}', with torchrun's variables set.

Writes to `note`.RANK what it found, as JSON. All times of rank and machine are taken between barriers, so that ranks do
the same thing at the same time.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import costs
import state
import torch
import torch.distributed as dist
from ours import Way
from ways import WAYS

Told = Mapping[str, Any]
PAUSE = 5.0
"""Seconds of training, as it were, before the first save: no job saves in its first step."""


def main() -> None:
    told: dict[str, Any] = json.loads(sys.argv[1])
    rank = int(os.environ["RANK"])
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    if "://" not in told["where"]:
        Path(told["where"]).mkdir(parents=True, exist_ok=True)
    model, optimizer = state.build(blocks=told["blocks"], sharded=told["way"] != "accelerate")
    found = TASKS[told["task"]](told, model, optimizer, rank)
    found["state"] = state.size(model, optimizer)
    Path(f"{told['note']}.{rank}").write_text(json.dumps(found), encoding="ascii")
    dist.barrier()
    sys.stdout.flush()
    os._exit(0)  # gloo's threads may abort an orderly end (benchmarks/exits.py): that is not the subject here


def _way(told: Told, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> Way:
    return WAYS[told["way"]](model, optimizer, told["where"])


def stall(told: Told, model: torch.nn.Module, optimizer: torch.optim.Optimizer, rank: int) -> dict[str, Any]:
    """Save again and again, each time after the same bytes were copied, and written, without any of it."""
    machine = state.Machine(state.size(model, optimizer) // told["shares"], Path(told["folder"]), rank=rank)
    machine.copy()
    way = _way(told, model, optimizer)
    saves = []
    for step in range(told["saves"]):
        way.prepare(step)
        if not step:
            time.sleep(PAUSE)
        raw = machine.write() if told["raw"] else math.nan
        copies = [machine.copy() for _ in range(3)]
        used = costs.cpu(os.getpid())
        state.meet()
        began = time.perf_counter()
        way.save(step)
        stalled = time.perf_counter() - began
        way.wait()
        state.meet()
        total = time.perf_counter() - began
        saves.append(
            {"stall": stalled, "total": total, "copy": sorted(copies)[1], "raw": raw,
             "cpu": costs.cpu(os.getpid()) - used}
        )  # fmt: skip
        state.meet()
        if step:
            way.forget(step - 1)
        state.meet()
    way.close()
    return {"saves": saves}


def series(told: Told, model: torch.nn.Module, optimizer: torch.optim.Optimizer, rank: int) -> dict[str, Any]:
    """Save again and again, for somebody who looks at our memory meanwhile."""
    state.meet()
    before = costs.memory(os.getpid())
    way = _way(told, model, optimizer)
    ends = []
    for step in range(told["saves"]):
        way.prepare(step)
        way.save(step)
        way.wait()
        state.meet()
        if step:
            way.forget(step - 1)
        ends.append(time.monotonic())
    way.close()
    return {"before": before, "ends": ends}


def make(told: Told, model: torch.nn.Module, optimizer: torch.optim.Optimizer, rank: int) -> dict[str, Any]:
    """One checkpoint, to be restored by others."""
    way = _way(told, model, optimizer)
    way.prepare(0)
    way.save(0)
    way.wait()
    state.meet()
    way.close()
    return {"sum": sum(state.gathered(state.checksum(model, optimizer)))}


def restore(told: Told, model: torch.nn.Module, optimizer: torch.optim.Optimizer, rank: int) -> dict[str, Any]:
    """Restore it, again and again, into a state that is another one each time."""
    machine = state.Machine(state.size(model, optimizer), Path(told["folder"]), rank=rank)
    machine.copy()
    way = _way(told, model, optimizer)
    turns = []
    for _ in range(told["turns"]):
        state.settle(optimizer)
        copy = sorted(machine.copy() for _ in range(3))[1]
        used, read = costs.cpu(os.getpid()), costs.read_bytes()
        state.meet()
        began = time.perf_counter()
        way.restore(told.get("step", 0))
        took = time.perf_counter() - began
        turns.append(
            {"seconds": took, "copy": copy, "read": costs.read_bytes() - read, "cpu": costs.cpu(os.getpid()) - used}
        )
        state.meet()
    return {"turns": turns, "sum": sum(state.gathered(state.checksum(model, optimizer)))}


TASKS: Mapping[str, Callable[..., dict[str, Any]]] = MappingProxyType(
    {"stall": stall, "series": series, "make": make, "restore": restore}
)


if __name__ == "__main__":
    main()
