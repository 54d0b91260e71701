"""The channel as the job's own request has it, which inputdataconfig.json leaves out: asked by DescribeTrainingJob."""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from trainkit.errors import ConfigError, Mistake, StorageError
from trainkit.storage.answers import explain
from trainkit.storage.store import failure

LIMIT = 5.0
"""Seconds that asking may take: finding credentials, connecting, the answer."""
Kind = Literal["S3Prefix", "ManifestFile", "AugmentedManifestFile"]


@dataclass(frozen=True, slots=True)
class Described:
    """A channel's S3DataSource. `attributes` are those of an augmented manifest that the job wants, in order."""

    uri: str
    kind: Kind
    attributes: tuple[str, ...] = ()


class Ask(Protocol):
    """Who knows where the job has a channel. Raises StorageError and ConfigError."""

    def __call__(self, channel: str, *, environ: Mapping[str, str]) -> Described: ...


def ask_once(channel: str, *, environ: Mapping[str, str], ranks: int, limit: float = LIMIT) -> Described:
    """As `ask`, by the first rank for all: the service throttles who asks a thousand times at once.

    All ranks must call it, and raise together. Without a process group each asks for itself.
    """
    distributed = sys.modules.get("torch.distributed")
    if ranks == 1 or distributed is None or not distributed.is_initialized():
        return ask(channel, environ=environ, limit=limit)
    said: list[Described | tuple[Mistake, ...] | str] = [""]
    if distributed.get_rank() == 0:
        try:
            said[0] = ask(channel, environ=environ, limit=limit)
        except ConfigError as error:
            said[0] = error.mistakes
        except StorageError as error:
            said[0] = str(error)
    distributed.broadcast_object_list(said)
    if isinstance(told := said[0], Described):
        return told
    raise StorageError(told) if isinstance(told, str) else ConfigError(told)


def ask(channel: str, *, environ: Mapping[str, str], limit: float = LIMIT) -> Described:
    """Where this job's channel is. Raises StorageError where that is not to be had within the limit, ConfigError where
    the job has no such channel on S3."""
    job = environ.get("TRAINING_JOB_NAME", "")
    if not job:
        problem = "asks for the job's own S3Uri, and this is no SageMaker job (TRAINING_JOB_NAME is not set)"
        raise ConfigError([Mistake("environment", _variable(channel), "job", problem, "Write the URL itself")])
    answers: list[dict[str, Any] | Exception] = []
    # In a thread, since what looks for credentials (containers, roles, tools) has limits of its own, if any.
    asking = threading.Thread(target=_describe, args=(job, environ, limit, answers), daemon=True, name="describe")
    asking.start()
    asking.join(limit)
    name = f"training job {job}"
    if not answers:
        raise failure(name, "describe it", f"no answer came within {limit:g} s", _remedy(channel))
    if isinstance(answer := answers[0], Exception):
        error = explain(name, "describe it", answer, endpoint=None)
        raise StorageError(f"{error} {_remedy(channel)}.") from answer
    return _of_answer(answer, channel, job=job)


def _describe(job: str, environ: Mapping[str, str], limit: float, answers: list[dict[str, Any] | Exception]) -> None:
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    config = Config(connect_timeout=limit, read_timeout=limit, retries={"total_max_attempts": 2})
    region = environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION")
    try:
        client = boto3.session.Session(region_name=region).client("sagemaker", config=config)
        answers.append(dict(client.describe_training_job(TrainingJobName=job)))
    except (BotoCoreError, ClientError, OSError, ValueError) as error:
        answers.append(error)


def _of_answer(answer: Mapping[str, Any], channel: str, *, job: str) -> Described:
    channels = {one["ChannelName"]: one for one in answer.get("InputDataConfig", ())}
    source = channels.get(channel, {}).get("DataSource", {}).get("S3DataSource")
    if source is None:
        has = ", ".join(sorted(channels)) or "none"
        problem = f"asks for the S3Uri of a channel that the request of {job} does not have on S3 (its channels: {has})"
        raise ConfigError([Mistake("environment", _variable(channel), "job", problem, "Write the URL itself")])
    return Described(source["S3Uri"], source["S3DataType"], tuple(source.get("AttributeNames", ())))


def _variable(channel: str) -> str:
    return f"TRAINKIT_CHANNEL_{channel.upper()}"


def _remedy(channel: str) -> str:
    return f"Allow sagemaker:DescribeTrainingJob to the job's role, or set {_variable(channel)} to the S3Uri itself"
