"""Features before the ranks: a job within the job, on the same hosts, whose failure is the job's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from trainkit.contract.job import Job
from trainkit.contract.outcome import Outcome
from trainkit.contract.secrets import scrub
from trainkit.errors import UsageError
from trainkit.launch import supervise
from trainkit.launch.output import Console
from trainkit.plan import features
from trainkit.plan.code import Order
from trainkit.plan.machine import Machine


def make(job: Job, order: Order | None, *, machine: Machine, environ: Mapping[str, str], console: Console) -> Outcome:
    """Run its steps; the outcome of the last, or of the first that failed or was told to stop.

    Raises UsageError where the code, and with it the features.py, is yet to come.
    """
    if order and order.source:
        raise UsageError(
            f"{job.settings.features} comes with the code that is fetched later, and features are made before: have it "
            f"in the image (TRAINKIT_SOURCE), or in the channel `code`"
        )
    outcome = Outcome(0)
    for step in features.steps(job):
        planner = partial(features.make, job, step, machine=machine, environ=environ)
        outcome = supervise.run(planner, environ=environ, console=console)
        if outcome.exit_code or outcome.failure or outcome.stopped:
            break
    return replace(outcome, failure=scrub(outcome.failure, job.hyperparameters.texts) if outcome.failure else None)
