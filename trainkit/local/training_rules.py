"""What the service demands of a training job beyond the API's shapes, and what cannot be had here."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from trainkit.errors import ConfigError, Mistake
from trainkit.local import members, model
from trainkit.local.members import Fate, Refused
from trainkit.local.request import Request

_SHAPE = "CreateTrainingJobRequest"
_ROOT = PurePosixPath("/opt/ml")
_TAKEN = ("/opt/ml/input", "/opt/ml/output/data", "/opt/ml/model", "/opt/ml/code", "/opt/ml/output/failure")
Found = Iterator[tuple[str, object, str, str]]


def checked(request: Any, *, file: str) -> Request:
    """The request itself. Raises ConfigError with all of its mistakes."""
    if found := mistakes(request, file=file):
        raise ConfigError(found)
    return dict(request)


def mistakes(request: Any, *, file: str) -> list[Mistake]:
    """All that keeps it from running here, each with key, value and remedy. Rules come once the shape is right."""
    found = model.mistakes(request, shape=_SHAPE, file=file)
    found += refused(request, members.TRAINING, file=file)
    return found or [Mistake(file, *one) for one in rules(request)]


def refused(request: Any, table: Mapping[str, Fate], *, file: str) -> list[Mistake]:
    """Members that cannot be had here, by name."""
    told = members.judge(request, table) if isinstance(request, dict) else []
    return [
        Mistake(file, one.key, None, one.fate.problem, one.fate.remedy) for one in told if isinstance(one.fate, Refused)
    ]


def notes(request: Request, table: Mapping[str, Fate] = members.TRAINING) -> list[str]:
    """What has no effect here, in words."""
    texts = [one.fate.text for one in members.judge(request, table) if isinstance(one.fate, members.Noted)]
    return [*dict.fromkeys(texts), *_unshuffled(request.get("TrainingJobDefinition") or request)]


def _unshuffled(definition: Request) -> Iterator[str]:
    """Files have no order: what a shuffle could change is who gets which, and how the service deals is not known."""
    for one in definition.get("InputDataConfig") or []:
        mode = one.get("InputMode") or definition["AlgorithmSpecification"]["TrainingInputMode"]
        if one.get("ShuffleConfig") and mode != "Pipe":
            yield f"ShuffleConfig of {one['ChannelName']}: {mode} channels have no order"


def rules(request: Request) -> Found:
    """Of a request whose shape is right."""
    algorithm = request.get("AlgorithmSpecification")
    if not algorithm:
        yield "AlgorithmSpecification", None, "is missing", "Write TrainingImage and TrainingInputMode"
        return
    if not algorithm.get("TrainingImage"):
        yield "AlgorithmSpecification.TrainingImage", None, "is missing", "Name the image; this Python stands for it"
    for index, one in enumerate(algorithm.get("MetricDefinitions") or []):
        yield from _regex(one["Regex"], f"AlgorithmSpecification.MetricDefinitions[{index}].Regex")
    yield from _resources(request.get("ResourceConfig"))
    names = [one["ChannelName"] for one in request.get("InputDataConfig") or []]
    groups = {one["InstanceGroupName"] for one in (request.get("ResourceConfig") or {}).get("InstanceGroups") or []}
    for index, one in enumerate(request.get("InputDataConfig") or []):
        key = f"InputDataConfig[{index}]"
        if one["ChannelName"] in (".", "..") or names.index(one["ChannelName"]) != index:
            yield f"{key}.ChannelName", one["ChannelName"], "is no name, or another channel's", "Name each differently"
        yield from _channel(one, algorithm["TrainingInputMode"], groups, key)
    yield from _stopping(request)
    for part, path in (("CheckpointConfig", None), ("TensorBoardOutputConfig", None)):
        local = (request.get(part) or {}).get("LocalPath", path)
        if local is not None:
            yield from _local_path(local, f"{part}.LocalPath")


def _regex(text: str, key: str) -> Found:
    try:
        groups = re.compile(text).groups
    except re.error as error:
        yield key, text, f"is no regular expression: {error}", r"Write one like loss=([0-9.eE+-]+)"
        return
    if groups != 1:
        problem = f"has {groups} groups, and the metric's value is what its one group matches"
        yield key, text, problem, "Put the number, and only that, in round brackets; write others as (?:…)"


def _resources(resources: Mapping[str, Any] | None) -> Found:
    if not resources:
        yield "ResourceConfig", None, "is missing", "Write InstanceType, InstanceCount and VolumeSizeInGB"
        return
    single = [name for name in ("InstanceType", "InstanceCount") if resources.get(name) is not None]
    groups = resources.get("InstanceGroups")
    if groups and single:
        yield f"ResourceConfig.{single[0]}", resources[single[0]], "stands beside InstanceGroups", "Write one of them"
    if not groups and len(single) < 2:
        missing = next(name for name in ("InstanceType", "InstanceCount") if name not in single)
        yield f"ResourceConfig.{missing}", None, "is missing", "Write InstanceType and InstanceCount, or InstanceGroups"
    for index, group in enumerate(groups or []):
        key = f"ResourceConfig.InstanceGroups[{index}]"
        if [one["InstanceGroupName"] for one in groups or []].index(group["InstanceGroupName"]) != index:
            yield f"{key}.InstanceGroupName", group["InstanceGroupName"], "is another group's", "Name each differently"
        if not group["InstanceCount"]:
            yield f"{key}.InstanceCount", 0, "must be 1 or more", "Leave the group out if it has no hosts"
    if not groups and resources.get("InstanceCount") == 0:
        yield "ResourceConfig.InstanceCount", 0, "must be 1 or more", "Write how many hosts there are"


def _channel(one: Mapping[str, Any], default: str, groups: set[str], key: str) -> Found:
    source = one["DataSource"].get("S3DataSource")
    if source is None:
        yield f"{key}.DataSource", None, "has no S3DataSource", "Say where the data comes from"
        return
    mode, kind, at = one.get("InputMode") or default, source["S3DataType"], f"{key}.DataSource.S3DataSource"
    if kind == "Converse":
        yield f"{at}.S3DataType", kind, "is for jobs that AWS runs itself", "Write S3Prefix or ManifestFile"
    if not source["S3Uri"]:
        yield f"{at}.S3Uri", "", "names nothing", "Write s3://bucket/folder/, or a path here"
    if mode == "FastFile" and kind != "S3Prefix":
        yield f"{at}.S3DataType", kind, "does not go with the mode FastFile", "Use S3Prefix, or the mode File or Pipe"
    if kind == "AugmentedManifestFile" and mode == "File":
        yield f"{at}.S3DataType", kind, "goes with the mode Pipe only", "Write InputMode Pipe"
    if (kind == "AugmentedManifestFile") != bool(source.get("AttributeNames")):
        said = source.get("AttributeNames")
        yield f"{at}.AttributeNames", said, "go with an AugmentedManifestFile, and that with them", "Write both or none"
    for name in ("CompressionType", "RecordWrapperType"):
        if mode != "Pipe" and one.get(name) not in (None, "None"):
            yield f"{key}.{name}", one[name], f"goes with the mode Pipe only, and this one is {mode}", "Write None"
    for name in source.get("InstanceGroupNames") or []:
        if name not in groups:
            known = f"It has {', '.join(sorted(groups))}" if groups else "It has no InstanceGroups"
            yield f"{at}.InstanceGroupNames", name, "is no instance group of this job", known


def _stopping(request: Request) -> Found:
    stopping = request.get("StoppingCondition") or {}
    waiting, spot = stopping.get("MaxWaitTimeInSeconds"), request.get("EnableManagedSpotTraining")
    if spot and (waiting is None or waiting < stopping.get("MaxRuntimeInSeconds", 86400)):
        problem = "must be given for spot training, and not be less than MaxRuntimeInSeconds"
        yield "StoppingCondition.MaxWaitTimeInSeconds", waiting, problem, "Add the time you would wait for instances"


def _local_path(path: str, key: str) -> Found:
    inside = PurePosixPath(path).is_relative_to(_ROOT) and ".." not in PurePosixPath(path).parts
    if not inside or PurePosixPath(path) == _ROOT:
        yield (
            key,
            path,
            "is not below /opt/ml, and hosts here have nothing else of their own",
            "Write one below /opt/ml",
        )
    elif any(PurePosixPath(path).is_relative_to(taken) for taken in _TAKEN):
        yield key, path, "is the service's own", "Use /opt/ml/checkpoints, or another folder below /opt/ml"
