"""A document that describes jobs, whatever sent it: the jobs in it, and hands that find their way in what may be wrong.

a request    bare, as boto3 takes it, or as {"service": …, "operation": …, "request": {…}}
a tuning job one job for each training definition, its ranges as the values that they begin with
a pipeline   one job for each step, where {"Get": …} may stand for anything
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainkit.contract.document import DEPTH, too_deep
from trainkit.errors import UsageError

TRAINING, PROCESSING, TUNING = "CreateTrainingJob", "CreateProcessingJob", "CreateHyperParameterTuningJob"
_MOST_BYTES = 16 << 20  # a pipeline has 1 MiB at most, and a request less
_STEPS = {"Training": TRAINING, "Processing": PROCESSING, "Tuning": TUNING}


@dataclass(frozen=True, slots=True)
class Call:
    """One request. `key` is where it stands in the document, with the dot that follows it."""

    operation: str
    request: Mapping[str, Any]
    key: str = ""
    partial: bool = False
    """Whether it was composed here, or is a pipeline's: names and other members may be filled in later."""


@dataclass(frozen=True, slots=True)
class Job:
    """One training or processing job: a request of its own, or a tuning job's definition."""

    operation: str
    definition: Mapping[str, Any]
    key: str = ""
    partial: bool = False
    hyperparameters: Mapping[str, str] = field(default_factory=dict)
    """Those of every kind: static, and of each range the first value."""
    hyperparameters_key: str = "HyperParameters"
    values: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """What each tuned hyperparameter may become, as far as it can be listed."""

    @property
    def trains(self) -> bool:
        return self.operation != PROCESSING

    @property
    def channels(self) -> list[tuple[str, dict[str, Any]]]:
        """(key, channel) for each that is one."""
        listed = objects(self.definition, "InputDataConfig")
        return [(f"{self.key}InputDataConfig[{index}]", channel) for index, channel in listed]

    @property
    def environment(self) -> dict[str, str]:
        found = at(self.definition, "Environment", kind=dict) or {}
        return {name: value for name, value in found.items() if isinstance(value, str)}

    @property
    def hosts(self) -> int:
        groups = [group.get("InstanceCount") for _, group in objects(self.resources, "InstanceGroups")]
        count = self.resources.get("InstanceCount")
        return sum(n for n in [count, *groups] if isinstance(n, int)) or 1

    @property
    def resources(self) -> Mapping[str, Any]:
        if self.operation == PROCESSING:
            return at(self.definition, "ProcessingResources", "ClusterConfig", kind=dict) or {}
        return at(self.definition, "ResourceConfig", kind=dict) or {}

    @property
    def instance_types(self) -> list[str]:
        groups = [group.get("InstanceType") for _, group in objects(self.resources, "InstanceGroups")]
        return [name for name in [self.resources.get("InstanceType"), *groups] if isinstance(name, str)]

    @property
    def image(self) -> str:
        return at(self.definition, *self.image_key.removeprefix(self.key).split("."), kind=str) or ""

    @property
    def image_key(self) -> str:
        return f"{self.key}{'AlgorithmSpecification.TrainingImage' if self.trains else 'AppSpecification.ImageUri'}"


def at(value: Any, *path: str, kind: type[Any]) -> Any:
    """What lies at `path`, if it is there and is a `kind`; else None."""
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value if isinstance(value, kind) and not (kind is int and isinstance(value, bool)) else None


def objects(value: Any, *path: str) -> list[tuple[int, dict[str, Any]]]:
    """(index, entry) of the list at `path`, those that are objects."""
    return [(i, entry) for i, entry in enumerate(at(value, *path, kind=list) or []) if isinstance(entry, dict)]


def is_placeholder(value: Any) -> bool:
    """Whether a pipeline fills this in when it runs."""
    return isinstance(value, dict) and len(value) == 1 and next(iter(value)) in ("Get", "Std:Join", "Std:JsonGet")


def load(file: Path) -> tuple[Call, ...]:
    """The requests in `file`. Raises UsageError where it holds none."""
    try:
        if (size := file.stat().st_size) > _MOST_BYTES:
            raise UsageError(f"{file} has {size:,} bytes, and no request or pipeline has more than {_MOST_BYTES:,}")
        raw = json.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{file} is no JSON: {error}") from None
    if not isinstance(raw, dict) or too_deep(raw):
        raise UsageError(f"{file} holds no request: it must be an object, {DEPTH} levels deep at most")
    if at(raw, "Steps", kind=list) is not None:
        return tuple(_steps(raw))
    wrapped = at(raw, "request", kind=dict)
    request = raw if wrapped is None else wrapped
    named = raw.get("operation") if wrapped is not None else None
    operation = next((one for one in _STEPS.values() if one == named), None)
    return (Call(operation or _guess(request, file), request),)


def _guess(request: Mapping[str, Any], file: Path) -> str:
    kinds = {
        TUNING: {"HyperParameterTuningJobName", "HyperParameterTuningJobConfig"},
        PROCESSING: {"ProcessingJobName", "AppSpecification", "ProcessingResources"},
        TRAINING: {"TrainingJobName", "AlgorithmSpecification", "ResourceConfig"},
    }
    for operation, telling in kinds.items():
        if telling & request.keys():
            return operation
    raise UsageError(f"{file} is no request of {', '.join(kinds)}, and no pipeline: it has {', '.join(request)}")


def _steps(pipeline: Mapping[str, Any]) -> Iterator[Call]:
    for index, step in objects(pipeline, "Steps"):
        operation, arguments = _STEPS.get(str(step.get("Type"))), step.get("Arguments")
        if operation and isinstance(arguments, dict):
            yield Call(operation, arguments, key=f"Steps[{index}].Arguments.", partial=True)
        for branch in ("IfSteps", "ElseSteps"):
            inner = at(step, "Arguments", branch, kind=list)
            for call in _steps({"Steps": inner}) if inner else ():
                yield Call(call.operation, call.request, f"Steps[{index}].Arguments.{branch}.{call.key}", partial=True)


def jobs(call: Call) -> tuple[Job, ...]:
    """The jobs that a request makes: one, or as many as a tuning job has definitions."""
    if call.operation != TUNING:
        texts = _texts(at(call.request, "HyperParameters", kind=dict))
        return (Job(call.operation, call.request, call.key, call.partial, texts),)
    single = at(call.request, "TrainingJobDefinition", kind=dict)
    found = [("TrainingJobDefinition.", single)] if single is not None else []
    found += [(f"TrainingJobDefinitions[{i}].", one) for i, one in objects(call.request, "TrainingJobDefinitions")]
    shared = at(call.request, "HyperParameterTuningJobConfig", "ParameterRanges", kind=dict)
    return tuple(
        _trial(call, key, definition, definition.get("HyperParameterRanges") or shared or {})
        for key, definition in found
    )


def _trial(call: Call, key: str, definition: Mapping[str, Any], ranges: Mapping[str, Any]) -> Job:
    values = _ranges(ranges)
    static = _texts(at(definition, "StaticHyperParameters", kind=dict))
    firsts = {name: texts[0] for name, texts in values.items() if texts}
    return Job(
        TRAINING, definition, call.key + key, call.partial, {**static, **firsts}, "StaticHyperParameters", values
    )


def _ranges(ranges: Mapping[str, Any]) -> dict[str, list[str]]:
    values: dict[str, list[str]] = {}
    for kind, names in (
        ("IntegerParameterRanges", ("MinValue", "MaxValue")),
        ("ContinuousParameterRanges", ("MinValue", "MaxValue")),
        ("AutoParameters", ("ValueHint",)),
    ):
        for _, one in objects(ranges, kind):
            values[str(one.get("Name"))] = [str(one[name]) for name in names if name in one]
    for _, one in objects(ranges, "CategoricalParameterRanges"):
        listed = at(one, "Values", kind=list) or []
        values[str(one.get("Name"))] = [text for text in listed if isinstance(text, str)]
    return values


def _texts(given: Mapping[str, Any] | None) -> dict[str, str]:
    return {name: text for name, text in (given or {}).items() if isinstance(text, str)}
