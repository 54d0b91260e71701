"""What one host runs before the ranks of a training job, where the job names a features.py. See docs/features.md."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from trainkit.contract.environ import variables
from trainkit.contract.facts import Resources
from trainkit.contract.job import Job
from trainkit.errors import ScriptMissing, TrainkitError
from trainkit.plan.code import Prepared
from trainkit.plan.definition import ENTRY, is_definition
from trainkit.plan.launch import LaunchPlan, Meeting, Process
from trainkit.plan.machine import Machine
from trainkit.plan.script import Script
from trainkit.plan.world import World

MAKE, FETCH = "make", "fetch"


def steps(job: Job) -> tuple[str, ...]:
    """One after the other on all hosts: with a URL, the others fetch when the first has put everything there."""
    return (MAKE, FETCH) if job.settings.features_url and len(job.hosts) > 1 else (MAKE,)


def make(
    job: Job, step: str, *, machine: Machine, environ: Mapping[str, str], code: Prepared | None = None,
    meeting: Meeting | None = None, at_terminal: bool = False,
) -> LaunchPlan:  # fmt: skip
    """One command on each host, as processing jobs have it, and its outcome is the job's where it fails."""
    script = job.source / str(job.settings.features)
    # A port of its own: a host that comes early must not meet those that are about to leave the step before.
    port = (job.settings.port - 2 - steps(job).index(step)) % 65535 + 1
    settings = replace(job.settings, port=port, max_restarts=0, stall_action="warn")
    meeting = meeting or Meeting(World.even(job.hosts, 1), job.settings.port + 1, agent_store=False)
    resources = Resources(cpus=machine.cpus, gpus=machine.gpus)
    contract, _ = variables(job, resources=resources, master=meeting.world.first, port=meeting.port)
    return LaunchPlan(
        job=replace(job, settings=settings),
        script=Script(path=script, folder=job.source),
        meeting=meeting,
        engine="spawn",
        engine_reason="one command per host",
        preload=(),
        args=(),
        environment={**contract, "PYTHONUNBUFFERED": "1", **(code.environment(environ) if code else {})},
        defaults=(),
        keeps_terminal=at_terminal and meeting.world.size == 1,
        warnings=(),
        processes=Process(
            (sys.executable, str(ENTRY), str(script), "--embedded", step), script.name, problem=_problem(script)
        ),
    )


def _problem(script: Path) -> TrainkitError | None:
    """Why it cannot be run; said when all hosts are there to hear it."""
    if not script.is_file():
        return ScriptMissing(f"there is no {script}, which TRAINKIT_FEATURES names. Put it beside the training script")
    if not is_definition(script):
        return ScriptMissing(
            f"{script} does not say features = Features(…), so that it makes none. See docs/features.md"
        )
    return None
