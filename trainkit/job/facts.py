"""What this rank knows about its job, read once into one frozen value.

Under `train` (and under SageMaker's own toolkits) the facts stand in `/opt/ml/input/config` and the SM_* variables.
Under plain `torchrun` or `python` there is no such tree: hyperparameters are the `--name value` pairs of the command
line, ranks are torch's variables, and what the job makes goes below ./trainkit-output.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trainkit.contract import channels as contract_channels
from trainkit.contract import hyperparameters as contract_hyperparameters
from trainkit.contract import job as contract_job
from trainkit.contract import settings
from trainkit.contract.environ import CHANNEL_URL
from trainkit.contract.hyperparameters import Hyperparameters
from trainkit.contract.names import alias
from trainkit.contract.paths import Paths
from trainkit.contract.settings import Settings
from trainkit.errors import ConfigError, Mistake

OUTPUT = "trainkit-output"


@dataclass(frozen=True, slots=True)
class World:
    """This process among the processes that train together."""

    rank: int = 0
    local_rank: int = 0
    world_size: int = 1
    local_world_size: int = 1
    host_rank: int = 0
    hosts: tuple[str, ...] = ("host-0",)


@dataclass(frozen=True, slots=True)
class Source:
    """Where a channel's data is: `where` is a path or a URL, `said_by` the variable or file that says so."""

    where: str
    said_by: str
    mode: str = "File"
    content_type: str | None = None
    own_share: bool = False
    """Whether each host has other files of it: ShardedByS3Key on several hosts."""
    wrapped: bool = False
    gzipped: bool = False
    """What a pipe brings: objects wrapped in RecordIO, or compressed."""


@dataclass(frozen=True, slots=True)
class Facts:
    name: str
    hyperparameters: Hyperparameters
    hyperparameters_from: str
    """For messages: the file, or "command line"."""
    channels: Mapping[str, Source]
    world: World
    model: Path
    output_data: Path
    checkpoints: Path
    settings: Settings
    fresh: bool
    """Whether this run begins its files anew: a restarted job goes on in those that it has."""
    checkpoint_agent: bool = False
    """Whether the platform copies `checkpoints` to a bucket, file by file."""


def read(environ: Mapping[str, str], *, argv: Sequence[str], cwd: Path) -> Facts:
    """The facts of this process. `argv` is the command line without the script's name.

    Raises ConfigError with every mistake in the job's files, or with the rank variable that makes no sense.
    """
    return _of_tree(environ) if environ.get("SM_CURRENT_HOST") else _bare(environ, argv=argv, cwd=cwd)


def _of_tree(environ: Mapping[str, str]) -> Facts:
    paths = Paths.of(environ)
    job = contract_job.read(paths, environ=environ)
    said_by = str(paths.config / contract_channels.FILE)
    several = len(job.hosts) > 1
    channels = {
        channel.name: Source(
            str(channel.path), said_by, channel.mode, channel.content_type,
            own_share=several and channel.distribution == "ShardedByS3Key",
            wrapped=channel.record_wrapper == "RecordIO", gzipped=channel.compression == "Gzip",
        )
        for channel in job.channels
    }  # fmt: skip
    return Facts(
        name=job.name,
        hyperparameters=job.hyperparameters.for_script,
        hyperparameters_from=str(paths.config / contract_hyperparameters.FILE),
        channels=_overridden(channels, environ=environ, prefixes=(CHANNEL_URL,)),
        world=_world(environ, hosts=job.hosts, host_rank=job.host_rank),
        model=paths.model,
        output_data=paths.output_data,
        checkpoints=job.checkpoints,
        settings=job.settings,
        fresh=False,
        checkpoint_agent=job.checkpoint_agent,
    )


def _bare(environ: Mapping[str, str], *, argv: Sequence[str], cwd: Path) -> Facts:
    output = cwd / OUTPUT
    mistakes: list[Mistake] = []
    chosen = settings.read(flags={}, environ=environ, hyperparameters={}, mistakes=mistakes)
    if mistakes:
        raise ConfigError(mistakes)
    return Facts(
        name=environ.get("TRAINING_JOB_NAME") or "local",
        hyperparameters=Hyperparameters(pairs(argv)).for_script,
        hyperparameters_from="command line",
        channels=_overridden({}, environ=environ, prefixes=("SM_CHANNEL_", CHANNEL_URL)),
        world=_world(environ),
        model=output / "model",
        output_data=output / "output/data",
        checkpoints=output / "checkpoints",
        settings=chosen,
        fresh=environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0",
    )


def pairs(argv: Sequence[str]) -> dict[str, str]:
    """`--lr 0.1 --name=x --fast` → {"lr": "0.1", "name": "x", "fast": "true"}. The last one of a name wins.

    A value that itself begins with `--` is written `--name=--value`. Other arguments, and all after a bare `--`, are
    the script's own business.
    """
    texts: dict[str, str] = {}
    waiting: str | None = None
    for argument in argv:
        if argument == "--":
            break
        if argument.startswith("--"):
            name, equals, text = argument[2:].partition("=")
            texts.pop(name, None)
            texts[name] = text if equals else "true"
            waiting = None if equals else name
        elif waiting is not None:
            texts[waiting] = argument
            waiting = None
    return texts


def _overridden(
    channels: Mapping[str, Source], *, environ: Mapping[str, str], prefixes: tuple[str, ...]
) -> dict[str, Source]:
    """The channels with what the variables say instead; the later prefix is the stronger."""
    merged = dict(channels)
    for prefix in prefixes:
        for variable, where in environ.items():
            if not variable.startswith(prefix) or not where:
                continue
            spelled = variable.removeprefix(prefix)
            # A channel `train-data` is exported as TRAIN-DATA and as TRAIN_DATA; both mean the one that is known.
            known = [name for name in merged if spelled in (name.upper(), alias(name))]
            for name in known or [spelled.lower()]:
                merged[name] = Source(where, variable)
    return merged


def _world(environ: Mapping[str, str], *, hosts: tuple[str, ...] = (), host_rank: int = 0) -> World:
    mistakes: list[Mistake] = []

    def number(variable: str, default: int) -> int:
        text = environ.get(variable) or str(default)
        if text.isdecimal():
            return int(text)
        mistakes.append(Mistake("environment", variable, text, "must be a whole number", "The launcher sets it"))
        return default

    world_size = number("WORLD_SIZE", 1)
    rank = number("RANK", 0)
    local_rank = number("LOCAL_RANK", 0)
    local_world_size = number("LOCAL_WORLD_SIZE", 1)
    if not hosts:  # torchrun tells how many there are, not what they are called
        host_rank = number("GROUP_RANK", rank // max(1, local_world_size))
        count = number("GROUP_WORLD_SIZE", world_size // max(1, local_world_size))
        hosts = tuple(f"host-{index}" for index in range(max(count, host_rank + 1)))
    if not mistakes and rank >= world_size:
        problem = f"is no rank of a world of {world_size} (WORLD_SIZE)"
        mistakes.append(Mistake("environment", "RANK", str(rank), problem, "Set both, as torchrun does"))
    if mistakes:
        raise ConfigError(mistakes)
    return World(
        rank=rank,
        local_rank=local_rank,
        world_size=world_size,
        local_world_size=local_world_size,
        host_rank=host_rank,
        hosts=hosts,
    )
