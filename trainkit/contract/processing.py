"""A processing job: `/opt/ml/config` read once into one frozen value.

The service lays two files there, and not where training jobs have theirs. They are read leniently: sections may be
missing or null, and keys that are not known are kept.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from trainkit.contract import cluster, document, job, settings
from trainkit.contract.cluster import Cluster
from trainkit.contract.document import Document, is_name, plain
from trainkit.contract.paths import Paths
from trainkit.contract.settings import Settings
from trainkit.errors import ConfigError, Mistake

FILE = job.PROCESSING_FILE
MODES = ("File", "Pipe")
DISTRIBUTIONS = ("FullyReplicated", "ShardedByS3Key")
UPLOADS = ("EndOfJob", "Continuous")
LOCAL = "local"
"""The name of a job that nobody named."""
_KNOWN = frozenset(
    {
        *("ProcessingJobName", "ProcessingJobArn", "ProcessingInputs", "ProcessingOutputConfig", "Environment"),
        *("AppSpecification", "ProcessingResources", "StoppingCondition", "RoleArn"),
    }
)
_Wrong = Callable[[str, object, str, str], None]


@dataclass(frozen=True, slots=True)
class Input:
    """One input. `path` is its directory; in Pipe mode the stem of its FIFOs (`<path>_<epoch>`); None where the job
    reads `url` itself and has no directory for it."""

    name: str
    path: Path | None
    url: str | None
    mode: str = "File"
    distribution: str = "FullyReplicated"
    data_type: str = "S3Prefix"
    compression: str | None = None
    app_managed: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)
    """What the entry holds besides, DatasetDefinition for one."""

    def pipe(self, epoch: int = 0) -> Path:
        """The FIFO from which the data comes for the `epoch`-th time."""
        if self.mode != "Pipe" or self.path is None:
            raise ValueError(f"input {self.name} is in {self.mode} mode, and has no pipe")
        return self.path.with_name(f"{self.path.name}_{epoch}")


@dataclass(frozen=True, slots=True)
class Output:
    """One output. What lies in the directory `path` is copied to `url`; where `app_managed`, the job does that."""

    name: str
    path: Path | None
    url: str | None
    upload: str = "EndOfJob"
    app_managed: bool = False
    feature_group: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ProcessingJob:
    """What SageMaker says about this job, on this host."""

    name: str
    paths: Paths
    cluster: Cluster
    settings: Settings
    inputs: Mapping[str, Input] = field(default_factory=dict)
    outputs: Mapping[str, Output] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    addresses: Mapping[str, str] = field(default_factory=dict)
    """Host name → address, where TRAINKIT_HOST_ADDRESSES overrides name resolution."""
    documents: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """The files as they were, unknown keys and all."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    laid: bool = True
    """Whether the service laid its files. If not, someone tries a script out by hand."""

    @property
    def host(self) -> str:
        return self.cluster.current_host

    @property
    def hosts(self) -> tuple[str, ...]:
        """All hosts, in the natural order of their names; the same on every host."""
        return self.cluster.hosts

    @property
    def host_rank(self) -> int:
        return self.hosts.index(self.host)

    @property
    def is_first(self) -> bool:
        """Whether this is the host that does what is done once."""
        return self.host_rank == 0

    def as_job(self) -> job.Job:
        """The same facts as the supervisor knows them from training jobs."""
        from trainkit.contract.hyperparameters import Hyperparameters

        return job.Job(
            name=self.name, paths=self.paths, cluster=self.cluster, channels=(), hyperparameters=Hyperparameters({}),
            settings=self.settings, checkpoints=self.paths.checkpoints, addresses=self.addresses,
            documents=self.documents,
        )  # fmt: skip


def read(paths: Paths, *, environ: Mapping[str, str]) -> ProcessingJob:
    """The job that `paths` describes; one host without inputs where no file of it is there.

    Raises ConfigError with every mistake there is, each with file, key, value and remedy.
    """
    mistakes: list[Mistake] = []
    job_file, resources_file = (document.find(paths.processing_config, name) for name in (FILE, cluster.FILE))
    laid = document.is_there(job_file) or document.is_there(resources_file)
    raw = document.read(job_file, required=True, mistakes=mistakes) if laid else {}
    resources = document.read(resources_file, required=True, mistakes=mistakes) if laid else None
    here = cluster.read(resources, source=resources_file, mistakes=mistakes) if resources is not None else None
    if not laid:
        here = Cluster("algo-1", ("algo-1",))
    raw = raw or {}

    def wrong(key: str, value: object, problem: str, remedy: str) -> None:
        mistakes.append(Mistake(str(job_file), key, plain(value), problem, remedy))

    environment = _environment(raw.get("Environment"), wrong)
    given = {**environment, **environ}
    chosen = settings.read(flags={}, environ=given, hyperparameters={}, mistakes=mistakes)
    if "TRAINKIT_STALL_TIMEOUT" not in given:
        chosen = replace(chosen, stall_timeout=0.0)  # a query may well be silent for an hour
    inputs = {one.name: one for one in _inputs(raw.get("ProcessingInputs"), paths, wrong)}
    outputs = {one.name: one for one in _outputs(raw.get("ProcessingOutputConfig"), paths, wrong)}
    name = raw.get("ProcessingJobName")
    if name is not None and not is_name(name):
        wrong("ProcessingJobName", name, "must be a non-empty string of printable characters", "Write the job's name")
    addresses = job.read_addresses(environ.get(job.HOST_ADDRESSES), hosts=here.hosts if here else (), mistakes=mistakes)
    if mistakes or here is None:
        raise ConfigError(mistakes)
    return ProcessingJob(
        name=name or LOCAL, paths=paths, cluster=here, settings=chosen, inputs=inputs, outputs=outputs,
        environment=environment, addresses=addresses, laid=laid,
        documents={FILE: plain(raw), cluster.FILE: plain(resources or {})},
        extra={key: plain(value) for key, value in raw.items() if key not in _KNOWN},
    )  # fmt: skip


def placed(local: str, paths: Paths) -> Path:
    """Where `/opt/ml/…` of a request is on this host, which may have its root elsewhere."""
    return paths.root / local.removeprefix("/opt/ml/") if local.startswith("/opt/ml/") else Path(local)


def _environment(raw: Any, wrong: _Wrong) -> dict[str, str]:
    found: dict[str, str] = {}
    if raw is None:
        return found
    if not isinstance(raw, dict):
        wrong("Environment", raw, "must be an object", 'Write {"NAME": "value"}')
        return found
    for name, value in raw.items():
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            wrong(f"Environment.{name}", None, "is no variable's name", "Use letters, digits and '_'")
        elif not isinstance(value, str) or "\0" in value:
            wrong(f"Environment.{name}", value, "must be a string without NUL", "Write the value as a string")
        else:
            found[name] = value
    return found


def _inputs(raw: Any, paths: Paths, wrong: _Wrong) -> Iterator[Input]:
    for key, name, entry in _entries(raw, "ProcessingInputs", "InputName", wrong):
        source, source_key = _part(entry, key, "S3Input", wrong)
        if isinstance(entry.get("DatasetDefinition"), dict):
            dataset = entry["DatasetDefinition"]
            source = source or {
                "LocalPath": dataset.get("LocalPath"),
                "S3InputMode": dataset.get("InputMode"),
                "S3DataDistributionType": dataset.get("DataDistributionType") or "ShardedByS3Key",
            }
        yield Input(
            name=name,
            path=_local_path(source, source_key, paths, wrong),
            url=_text(source, source_key, "S3Uri", wrong),
            mode=_choice(source, source_key, "S3InputMode", MODES, wrong),
            distribution=_choice(source, source_key, "S3DataDistributionType", DISTRIBUTIONS, wrong),
            data_type=_choice(source, source_key, "S3DataType", ("S3Prefix", "ManifestFile"), wrong),
            compression=None if source.get("S3CompressionType") in (None, "None") else "Gzip",
            app_managed=entry.get("AppManaged") is True,
            extra={k: plain(v) for k, v in entry.items() if k not in ("InputName", "S3Input", "AppManaged")},
        )


def _outputs(raw: Any, paths: Paths, wrong: _Wrong) -> Iterator[Output]:
    if raw is not None and not isinstance(raw, dict):
        wrong("ProcessingOutputConfig", raw, "must be an object", 'Write {"Outputs": […]}')
        return
    for key, name, entry in _entries((raw or {}).get("Outputs"), "ProcessingOutputConfig.Outputs", "OutputName", wrong):
        target, target_key = _part(entry, key, "S3Output", wrong)
        group, group_key = _part(entry, key, "FeatureStoreOutput", wrong)
        yield Output(
            name=name,
            path=_local_path(target, target_key, paths, wrong),
            url=_text(target, target_key, "S3Uri", wrong),
            upload=_choice(target, target_key, "S3UploadMode", UPLOADS, wrong),
            app_managed=entry.get("AppManaged") is True,
            feature_group=_text(group, group_key, "FeatureGroupName", wrong),
            extra={k: plain(v) for k, v in entry.items() if k not in ("OutputName", "S3Output", "AppManaged")},
        )


def _entries(raw: Any, where: str, name_key: str, wrong: _Wrong) -> Iterator[tuple[str, str, Document]]:
    """(key of the entry, its name, the entry) of a list of named ones."""
    if raw is None:
        return
    if not isinstance(raw, list):
        wrong(where, raw, "must be an array", f'Write it as [{{"{name_key}": …}}]')
        return
    seen = set()
    for index, entry in enumerate(raw):
        key = f"{where}[{index}]"
        name = entry.get(name_key) if isinstance(entry, dict) else None
        if not isinstance(name, str) or not is_name(name):
            wrong(key, entry, f"has no {name_key}", f"Give it a {name_key} of its own")
        elif name in seen:
            wrong(f"{key}.{name_key}", name, "is the name of two of them", "Name each differently")
        else:
            seen.add(name)
            yield key, name, entry


def _part(entry: Document, key: str, name: str, wrong: _Wrong) -> tuple[Document, str]:
    part = entry.get(name)
    if part is not None and not isinstance(part, dict):
        wrong(f"{key}.{name}", part, "must be an object", "Write it as CreateProcessingJob has it")
        part = None
    return part or {}, f"{key}.{name}"


def _local_path(part: Document, key: str, paths: Paths, wrong: _Wrong) -> Path | None:
    local = part.get("LocalPath")
    if local is None:
        return None
    if not is_name(local) or not local.startswith("/") or ".." in Path(local).parts:
        wrong(f"{key}.LocalPath", local, "must be an absolute path", "It begins with /opt/ml/processing/")
        return None
    return placed(local, paths)


def _text(part: Document, key: str, name: str, wrong: _Wrong) -> str | None:
    value = part.get(name)
    if value is not None and not is_name(value):
        wrong(f"{key}.{name}", value, "must be a non-empty string of printable characters", "Write it as a string")
        return None
    return value


def _choice(part: Document, key: str, name: str, allowed: tuple[str, ...], wrong: _Wrong) -> str:
    """The first of `allowed` is what the service takes where nothing is said."""
    value = part.get(name)
    if value is not None and value not in allowed:
        wrong(f"{key}.{name}", value, f"is none of {', '.join(allowed)}", "Use one of them")
    return value if value in allowed else allowed[0]
