"""The launch plan of one host of a processing job: one command, beside those of the other hosts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from trainkit.contract.environ import CLUSTER_KEY
from trainkit.contract.facts import Resources
from trainkit.contract.processing import ProcessingJob
from trainkit.contract.processing_environ import variables
from trainkit.contract.settings import strange
from trainkit.plan.clusters.base import Engine
from trainkit.plan.launch import LaunchPlan, Meeting, Process
from trainkit.plan.machine import Machine
from trainkit.plan.network import Default
from trainkit.plan.script import Script
from trainkit.plan.world import World


def make(
    job: ProcessingJob,
    process: Process,
    *,
    machine: Machine,
    environ: Mapping[str, str],
    folder: Path,
    warnings: Iterable[str] = (),
    meeting: Meeting | None = None,
    at_terminal: bool = False,
    cluster: Engine | None = None,
) -> LaunchPlan:
    """Decide everything; touch nothing. The command runs in `folder`; with a `cluster`, on the first host only."""
    ones = World(job.hosts, (1, *(0 if cluster else 1 for _ in job.hosts[1:])))
    meeting = meeting or Meeting(ones, job.settings.port + 1, agent_store=False)
    resources = Resources(cpus=machine.cpus, gpus=machine.gpus)
    contract, name_warnings = variables(job, resources=resources, master=meeting.world.first, port=meeting.port)
    defaults: list[Default] = []
    if "PYTHONUNBUFFERED" not in environ:
        defaults.append(Default("PYTHONUNBUFFERED", "1", "what the script starts in Python shows its lines at once"))
    # The service sets them itself; a container that is started by hand has them from the file.
    given = {name: value for name, value in job.environment.items() if name not in {*environ, CLUSTER_KEY}}
    return LaunchPlan(
        job=job.as_job(),
        script=Script(path=Path(process.label), folder=folder),
        meeting=meeting,
        engine="spawn",
        engine_reason="one command per host",
        preload=(),
        args=(),
        environment={**given, **contract, **{default.name: default.value for default in defaults}},
        defaults=tuple(defaults),
        keeps_terminal=at_terminal and meeting.world.size == 1 and cluster is None,
        warnings=(*strange(environ), *name_warnings, *warnings),
        processes=process,
        cluster=cluster,
    )


def unready(job: ProcessingJob) -> list[str]:
    """A warning for each input that the service was to lay and that is not there, or is empty."""
    said = []
    for one in job.inputs.values():
        if one.app_managed or one.path is None or one.mode != "File":
            continue
        try:
            empty = next(one.path.iterdir(), None) is None
        except OSError as error:
            said.append(f"input {one.name}: {one.path} cannot be read: {error.strerror}")
            continue
        if empty:
            why = ": other hosts may have got all its objects" if one.distribution == "ShardedByS3Key" else ""
            said.append(f"input {one.name}: {one.path} is empty{why}")
    return said
