"""A launch plan in words, and as JSON."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from trainkit.plan.launch import LaunchPlan

_RUN_DIR = Path("<run>")


def as_text(plan: LaunchPlan) -> str:
    """What `trainkit plan` prints for one host."""
    world = plan.world
    shape = " + ".join(map(str, world.procs)) if len(set(world.procs)) > 1 else f"{len(world.hosts)} × {world.procs[0]}"
    lines = [
        f"{plan.host}",
        f"  world       {world.size} ranks ({shape}); here ranks {', '.join(map(str, plan.ranks))}",
        f"  order       {', '.join(world.hosts)} (natural order of the group's names; the first one leads)",
        f"  rendezvous  {plan.master}:{plan.meeting.port}"
        + (f", hosts meet at {plan.master}:{plan.link_port}" if len(world.hosts) > 1 else "")
        + " (another port if that one is taken; the first host tells)",
        f"  engine      {plan.engine}: {plan.engine_reason}",
        f"  command     {shlex.join(plan.command)}",
        f"  folder      {plan.script.folder}",
    ]
    lines += [f"  sets        {d.name}={d.value}: {d.reason}" for d in plan.defaults]
    lines += [f"  warning     {warning}" for warning in plan.warnings]
    return "\n".join(lines)


def as_data(plan: LaunchPlan) -> dict[str, Any]:
    """What `trainkit plan --json` prints for one host."""
    return {
        "host": plan.host,
        "hosts": list(plan.world.hosts),
        "procs": dict(zip(plan.world.hosts, plan.world.procs, strict=True)),
        "world_size": plan.world.size,
        "rendezvous": {"address": plan.master, "port": plan.meeting.port, "link_port": plan.link_port},
        "engine": {"name": plan.engine, "reason": plan.engine_reason, "preload": list(plan.preload)},
        "argv": list(plan.command),
        "cwd": str(plan.script.folder),
        "environment": dict(plan.environment),
        "ranks": [{"rank": rank, "environment": plan.rank_environment(rank, run_dir=_RUN_DIR)} for rank in plan.ranks],
        "defaults": [default._asdict() for default in plan.defaults],
        "warnings": list(plan.warnings),
    }
