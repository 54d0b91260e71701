"""One trial of a tuning job: its CreateHyperParameterTuningJob request as a training job that the service would start.

Values that are not given are drawn: evenly over the range, or over its logarithm where the ScalingType says so.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from trainkit.errors import ConfigError, Mistake, UsageError
from trainkit.local import members, model, training_rules
from trainkit.local.request import Request

_SHAPE = "CreateHyperParameterTuningJobRequest"
_JOB = "HyperParameterTuningJobConfig"
_KINDS = ("IntegerParameterRanges", "ContinuousParameterRanges", "CategoricalParameterRanges", "AutoParameters")
_OWN = ("DefinitionName", "TuningObjective", "HyperParameterRanges", "StaticHyperParameters")
_MACHINES = "HyperParameterTuningResourceConfig"


@dataclass(frozen=True, slots=True)
class Objective:
    """What the tuning job wants to be large, or small."""

    metric: str
    kind: str  # Maximize or Minimize


@dataclass(frozen=True, slots=True)
class Trial:
    """One training job of a tuning job."""

    request: Request
    values: Mapping[str, str]
    """Of the tuned hyperparameters."""
    objective: Objective | None


def mistakes(request: Any, *, file: str) -> list[Mistake]:
    """All that keeps it from running here."""
    found = model.mistakes(request, shape=_SHAPE, file=file)
    found += training_rules.refused(request, members.TUNING, file=file)
    return found or [Mistake(file, *one) for one in _rules(request)]


def trial(request: Request, *, given: Mapping[str, str], seed: int | None, file: str) -> Trial:
    """Its trial with the values `given`, the others drawn with `seed`, or the request's own.

    Raises ConfigError with all mistakes in the request, UsageError for a value that no trial could have.
    """
    if found := mistakes(request, file=file):
        raise ConfigError(found)
    _, definition = _definition(request)
    ranges = _ranges(request, definition)
    for name, text in given.items():
        _within(name, text, ranges)
    seed = seed if seed is not None else request[_JOB].get("RandomSeed", 0)
    dice = random.Random(seed)
    drawn = {name: _draw(kind, one, dice) for name, (kind, one) in ranges.items()}  # all: a given one moves no other
    values = {name: given.get(name, text) for name, text in drawn.items()}
    wanted = _objective(request, definition)
    static = definition.get("StaticHyperParameters") or {}
    told = {"_tuning_objective_metric": wanted["MetricName"]} if wanted else {}
    machines = {"ResourceConfig": _machines(definition[_MACHINES])} if _MACHINES in definition else {}
    job = {
        "TrainingJobName": _name(request["HyperParameterTuningJobName"], values),
        **{name: part for name, part in definition.items() if name not in (*_OWN, _MACHINES)},
        **machines,
        "HyperParameters": {**static, **values, **told},
    }
    return Trial(job, values, Objective(wanted["MetricName"], wanted["Type"]) if wanted else None)


def _definition(request: Request) -> tuple[str, Mapping[str, Any]]:
    several = request.get("TrainingJobDefinitions")
    if several:
        return "TrainingJobDefinitions[0]", several[0]
    return "TrainingJobDefinition", request["TrainingJobDefinition"]


def _objective(request: Request, definition: Mapping[str, Any]) -> Mapping[str, Any] | None:
    found: Mapping[str, Any] | None
    found = definition.get("TuningObjective") or request[_JOB].get("HyperParameterTuningJobObjective")
    return found


def _ranges(request: Request, definition: Mapping[str, Any]) -> dict[str, tuple[str, Mapping[str, Any]]]:
    """Name → (kind of range, range)."""
    listed = definition.get("HyperParameterRanges") or request[_JOB].get("ParameterRanges") or {}
    return {one["Name"]: (kind, one) for kind in _KINDS for one in listed.get(kind) or []}


def _machines(config: Mapping[str, Any]) -> dict[str, Any]:
    """The first of the instances that it would take."""
    first = (config.get("InstanceConfigs") or [config])[0]
    return {name: first[name] for name in ("InstanceType", "InstanceCount", "VolumeSizeInGB") if name in first}


def _rules(request: Request) -> training_rules.Found:
    single, several = request.get("TrainingJobDefinition"), request.get("TrainingJobDefinitions")
    if bool(single) == bool(several):
        yield "TrainingJobDefinition", None, "must be there, or TrainingJobDefinitions, and not both", "Write one"
        return
    if several and len(several) > 1:
        problem = "are several, and one trial of one runs here"
        yield "TrainingJobDefinitions", [one.get("DefinitionName") for one in several], problem, "Leave one of them"
        return
    at, definition = _definition(request)
    yield from _range_rules(request, definition)
    wanted = _objective(request, definition)
    defined = [one["Name"] for one in definition["AlgorithmSpecification"].get("MetricDefinitions") or []]
    if wanted and wanted["MetricName"] not in defined:
        problem = "is defined by no MetricDefinitions, so no trial would have it"
        known = f"They define {', '.join(defined)}" if defined else 'Add {"Name": …, "Regex": …}'
        yield f"{_JOB}.HyperParameterTuningJobObjective.MetricName", wanted["MetricName"], problem, known
    machines = {"ResourceConfig": _machines(definition[_MACHINES])} if _MACHINES in definition else {}
    for key, value, problem, remedy in training_rules.rules({**definition, **machines}):
        yield f"{at}.{key}", value, problem, remedy


def _range_rules(request: Request, definition: Mapping[str, Any]) -> training_rules.Found:
    listed = definition.get("HyperParameterRanges") or request[_JOB].get("ParameterRanges") or {}
    names = [one["Name"] for kind in _KINDS for one in listed.get(kind) or []]
    key = f"{_JOB}.ParameterRanges"
    if not names:
        yield key, None, "has no range, so there is nothing to tune", "Give a range, or start a training job"
    fixed = definition.get("StaticHyperParameters") or {}
    for name in dict.fromkeys(names):
        if names.count(name) > 1 or name in fixed:
            yield f"{key}.{name}", None, "has two ranges, or is static too", "Leave one of them"
    for kind in _KINDS[:2]:
        for one in listed.get(kind) or []:
            yield from _bounds(one, kind, f"{key}.{kind}.{one['Name']}")


def _bounds(one: Mapping[str, Any], kind: str, key: str) -> Iterator[tuple[str, object, str, str]]:
    try:
        low, high = _number(one["MinValue"], kind), _number(one["MaxValue"], kind)
    except ValueError:
        what = "whole numbers" if kind == _KINDS[0] else "numbers"
        yield key, [one["MinValue"], one["MaxValue"]], f"must be {what}, as strings", 'Write "0.1"'
        return
    scaling = one.get("ScalingType", "Auto")
    if not low <= high:
        yield key, [one["MinValue"], one["MaxValue"]], "ends before it begins", "Exchange them"
    elif scaling == "Logarithmic" and low <= 0:
        yield f"{key}.MinValue", one["MinValue"], "must be above 0 for a Logarithmic scale", "Raise it, or use Linear"
    elif scaling == "ReverseLogarithmic" and (low < 0 or high >= 1):
        yield key, [one["MinValue"], one["MaxValue"]], "must be within 0 and 1 for ReverseLogarithmic", "Use Linear"


def _number(text: str, kind: str) -> float:
    number = int(text) if kind == _KINDS[0] else float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number


def _draw(kind: str, one: Mapping[str, Any], dice: random.Random) -> str:
    if kind == "CategoricalParameterRanges":
        return str(dice.choice(one["Values"]))
    if kind == "AutoParameters":
        return str(one["ValueHint"])
    low, high, scaling = _number(one["MinValue"], kind), _number(one["MaxValue"], kind), one.get("ScalingType", "Auto")
    whole = kind == "IntegerParameterRanges"
    if whole and scaling in ("Auto", "Linear"):
        return str(dice.randint(int(low), int(high)))
    value = _between(low, high, scaling, dice.random())
    value = min(max(value, low), high)  # rounding may have left the range
    return str(round(value)) if whole else repr(value)


def _between(low: float, high: float, scaling: str, share: float) -> float:
    if scaling == "Logarithmic":
        return math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
    if scaling == "ReverseLogarithmic":
        return 1 - math.exp(math.log1p(-low) + share * (math.log1p(-high) - math.log1p(-low)))
    return low + share * (high - low)


def _within(name: str, text: str, ranges: Mapping[str, tuple[str, Mapping[str, Any]]]) -> None:
    if name not in ranges:
        raise UsageError(f"--hp {name}: the tuning job has no range of that name; it has {', '.join(ranges)}")
    kind, one = ranges[name]
    if kind == "CategoricalParameterRanges":
        if text not in one["Values"]:
            raise UsageError(f"--hp {name}={text}: is none of {', '.join(one['Values'])}")
    elif kind != "AutoParameters":
        try:
            inside = _number(one["MinValue"], kind) <= _number(text, kind) <= _number(one["MaxValue"], kind)
        except ValueError:
            inside = False
        if not inside:
            raise UsageError(f"--hp {name}={text}: must be a number from {one['MinValue']} to {one['MaxValue']}")


def _name(tuning: str, values: Mapping[str, str]) -> str:
    """As the service names them: the tuning job's, the trial's number, and something of its own."""
    mark = hashlib.sha256(repr(sorted(values.items())).encode()).hexdigest()[:8]
    return f"{tuning}-001-{mark}"
