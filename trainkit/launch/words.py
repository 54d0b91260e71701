"""What the log says of a job: what begins, and how it ended."""

from __future__ import annotations

from trainkit.contract.outcome import Outcome
from trainkit.launch.output import Console
from trainkit.plan.launch import LaunchPlan


def announcement(plan: LaunchPlan) -> str:
    """What is about to run, now that it is known who takes part."""
    world = plan.world
    shape = f"{_count(world.size, 'rank')} on {_count(len(world.hosts), 'host')}"
    lines = [f"{plan.script.label} as {shape}, {plan.engine} engine"]
    if plan.processes:
        lines = [f"{plan.processes.label} on {_count(len(world.hosts), 'host')}"]
    if plan.defaults:
        lines.append("set " + " ".join(f"{default.name}={default.value}" for default in plan.defaults))
    return "\n".join(lines)


def head(outcome: Outcome) -> str:
    """The failure without the traceback that may follow: that stands in the log already."""
    return (outcome.failure or "").split("\n\n", 1)[0]


def report(outcome: Outcome, *, speaker: str, console: Console) -> None:
    """The verdict, for whoever reads the log."""
    if outcome.failure:
        console.say(speaker, f"failed, exit code {outcome.exit_code}:\n{head(outcome)}")
    elif outcome.exit_code:
        console.say(speaker, f"ended, exit code {outcome.exit_code}")


def prefix(host: str, speaker: str) -> str:
    """What a line begins with: `[algo-1:3] ` for rank 3, `[algo-1] ` for the harness itself."""
    return f"[{host}:{speaker}] " if speaker else f"[{host}] "


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + "s" * (number != 1)
