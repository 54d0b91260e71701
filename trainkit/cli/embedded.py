"""Features before the ranks: a job within the job, on the same hosts, whose failure is the job's."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from trainkit.contract.job import Job
from trainkit.contract.outcome import Outcome
from trainkit.launch import supervise
from trainkit.launch.output import Console
from trainkit.plan import features
from trainkit.plan.machine import Machine


def make(job: Job, *, machine: Machine, environ: Mapping[str, str], console: Console) -> Outcome:
    """Run its steps; the outcome of the last, or of the first that failed or was told to stop."""
    outcome = Outcome(0)
    for step in features.steps(job):
        planner = partial(features.make, job, step, machine=machine, environ=environ)
        outcome = supervise.run(planner, environ=environ, console=console)
        if outcome.exit_code or outcome.failure or outcome.stopped:
            break
    return outcome
