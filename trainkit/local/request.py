"""The job, as the CreateTrainingJob request that AWS's own clients would send: composed, and looked into."""

from __future__ import annotations

import datetime
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from trainkit.errors import UsageError
from trainkit.local.sources import Source

CHECKPOINTS = "/opt/ml/checkpoints"
CHANNELS = "/opt/ml/input/data"
ONE_GROUP = "homogeneousCluster"
"""The group of a job that names none."""
_MODULES = {"train": "trainkit.cli.train", "process": "trainkit.cli.process", "trainkit": "trainkit.cli.main"}
_DRIVERS = frozenset({"code", "sm_drivers"})
"""Channels with programs, some of which change their own files' modes: hosts have copies of those."""
Request = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Shorthand:
    """`trainkit local train.py …` as typed."""

    script: Path
    hosts: int = 1
    channels: Mapping[str, str] = field(default_factory=dict)
    hyperparameters: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    max_runtime: int = 86400


class Group(NamedTuple):
    """An instance group."""

    name: str
    instance_type: str
    hosts: tuple[str, ...]


def compose(shorthand: Shorthand, *, output: Path, now: datetime.datetime) -> dict[str, Any]:
    """The request for it. Local paths become file:// URLs; the script's folder is the channel `code`.

    Raises UsageError for a channel that cannot be one.
    """
    script = shorthand.script.resolve()  # of a linked script the folder is that of the real file, as for python
    stem = re.sub(r"[^a-zA-Z0-9]+", "-", script.stem).strip("-") or "job"
    channels = {**shorthand.channels, "code": str(script.parent)}
    return {
        "TrainingJobName": f"{stem[:40]}-{now:%Y-%m-%d-%H-%M-%S}-{now.microsecond // 1000:03}",
        "AlgorithmSpecification": {"TrainingImage": "local", "TrainingInputMode": "File"},
        "RoleArn": "arn:aws:iam::000000000000:role/local",
        "HyperParameters": dict(shorthand.hyperparameters),
        "InputDataConfig": [channel(name, source) for name, source in channels.items()],
        "OutputDataConfig": {"S3OutputPath": output.absolute().as_uri(), "CompressionType": "GZIP"},
        "CheckpointConfig": {"S3Uri": (output.absolute() / "checkpoints").as_uri(), "LocalPath": CHECKPOINTS},
        "ResourceConfig": {"InstanceType": "local", "InstanceCount": shorthand.hosts, "VolumeSizeInGB": 1},
        "StoppingCondition": {"MaxRuntimeInSeconds": shorthand.max_runtime},
        "Environment": {**shorthand.environment, "TRAINKIT_SCRIPT": script.name},
    }


def channel(name: str, place: str) -> dict[str, Any]:
    """The channel `name` with the folder, file or URL `place`. Raises UsageError."""
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", name) or name in (".", ".."):
        raise UsageError(f"--channel {name}: is no channel name. Use letters, digits, '.', '-' and '_', 64 at most")
    if not place:
        raise UsageError(f"--channel {name}=: names no path: write --channel NAME=PATH")
    url = place if len(urlsplit(place).scheme) > 1 else Path(place).expanduser().absolute().as_uri()
    location = {"S3DataType": "S3Prefix", "S3Uri": url, "S3DataDistributionType": "FullyReplicated"}
    return {"ChannelName": name, "InputMode": "File", "DataSource": {"S3DataSource": location}}


def groups(request: Request) -> tuple[Group, ...]:
    """The instance groups, their hosts algo-1 to algo-N in turn, as the service names them."""
    resources = request["ResourceConfig"]
    listed = resources.get("InstanceGroups") or [{**resources, "InstanceGroupName": ONE_GROUP}]
    return tuple(_numbered(listed))


def _numbered(listed: Sequence[Mapping[str, Any]]) -> Iterator[Group]:
    first = 1
    for one in listed:
        names = tuple(f"algo-{number}" for number in range(first, first + one["InstanceCount"]))
        first += len(names)
        yield Group(one["InstanceGroupName"], one["InstanceType"], names)


def hosts(request: Request) -> tuple[str, ...]:
    """All hosts, in the order of their numbers."""
    return tuple(host for group in groups(request) for host in group.hosts)


def sources(request: Request, *, code: str | None = None) -> list[Source]:
    """Where each channel comes from, and who gets it. `code`: the channel that is a script's folder on this machine."""
    return [
        Source(
            what=f"channel {one['ChannelName']}",
            name=one["ChannelName"],
            path=f"{CHANNELS}/{one['ChannelName']}",
            url=one["DataSource"]["S3DataSource"]["S3Uri"],
            kind=one["DataSource"]["S3DataSource"]["S3DataType"],
            mode=mode(request, one),
            sharded=one["DataSource"]["S3DataSource"].get("S3DataDistributionType") == "ShardedByS3Key",
            gzip=one.get("CompressionType") == "Gzip",
            recordio=one.get("RecordWrapperType") == "RecordIO",
            attributes=tuple(one["DataSource"]["S3DataSource"].get("AttributeNames") or ()),
            seed=(one.get("ShuffleConfig") or {}).get("Seed"),
            hosts=channel_hosts(request, one),
            code=one["ChannelName"] == code,
            copied=one["ChannelName"] in _DRIVERS and "ContainerEntrypoint" in request["AlgorithmSpecification"],
        )
        for one in request.get("InputDataConfig") or []
    ]


def mode(request: Request, channel: Mapping[str, Any]) -> str:
    """File, FastFile or Pipe: the channel's own, else the algorithm's."""
    return str(channel.get("InputMode") or request["AlgorithmSpecification"]["TrainingInputMode"])


def channel_hosts(request: Request, channel: Mapping[str, Any]) -> tuple[str, ...]:
    """Those that get it: all, or those of its groups."""
    wanted = channel["DataSource"]["S3DataSource"].get("InstanceGroupNames")
    return tuple(host for group in groups(request) if not wanted or group.name in wanted for host in group.hosts)


def limit(request: Request, name: str) -> float | None:
    """One of the StoppingCondition's seconds. The service's default for MaxRuntimeInSeconds is a day."""
    seconds = (request.get("StoppingCondition") or {}).get(name)
    return 86400.0 if seconds is None and name == "MaxRuntimeInSeconds" else seconds


def checkpoints(request: Request) -> str | None:
    """Where a host's checkpoints lie, where the service takes care of them."""
    found = request.get("CheckpointConfig")
    return None if found is None else str(found.get("LocalPath") or CHECKPOINTS)


def tensorboard(request: Request) -> str | None:
    """Where a host's event files for TensorBoard lie, where the service takes care of them."""
    found = request.get("TensorBoardOutputConfig")
    return None if found is None else str(found.get("LocalPath") or "/opt/ml/output/tensorboard")


def words(request: Request) -> tuple[str, ...]:
    """What the container runs, as Docker puts it together; our images have no entry point, and the command `train`."""
    algorithm = request["AlgorithmSpecification"]
    return (*(algorithm.get("ContainerEntrypoint") or ()), *(algorithm.get("ContainerArguments") or ())) or ("train",)


def as_argv(words: Sequence[str]) -> tuple[str, ...]:
    """The same, our own commands started by this interpreter."""
    if words[0] in _MODULES:
        return (sys.executable, "-m", _MODULES[words[0]], *words[1:])
    return tuple(words)
