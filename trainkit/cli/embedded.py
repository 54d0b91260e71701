"""Features before the ranks: a job within the job, on the same hosts, whose failure is the job's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from trainkit.contract.job import Job
from trainkit.contract.outcome import Outcome
from trainkit.launch import supervise
from trainkit.launch.errand import Errand, Planner
from trainkit.launch.output import Console
from trainkit.plan import features
from trainkit.plan.code import Order, Prepared
from trainkit.plan.machine import Machine


def make(
    job: Job, order: Order | None, *, machine: Machine, environ: Mapping[str, str], console: Console
) -> tuple[Outcome, Prepared | None]:
    """Run its steps. Returns the outcome of the last, or of the first that failed or was told to stop, and the code.

    An `order` for the code is carried out first, once: features.py may come with it, and need what it requires.
    """
    ready: Prepared | None = None
    outcome = Outcome(0)

    def planner(step: str) -> Planner:
        known = replace(job, unpacked=ready.folder) if ready else job
        return partial(features.make, known, step, machine=machine, environ=environ, code=ready)

    def carried_out(step: str, came: Prepared) -> Planner:
        nonlocal ready
        ready = came
        return planner(step)

    for step in features.steps(job):
        errand = Errand(order, partial(carried_out, step)) if order and not ready else None
        outcome = supervise.run(planner(step), environ=environ, console=console, errand=errand)
        if outcome.exit_code or outcome.failure or outcome.stopped:
            break
    return outcome, ready
