"""The launch plan of one host: every decision, made from facts, before anything is started."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trainkit.contract.environ import RUN_DIR, arguments, variables
from trainkit.contract.facts import Resources
from trainkit.contract.job import Job
from trainkit.contract.settings import for_ranks, strange
from trainkit.errors import TrainkitError
from trainkit.plan import network
from trainkit.plan.code import Prepared
from trainkit.plan.machine import Machine
from trainkit.plan.network import Default
from trainkit.plan.script import Script
from trainkit.plan.world import World

if TYPE_CHECKING:
    from trainkit.plan.clusters.base import Engine

BOOTSTRAP = Path(__file__).parents[1] / "launch"
"""What ranks start from, by file: under `python -m`, a trainkit.py beside the script would be taken for us."""
_PRELOAD = ("torch", "numpy")
_PRELOAD_IF_IMPORTED = ("accelerate", "safetensors")


@dataclass(frozen=True, slots=True)
class Meeting:
    """What hosts learn from each other before they start: who runs how many ranks, and where ranks meet."""

    world: World
    port: int
    agent_store: bool
    """Whether a process of the harness hosts the store, rather than rank 0."""
    generation: int = 0
    """How often the ranks have been started before."""


@dataclass(frozen=True, slots=True)
class Process:
    """One command, once per host."""

    argv: tuple[str, ...]
    label: str
    """What it is called in the log."""
    is_shell: bool = False
    """Whether a shell stands between us and what works: it passes no signals on, so all of its session gets them."""
    problem: TrainkitError | None = None
    """Why it cannot be started. It is said at the start, when all hosts are there to hear it."""
    cluster: str | None = None
    """The kind of cluster that it asks for by what it is."""


@dataclass(frozen=True, slots=True)
class LaunchPlan:
    """What one host will run. `environment` is what every rank gets beyond what `train` itself was given."""

    job: Job
    script: Script
    meeting: Meeting
    engine: str
    engine_reason: str
    preload: tuple[str, ...]
    args: tuple[str, ...]
    environment: Mapping[str, str]
    defaults: tuple[Default, ...]
    keeps_terminal: bool
    warnings: tuple[str, ...]
    processes: Process | None = None
    """In a processing job, what each host runs instead of ranks."""
    cluster: Engine | None = None
    """What runs on all hosts, then; `processes` runs on the first one only."""

    @property
    def host(self) -> str:
        return self.job.cluster.current_host

    @property
    def world(self) -> World:
        return self.meeting.world

    @property
    def ranks(self) -> range:
        return self.world.ranks(self.host)

    @property
    def leads(self) -> bool:
        """Whether this host is the first: it hosts the link and the rendezvous."""
        return self.host == self.world.first

    @property
    def master(self) -> str:
        return self.job.address(self.world.first) if len(self.world.hosts) > 1 else "127.0.0.1"

    @property
    def link_port(self) -> int:
        return self.job.settings.port

    @property
    def command(self) -> tuple[str, ...]:
        """A rank's argv. Python scripts run under our bootstrap, which records how they end.

        Raises TrainkitError where it is known that it cannot be started.
        """
        if self.processes and self.processes.problem:
            raise self.processes.problem
        if self.processes:
            return self.processes.argv
        if self.script.command:
            # The line is the user's own; what comes from hyperparameters stays apart from it, as bash's "$@".
            return ("bash", "-c", self.script.command, "train", *self.args)
        if self.script.is_python:
            return (sys.executable, str(BOOTSTRAP / "rank.py"), *self.entry, *self.args)
        path = str(self.script.path)
        # S3 keeps no file modes, so a shell script that came by channel is not executable.
        shell = ("bash",) if self.script.path.suffix == ".sh" and not self.script.executable else ()
        return (*shell, path, *self.args)

    @property
    def entry(self) -> tuple[str, ...]:
        """What our bootstrap is told to run."""
        return ("-m", self.script.module) if self.script.module else (str(self.script.path),)

    @property
    def is_shell(self) -> bool:
        """Whether what is started is a shell, so that all of its session gets the signals."""
        return self.processes.is_shell if self.processes else self.script.is_shell

    def rank_environment(self, rank: int, *, run_dir: Path) -> dict[str, str]:
        """What torchrun would give this rank, and where it leaves its record."""
        world = self.world
        return {
            "RANK": str(rank),
            "LOCAL_RANK": str(self.ranks.index(rank)),
            "WORLD_SIZE": str(world.size),
            "LOCAL_WORLD_SIZE": str(len(self.ranks)),
            "GROUP_RANK": str(world.hosts.index(self.host)),
            "GROUP_WORLD_SIZE": str(len(world.hosts)),
            "ROLE_NAME": "default",
            "ROLE_RANK": str(rank),
            "ROLE_WORLD_SIZE": str(world.size),
            "MASTER_ADDR": self.master,
            "MASTER_PORT": str(self.meeting.port),
            "TORCHELASTIC_RUN_ID": self.job.name,
            "TORCHELASTIC_RESTART_COUNT": str(self.meeting.generation),
            "TORCHELASTIC_MAX_RESTARTS": str(self.job.settings.max_restarts),
            "TORCHELASTIC_USE_AGENT_STORE": str(self.meeting.agent_store),
            "TORCHELASTIC_ERROR_FILE": str(run_dir / f"{rank}.error.json"),
            RUN_DIR: str(run_dir),
            **for_ranks(self.job.settings),
            **(self._recorder(run_dir) if set(network.RECORDER_SIZES) & set(self.environment) else {}),
        }

    def _recorder(self, run_dir: Path) -> dict[str, str]:
        """Where NCCL's process groups listen for a wish to see their last collectives, and where they write them."""
        return {
            "TORCH_NCCL_DEBUG_INFO_PIPE_FILE": str(run_dir / "recorder."),
            "TORCH_NCCL_DEBUG_INFO_TEMP_FILE": str(self.traces / "rank."),
        }

    @property
    def traces(self) -> Path:
        """Where they lie: with the job's other results."""
        return self.job.paths.output_data / "nccl-traces"


def procs(job: Job, machine: Machine) -> int:
    """Ranks of this host: asked for; else one per GPU; else one.

    What a shell runs is started once, as AWS's own tools do: it usually starts the processes itself.
    """
    starts_its_own = job.settings.command or job.settings.script.endswith(".sh")
    return job.settings.procs or (not starts_its_own and machine.gpus) or 1


def expected(job: Job, machine: Machine) -> Meeting:
    """The meeting as it will be if every host is like this one and the preferred port is free."""
    return Meeting(World.even(job.hosts, procs(job, machine)), job.settings.port + 1, agent_store=False)


def make(
    job: Job,
    *,
    machine: Machine,
    script: Script,
    environ: Mapping[str, str],
    meeting: Meeting | None = None,
    at_terminal: bool = False,
    code: Prepared | None = None,
) -> LaunchPlan:
    """Decide everything; touch nothing. Without a `meeting`, the one to expect. `code` is what was installed for it.

    `at_terminal` says that a person sits in front of `train`; one rank alone then keeps the terminal.
    """
    meeting = meeting or expected(job, machine)
    here = len(meeting.world.ranks(job.cluster.current_host))
    keeps_terminal = at_terminal and meeting.world.size == 1
    engine, reason, preload = _engine(job, script, ranks=here, keeps_terminal=keeps_terminal)
    network_defaults, network_warnings = network.defaults(
        machine, interface=job.cluster.interface, hosts=len(meeting.world.hosts), environ=environ
    )
    defaults = [*network_defaults]
    if here > 1 and "OMP_NUM_THREADS" not in environ:
        reason_omp = f"{here} ranks share {machine.cpus} CPUs; torchrun's default: raise it if CPUs idle"
        defaults.append(Default("OMP_NUM_THREADS", "1", reason_omp))
    if not script.is_python and "PYTHONUNBUFFERED" not in environ:
        defaults.append(Default("PYTHONUNBUFFERED", "1", "what the script starts in Python shows its lines at once"))
    resources = Resources(cpus=machine.cpus, gpus=machine.gpus)
    contract, name_warnings = variables(job, resources=resources, master=meeting.world.first, port=meeting.port)
    return LaunchPlan(
        job=job,
        script=script,
        meeting=meeting,
        engine=engine,
        engine_reason=reason,
        preload=preload,
        args=arguments(job),
        environment={
            **contract,
            **{default.name: default.value for default in defaults},
            **(code.environment(environ) if code else {}),
        },
        defaults=tuple(defaults),
        keeps_terminal=keeps_terminal,
        warnings=(
            *job.notes, *strange(environ), *name_warnings, *network_warnings,
            *_warnings(job, script, machine, here),
        ),
    )  # fmt: skip


def _engine(job: Job, script: Script, *, ranks: int, keeps_terminal: bool) -> tuple[str, str, tuple[str, ...]]:
    asked = job.settings.engine
    if not script.is_python:
        return "spawn", f"{script.label} is no Python script", ()
    if keeps_terminal:
        return "spawn", "one rank alone keeps the terminal: breakpoint() works", ()
    if asked != "fork":
        return asked, "asked for", ()
    preload = job.settings.preload
    if ranks == 1 and not preload and not job.settings.max_restarts:
        return "spawn", "one rank on this host: importing torch once for all is importing it once", ()
    if script.uses_torch:
        named = [name for name in _PRELOAD_IF_IMPORTED if name in script.imports]
        preload = (*_PRELOAD, *(["torch._dynamo"] if script.needs_dynamo else []), *named, *preload)
    if not preload:
        return "spawn", "the script imports no torch, so there is nothing worth importing once for all ranks", ()
    return "fork", f"{', '.join(dict.fromkeys(preload))} are imported once, then every rank is a fork", preload


def _warnings(job: Job, script: Script, machine: Machine, procs: int) -> tuple[str, ...]:
    unheard = ("TRAINKIT_CLUSTER is for processing jobs, and says nothing here",) if job.settings.cluster else ()
    return (*unheard, *(_gpu_warnings(machine, procs) if script.is_python else ()))


def _gpu_warnings(machine: Machine, procs: int) -> tuple[str, ...]:
    if machine.gpus and procs > machine.gpus:
        return (
            f"{procs} ranks share {machine.gpus} GPUs: NCCL refuses two ranks on one GPU; use --procs {machine.gpus}",
        )
    if machine.gpus > procs:
        return (f"{procs} of {machine.gpus} GPUs will be used: set procs to {machine.gpus} to use all of them",)
    return ()
