"""The one table of trainkit's own settings.

    flag `--peer-wait 60`  >  environment `TRAINKIT_PEER_WAIT=60`  >  hyperparameter `trainkit_peer_wait`  >  sm_drivers

There are few, since what the machine or the contract can answer is not asked.
docs/settings.md is this table for people.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainkit.contract.dialect import JSON, TOOLKIT
from trainkit.errors import Mistake

if TYPE_CHECKING:
    from trainkit.contract.drivers import Said

ENGINES = ("fork", "spawn", "torchrun")
STALL_ACTIONS = ("warn", "act")
DIALECTS = (TOOLKIT, JSON)
CLUSTERS = ("none", "spark", "ray", "dask")


@dataclass(frozen=True, slots=True)
class Settings:
    """What a user may choose. See TABLE for the meaning of each."""

    script: str = "train.py"
    source: str | None = None
    command: str | None = None
    requirements: str | None = None
    allow_replace: tuple[str, ...] = ()
    dialect: str | None = None
    procs: int | None = None
    engine: str = "fork" if sys.platform == "linux" else "spawn"
    preload: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    port: int = 7777
    peer_wait: float = 600.0
    peer_timeout: float = 30.0
    stop_grace: float = 110.0
    max_restarts: int = 0
    stall_timeout: float = 600.0
    stall_action: str = "warn"
    checkpoint_url: str | None = None
    resume_from: str | None = None
    features: str | None = None
    features_url: str | None = None
    cluster: str | None = None


@dataclass(frozen=True, slots=True)
class Setting:
    """One row: how its text becomes a value, and the peers' names that are heard too."""

    name: str
    parse: Callable[[str], Any]
    expects: str
    meaning: str
    environment: str | None = None
    hyperparameter: str | None = None
    job_first: bool = False
    """Whether AWS's hyperparameter comes before AWS's variable: images bake the variable in, and jobs mean theirs."""

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        return "TRAINKIT_" + self.name.upper()


def _whole(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        number = int(text)
        if not low <= number <= high:
            raise ValueError(text)
        return number

    return parse


def seconds(text: str) -> float:
    """`90`, `90s`, `1.5m` or `2h`, in seconds."""
    units = {"s": 1, "m": 60, "h": 3600}
    number = float(text[:-1]) * units[text[-1]] if text[-1:] in units else float(text)
    if not 0 <= number < float("inf"):
        raise ValueError(text)
    return number


def _choice(*allowed: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in allowed:
            raise ValueError(text)
        return text

    return parse


def _names(text: str) -> tuple[str, ...]:
    """`a,b`, or the JSON array that the SDK writes."""
    listed = json.loads(text) if text.startswith("[") else text.split(",")
    return tuple(name.strip() for name in listed if name.strip())


def _text(text: str) -> str:
    if not text.strip() or "\0" in os.fsencode(text).decode(errors="replace"):
        raise ValueError(text)
    return text


def _perhaps(text: str) -> str:
    return _text(text) if text.strip() else ""


def _unquoted(text: str) -> str:
    """SDK v2 writes every hyperparameter as JSON, so that the word fork arrives as "fork"."""
    return str(json.loads(text)) if text.startswith('"') else text


TABLE = (
    Setting(
        "script", _text, "a path, or -m package.module",
        "the script to run: a .py file, any executable, or a module; relative to the source folder",
        environment="SAGEMAKER_PROGRAM", hyperparameter="sagemaker_program",
    ),
    Setting(
        "source", _text, "a directory, a tarball, or a URL of either",
        "where the code is (docs/code.md); by default the channel `code` where there is one, else /opt/ml/code",
        environment="SAGEMAKER_SUBMIT_DIRECTORY", hyperparameter="sagemaker_submit_directory", job_first=True,
    ),
    Setting(
        "command", _text, "a line for bash",
        "what runs in the script's place, once per host; the hyperparameters are its \"$@\"",
    ),
    Setting(
        "requirements", _perhaps, "a path; empty for none",
        "what is installed before the script starts, in the source; by default its requirements.txt; empty: nothing",
    ),
    Setting(
        "allow_replace", _names, "package names: a,b",
        "packages of the image that requirements may replace: torch and its family, numpy by another major version",
    ),
    Setting(
        "dialect", _choice(*DIALECTS), f"one of {', '.join(DIALECTS)}",
        "how argv and SM_* are spelled (docs/contract.md); by default as the client that sent the job would have it",
    ),
    Setting(
        "procs", _whole(1, 1024), "a number from 1 to 1024",
        "ranks on this host; by default its GPUs, else 1; 1 for a .sh or a command",
        hyperparameter="sagemaker_mpi_num_of_processes_per_host",
    ),
    Setting("engine", _choice(*ENGINES), f"one of {', '.join(ENGINES)}", "how ranks are started (docs/decisions/0001)"),
    Setting("preload", _names, "module names: a,b", "modules that the fork engine imports before it forks"),
    Setting(
        "groups", _names, "group names: a,b", "instance groups that train together, in a heterogeneous cluster",
        hyperparameter="sagemaker_distribution_instance_groups",
    ),
    Setting("port", _whole(1, 65534), "a port below 65535", "where the first host listens for the others"),
    Setting("peer_wait", seconds, "seconds: 90, 10m", "how long hosts wait for each other at the start"),
    Setting("peer_timeout", seconds, "seconds: 30, 2m", "silence after which a host counts as lost; 0: only report it"),
    Setting("stop_grace", seconds, "seconds: 90, 1.5m", "from SIGTERM to SIGKILL; SageMaker itself kills after 120 s"),
    Setting(
        "max_restarts", _whole(0, 1000), "a number from 0 to 1000",
        "how often all ranks are started again, together, after one has failed",
    ),
    Setting(
        "stall_timeout", seconds, "seconds: 600, 10m",
        "without progress for so long, ranks show their stacks; 0: never",
    ),
    Setting(
        "stall_action", _choice(*STALL_ACTIONS), f"one of {', '.join(STALL_ACTIONS)}",
        "warn: go on waiting; act: the ranks are ended, and started again where restarts are left",
    ),
    Setting(
        "checkpoint_url", _text, "a URL",
        "where checkpoints are safe: each goes below <URL>/<the job's name> too, when job.checkpointer saves it",
    ),
    Setting(
        "resume_from", _text, "a path or URL",
        "another job's checkpoints, to begin with where this job has none of its own",
    ),
    Setting(
        "features", _text, "a path",
        "the features.py that makes the channels to train on, before the ranks start; relative to the source folder",
    ),
    Setting(
        "features_url", _text, "a URL",
        "where the first host puts what features.py made, for the other hosts and for the next start",
    ),
    Setting(
        "cluster", _choice(*CLUSTERS), f"one of {', '.join(CLUSTERS)}",
        "in a processing job, the engine that is started on all hosts for a command on the first (docs/processing.md)",
    ),
)  # fmt: skip
NOT_SETTINGS = (
    "TRAINKIT_HOST_ADDRESSES",
    "TRAINKIT_CLUSTER_KEY",
    "TRAINKIT_RUN_DIR",
    "TRAINKIT_REHEARSAL",
    "TRAINKIT_CHANNEL_",
    "TRAINKIT_S3_",
)


def read(
    *,
    flags: Mapping[str, str],
    environ: Mapping[str, str],
    hyperparameters: Mapping[str, str],
    drivers: Mapping[str, Said] | None = None,
    mistakes: list[Mistake],
) -> Settings:
    """Every setting from its strongest source. `flags` and the texts of `hyperparameters` are keyed as in TABLE.

    `drivers` has the weakest voice: what the client asked of the drivers that it sent along (contract.drivers).
    """
    values: dict[str, Any] = {}
    drivers = drivers or {}
    for row in TABLE:
        said = [drivers[row.name]] if row.name in drivers else []
        spoken = _spoken(row, flags=flags, environ=environ, hyperparameters=hyperparameters)
        for source, key, text in [*spoken, *said]:
            try:
                values[row.name] = row.parse(_unquoted(text) if source == "hyperparameters.json" else text)
            except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
                mistakes.append(Mistake(source, key, text, f"must be {row.expects}", f"It sets {row.meaning}"))
            break
    known = {row.name for row in TABLE}
    for name, (file, key, text) in drivers.items():
        if name not in known and text:  # left out in silence, the job would run, and not as its author wants it
            mistakes.append(Mistake(file, key, text, "asks for what trainkit does not do", "Leave it out"))
    for name in hyperparameters:
        if name.startswith("trainkit_") and name.removeprefix("trainkit_") not in known:
            remedy = _did_you_mean(name, prefix="trainkit_")
            mistakes.append(Mistake("hyperparameters.json", name, None, "is no setting of trainkit", remedy))
    return Settings(**values)


FOR_RANKS = ("stop_grace", "checkpoint_url", "resume_from", "features", "features_url")
"""Settings that the script's own process needs to know, however they were given to `train`."""


def for_ranks(settings: Settings) -> dict[str, str]:
    """Those that were given, as the variables in which a rank reads them."""
    default = Settings()
    given = {name: getattr(settings, name) for name in FOR_RANKS}
    return {f"TRAINKIT_{name.upper()}": str(value) for name, value in given.items() if value != getattr(default, name)}


def strange(environ: Mapping[str, str]) -> list[str]:
    """Variables that look like settings and are none; worth a warning, since an image may own the name."""
    known = {row.variable for row in TABLE}
    return [
        f"{name} is no setting of trainkit. {_did_you_mean(name, prefix='TRAINKIT_')}"
        for name in environ
        if name.startswith("TRAINKIT_") and name not in known and not name.startswith(NOT_SETTINGS)
    ]


def _spoken(
    row: Setting, *, flags: Mapping[str, str], environ: Mapping[str, str], hyperparameters: Mapping[str, str]
) -> list[tuple[str, str, str]]:
    """(where, under which name, the text) of each source that speaks, the strongest first."""
    candidates = [
        ("command line", row.flag, flags.get(row.name)),
        ("environment", row.variable, environ.get(row.variable)),
        ("environment", row.environment, environ.get(row.environment or "")),
        ("hyperparameters.json", f"trainkit_{row.name}", hyperparameters.get(f"trainkit_{row.name}")),
        ("hyperparameters.json", row.hyperparameter, hyperparameters.get(row.hyperparameter or "")),
    ]
    if row.job_first:
        candidates.append(candidates.pop(2))
    return [(source, key, text) for source, key, text in candidates if key and text is not None]


def _did_you_mean(name: str, *, prefix: str) -> str:
    import difflib  # a start without a misspelling does without

    names = [row.variable if prefix.isupper() else f"{prefix}{row.name}" for row in TABLE]
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.8)  # the prefix alone is half of a match
    return f"Did you mean {close[0]}?" if close else f"The settings are: {', '.join(names)}"
