"""The whole of `/opt/ml/input/config`, read once into one frozen value."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainkit.contract import channels, cluster, dialect, document, hyperparameters, settings, source
from trainkit.contract.channels import Channel
from trainkit.contract.cluster import Cluster
from trainkit.contract.hyperparameters import Hyperparameters
from trainkit.contract.paths import Paths
from trainkit.contract.settings import Settings
from trainkit.errors import ConfigError, Mistake

if TYPE_CHECKING:
    from trainkit.contract.drivers import Said

HOST_ADDRESSES = "TRAINKIT_HOST_ADDRESSES"
CHECKPOINTS_FILE = "checkpointconfig.json"
PROCESSING_FILE = "processingjobconfig.json"


@dataclass(frozen=True, slots=True)
class Job:
    """What SageMaker says about this job, on this host."""

    name: str
    paths: Paths
    cluster: Cluster
    channels: tuple[Channel, ...]
    hyperparameters: Hyperparameters
    settings: Settings
    checkpoints: Path
    checkpoint_agent: bool = False
    """Whether the platform copies what is there to a bucket, file by file: the job has a CheckpointConfig."""
    addresses: Mapping[str, str] = field(default_factory=dict)
    """Host name → address, where TRAINKIT_HOST_ADDRESSES overrides name resolution."""
    documents: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """resourceconfig.json and inputdataconfig.json as they were, unknown keys and all."""
    notes: tuple[str, ...] = ()
    """What the job's author should know about how the job was understood."""
    unpacked: Path | None = None
    """Where the code lies, where it had to be fetched or unpacked, and was."""

    @property
    def hosts(self) -> tuple[str, ...]:
        """The hosts of this host's world, in rank order."""
        return self.cluster.world(self.settings.groups)

    @property
    def host_rank(self) -> int:
        return self.hosts.index(self.cluster.current_host)

    @property
    def source(self) -> Path:
        """The folder the script lies in: the one asked for, else the channel `code`, else /opt/ml/code.

        Of what is still to be fetched or unpacked, where it will lie.
        """
        asked = self.settings.source
        if self.unpacked:
            return self.unpacked
        if asked and (source.is_url(asked) or source.is_archive(asked)):
            return self.paths.code
        return Path(asked).absolute() if asked else (self.code_channel or self.paths.code)

    @property
    def code_channel(self) -> Path | None:
        """Where the channel `code` lies, if there is one."""
        return next((channel.path for channel in self.channels if channel.name == "code"), None)

    @property
    def dialect(self) -> str:
        """The spelling of argv and SM_*: the one asked for, else that of the client that sent the job."""
        return self.settings.dialect or dialect.choose(
            self.hyperparameters.texts, {channel.name for channel in self.channels}
        )

    def address(self, host: str) -> str:
        """Where `host` is reached: an address that was given, else its name."""
        return self.addresses.get(host, host)


def is_processing(paths: Paths) -> bool:
    """Whether the service laid a processing job there, and no training job."""
    training = document.is_there(document.find(paths.config, cluster.FILE))
    return not training and document.is_there(document.find(paths.processing_config, PROCESSING_FILE))


def read(
    paths: Paths, *, environ: Mapping[str, str], flags: Mapping[str, str] | None = None, config: Path | None = None,
    raw: bool = False,
) -> Job:  # fmt: skip
    """The job that `paths` describes. `config` is where the files lie, if not below the root.

    Where the job names a features.py, and its features have been made, their splits are channels; not if `raw`.
    Raises ConfigError with every mistake there is, each with file, key, value and remedy.
    """
    folder = config or paths.config
    mistakes: list[Mistake] = []

    def load(name: str, *, required: bool = True) -> tuple[Path, document.Document | None]:
        path = document.find(folder, name)
        return path, document.read(path, required=required, mistakes=mistakes)

    resources_file, resources = load(cluster.FILE)
    inputs_file, inputs = load(channels.FILE)
    texts_file, texts = load(hyperparameters.FILE)
    checkpoint_file, checkpoint = load(CHECKPOINTS_FILE, required=False)

    here = cluster.read(resources, source=resources_file, mistakes=mistakes) if resources is not None else None
    inputs = inputs or {}
    hps = hyperparameters.read(texts or {}, source=texts_file, mistakes=mistakes)
    asked: Mapping[str, Said] = {}
    notes: tuple[str, ...] = ()
    if dialect.DRIVERS_CHANNEL in inputs:
        from trainkit.contract import drivers  # most jobs have none

        groups = [group.name for group in here.groups] if here else []
        asked, notes = drivers.read(
            paths.channels, channels=inputs.keys(), environ=environ, mistakes=mistakes, groups=groups
        )
    chosen = settings.read(
        flags=flags or {}, environ=environ, hyperparameters=hps.texts, drivers=asked, mistakes=mistakes
    )
    if here:
        mistakes += _strange_groups(chosen, here)
    job_channels = channels.read(inputs, data=paths.channels, source=inputs_file, mistakes=mistakes)
    if chosen.features and not raw:
        from trainkit.contract import features  # most jobs have none

        job_channels = channels.with_splits(job_channels, features.splits(paths.features), folder=paths.features)
    checkpoints = _checkpoints(checkpoint or {}, default=paths.checkpoints, source=checkpoint_file, mistakes=mistakes)
    addresses = read_addresses(environ.get(HOST_ADDRESSES), hosts=here.hosts if here else (), mistakes=mistakes)
    if mistakes or here is None:
        raise ConfigError(mistakes)
    return Job(
        name=environ.get("TRAINING_JOB_NAME") or "local",
        paths=paths,
        cluster=here,
        channels=job_channels,
        hyperparameters=hps,
        settings=chosen,
        checkpoints=checkpoints,
        checkpoint_agent=checkpoint is not None,
        addresses=addresses,
        documents={cluster.FILE: document.plain(resources), channels.FILE: document.plain(inputs)},
        notes=notes,
    )


def _strange_groups(chosen: Settings, here: Cluster) -> list[Mistake]:
    known = [group.name for group in here.groups]
    return [
        Mistake("settings", "groups", name, "is no instance group of this job", f"Name some of {', '.join(known)}")
        for name in chosen.groups
        if known and name not in known
    ]


def read_addresses(text: str | None, *, hosts: tuple[str, ...], mistakes: list[Mistake]) -> Mapping[str, str]:
    """Host name → address, from the value of HOST_ADDRESSES."""
    if not text:
        return {}
    try:
        given = json.loads(text)
        usable = isinstance(given, dict) and all(isinstance(address, str) and address for address in given.values())
    except (ValueError, RecursionError):
        usable = False
    missing = [host for host in hosts if usable and host not in given]
    if not usable or missing:
        problem = f"has no address for {', '.join(missing)}" if missing else "is no JSON object of host → address"
        remedy = 'Write {"algo-1": "10.0.0.1", …} with every host, or unset it'
        mistakes.append(Mistake("environment", HOST_ADDRESSES, text, problem, remedy))
        return {}
    return dict(given)


def _checkpoints(raw: document.Document, *, default: Path, source: Path, mistakes: list[Mistake]) -> Path:
    local = raw.get("LocalPath")
    if local is None:
        return default
    if not document.is_name(local) or not local.startswith("/"):
        mistakes.append(
            Mistake(str(source), "LocalPath", document.plain(local), "must be an absolute path", f"Usually {default}")
        )
        return default
    # The service's default is spelled out even where the root is elsewhere, as on local hosts without a mount.
    return default if Path(local) == Path("/opt/ml/checkpoints") else Path(local)
