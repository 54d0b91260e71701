"""The job, as the CreateTrainingJob request that AWS's own clients would send."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from trainkit.errors import UsageError

CHECKPOINTS = "/opt/ml/checkpoints"
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
        "InputDataConfig": [_channel(name, source) for name, source in channels.items()],
        "OutputDataConfig": {"S3OutputPath": output.absolute().as_uri(), "CompressionType": "GZIP"},
        "CheckpointConfig": {"S3Uri": (output.absolute() / "checkpoints").as_uri(), "LocalPath": CHECKPOINTS},
        "ResourceConfig": {"InstanceType": "local", "InstanceCount": shorthand.hosts, "VolumeSizeInGB": 1},
        "StoppingCondition": {"MaxRuntimeInSeconds": shorthand.max_runtime},
        "Environment": {**shorthand.environment, "TRAINKIT_SCRIPT": script.name},
    }


def hosts(request: Request) -> tuple[str, ...]:
    """algo-1 to algo-N, as the service names them."""
    return tuple(f"algo-{number}" for number in range(1, request["ResourceConfig"]["InstanceCount"] + 1))


def source(channel: Mapping[str, Any]) -> str:
    """The URL a channel's data comes from."""
    return str(channel["DataSource"]["S3DataSource"]["S3Uri"])


def _channel(name: str, place: str) -> dict[str, Any]:
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", name) or name in (".", ".."):
        raise UsageError(f"--channel {name}: is no channel name. Use letters, digits, '.', '-' and '_', 64 at most")
    if not place:
        raise UsageError(f"--channel {name}=: names no path: write --channel NAME=PATH")
    url = place if len(urlsplit(place).scheme) > 1 else Path(place).expanduser().absolute().as_uri()
    location = {"S3DataType": "S3Prefix", "S3Uri": url, "S3DataDistributionType": "FullyReplicated"}
    return {"ChannelName": name, "InputMode": "File", "DataSource": {"S3DataSource": location}}
