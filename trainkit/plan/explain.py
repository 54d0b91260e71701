"""A launch plan in words, and as JSON."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from trainkit.contract.secrets import scrub
from trainkit.plan import features
from trainkit.plan.code import REQUIREMENTS, Order
from trainkit.plan.launch import LaunchPlan

_RUN_DIR = Path("<run>")


def as_text(plan: LaunchPlan, order: Order | None = None) -> str:
    """What `trainkit plan` prints for one host; `order` is what must be done with the code first."""
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
        f"  dialect     {plan.job.dialect}" + ("" if plan.job.settings.dialect else " (by what the client sent)"),
    ]
    lines += [f"  first       {step}" for step in _before(plan, order)]
    lines += [f"  sets        {d.name}={d.value}: {d.reason}" for d in plan.defaults]
    lines += [f"  warning     {warning}" for warning in plan.warnings]
    return "\n".join(lines)


def _before(plan: LaunchPlan, order: Order | None) -> list[str]:
    """What happens before any rank starts, in its order."""
    steps = []
    if order and order.source:
        steps.append(f"fetch the code: {scrub(order.source)}")
    if order and order.requirements != "":
        file = order.requirements or REQUIREMENTS
        is_there = order.source or (Path(order.folder) / file).is_file()
        steps.append(
            f"install {file if is_there else 'the package in the folder'}" + ", if it has one" * bool(order.source)
        )
    if plan.job.settings.features:
        made = " on the first host, others fetch" if len(features.steps(plan.job)) > 1 else ""
        steps.append(f"make features: {plan.job.settings.features}{made}")
    return steps


def as_data(plan: LaunchPlan, order: Order | None = None) -> dict[str, Any]:
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
        "dialect": plan.job.dialect,
        "code": {"source": order.source and scrub(order.source), "requirements": order.requirements} if order else None,
        "features": plan.job.settings.features,
        "environment": dict(plan.environment),
        "ranks": [{"rank": rank, "environment": plan.rank_environment(rank, run_dir=_RUN_DIR)} for rank in plan.ranks],
        "defaults": [default._asdict() for default in plan.defaults],
        "warnings": list(plan.warnings),
    }
