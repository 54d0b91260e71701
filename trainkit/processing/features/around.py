"""Where raw tables lie and features go, as the job around us has it: a processing job, a training job, or none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from trainkit.contract import job as training
from trainkit.contract import processing
from trainkit.contract.environ import CHANNEL_URL
from trainkit.contract.names import alias
from trainkit.contract.paths import Paths
from trainkit.contract.settings import Settings
from trainkit.errors import UsageError
from trainkit.processing.features.declared import Features, Source

CODE = "code"
CLUSTER = "TRAINKIT_CLUSTER"


@dataclass(frozen=True, slots=True)
class Around:
    """What the job offers. `unfit`: inputs that cannot be read as files, and why; `sharded`: each host has others."""

    host: str
    hosts: tuple[str, ...]
    folder: Path
    """Where inputs lie that nobody speaks of."""
    inputs: Mapping[str, Path] = field(default_factory=dict)
    unfit: Mapping[str, str] = field(default_factory=dict)
    sharded: frozenset[str] = frozenset()
    outputs: Mapping[str, Path] = field(default_factory=dict)
    said: Mapping[str, Path | str] = field(default_factory=dict)
    """What variables name in place of channels, by what they spell: paths, and URLs as str."""

    def chosen(self, features: Features, given: Mapping[str, Path | str]) -> dict[str, Path | str]:
        """The folder, or URL, of each input that the definition names, as far as one is known. Raises UsageError."""
        wanted = wants(features)
        if strange := sorted(set(given) - set(wanted)):
            raise UsageError(f"--input {strange[0]}: features.py reads {', '.join(wanted)}, and no {strange[0]}")
        said = {name: self.said[alias(name)] for name in wanted if alias(name) in self.said}
        found = {name: place for name, place in {**self.inputs, **said, **given}.items() if name in wanted}
        for name in wanted:
            if name not in found and name in self.unfit:
                raise UsageError(f"the input {name} {self.unfit[name]}")
            if name not in found and (self.folder / name).is_dir():
                found[name] = self.folder / name
        return found

    def output(self, default: Path) -> Path:
        """The one output of the job. Raises UsageError where there are several."""
        if len(self.outputs) > 1:
            raise UsageError(
                f"the job has the outputs {', '.join(self.outputs)}, and features are written to one: "
                f"name it, --output {next(iter(self.outputs.values()))}"
            )
        return next(iter(self.outputs.values()), default)


def wants(features: Features) -> list[str]:
    """The names of the inputs that a definition reads."""
    return sorted({one.input if isinstance(one, Source) else one for one in features.tables.values()})


def of_processing(environ: Mapping[str, str]) -> Around:
    """The processing job; one host without inputs where there is none. Raises ConfigError."""
    paths = Paths.of(environ)
    job = processing.read(paths, environ=environ)
    fit = {name: one for name, one in job.inputs.items() if one.path and one.mode == "File" and not one.app_managed}
    unfit = {
        name: "is app-managed: it has no folder" if one.app_managed or not one.path else "comes through a pipe"
        for name, one in job.inputs.items() if name not in fit
    }  # fmt: skip
    return Around(
        job.host, job.hosts, paths.processing / "input",
        inputs={name: one.path for name, one in fit.items() if one.path},
        unfit={name: f"{why}, and features are made from files: use S3InputMode File" for name, why in unfit.items()},
        sharded=frozenset(name for name, one in fit.items() if one.distribution == "ShardedByS3Key"),
        outputs={name: one.path for name, one in job.outputs.items() if one.path and not one.app_managed},
    )  # fmt: skip


def of_training(environ: Mapping[str, str]) -> tuple[Around, Settings]:
    """The training job, whose channels are the raw tables, and its settings. Raises ConfigError."""
    paths = Paths.of(environ)
    job = training.read(paths, environ=environ, raw=True)
    channels = [one for one in job.channels if one.name != CODE]
    made = Around(
        job.cluster.current_host, job.hosts, paths.channels,
        inputs={one.name: one.path for one in channels if one.mode != "Pipe"},
        unfit={
            one.name: "comes through a pipe, and features are made from files: use FastFile or File"
            for one in channels if one.mode == "Pipe"
        },
        sharded=frozenset(one.name for one in channels if one.distribution == "ShardedByS3Key"),
        said={
            variable.removeprefix(CHANNEL_URL): where if "://" in where else Path(where)
            for variable, where in environ.items() if variable.startswith(CHANNEL_URL) and where
        },
    )  # fmt: skip
    return made, job.settings


def whole(around: Around, wanted: Iterable[str]) -> None:
    """Refuse where a table lies in parts on several hosts."""
    parts = (
        [name for name in wanted if name in around.sharded and alias(name) not in around.said]
        if len(around.hosts) > 1
        else []
    )
    if parts:
        raise UsageError(
            f"the channel {parts[0]} is ShardedByS3Key on {len(around.hosts)} hosts, and each makes features of whole "
            f"tables: use FullyReplicated, or make them in a processing job before"
        )


def share(around: Around, features: Features, *, fits: bool) -> str:
    """The host whose share of the rows this is, "" where all are here. Raises UsageError where hosts cannot share."""
    hosts = len(around.hosts)
    if hosts == 1:
        return ""
    if fits:
        raise UsageError(
            f"features are fitted on one host, and this job has {hosts} ({', '.join(around.hosts)}): give it "
            f"InstanceCount 1; or fit on one host before, and have each host apply it to its share: --artifact DIR"
        )
    shared = [name for name in wants(features) if name in around.sharded]
    if len(shared) != 1:
        problem = (
            f"{' and '.join(shared)} are ShardedByS3Key, and rows that belong together may lie on different hosts"
            if shared else "none of the inputs is ShardedByS3Key, and each host would make the same rows"
        )  # fmt: skip
        raise UsageError(f"{problem}: on {hosts} hosts, have the one input with the rows sharded, and the others not")
    return around.host


def engine_of(environ: Mapping[str, str], asked: str | None, around: Around) -> str:
    """duckdb or spark. Raises UsageError for a cluster of which only one host would work."""
    kind = environ.get(CLUSTER) or "none"
    if kind == "none":
        if asked == "spark" and len(around.hosts) > 1:
            raise UsageError(f"--engine spark on {len(around.hosts)} hosts needs their cluster: {CLUSTER}=spark")
        return asked or "duckdb"
    if kind != "spark" or (asked == "duckdb" and len(around.hosts) > 1):
        raise UsageError(
            f"{CLUSTER}={kind} has one command run, on the first host, and features are made by duckdb, on each host, "
            f"or by Spark: leave {CLUSTER} out, or use {CLUSTER}=spark with its own engine"
        )
    return asked or "spark"


def replicated(around: Around, features: Features) -> None:
    """Refuse where an input lies in parts on several hosts: Spark reads all of it, on whichever host a task runs."""
    parts = [name for name in wants(features) if name in around.sharded] if len(around.hosts) > 1 else []
    if parts:
        raise UsageError(
            f"the input {parts[0]} is ShardedByS3Key, and on Spark every host reads every input: use FullyReplicated; "
            f"or leave {CLUSTER} out, and each host makes features of its share with duckdb, by --artifact DIR"
        )
