"""Tuning jobs: ranges that are none, and limits that contradict each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from trainkit.check.facts import Facts
from trainkit.check.finding import REFUSED, Finding
from trainkit.check.request import TUNING, at, objects

_NUMERIC = ("IntegerParameterRanges", "ContinuousParameterRanges")


def tuning(facts: Facts) -> Iterator[Finding]:
    for call in facts.calls:
        config = at(call.request, "HyperParameterTuningJobConfig", kind=dict)
        if call.operation != TUNING or config is None:
            continue
        key = f"{call.key}HyperParameterTuningJobConfig"
        limits = at(config, "ResourceLimits", kind=dict) or {}
        most, beside = limits.get("MaxNumberOfTrainingJobs"), limits.get("MaxParallelTrainingJobs")
        if isinstance(most, int) and isinstance(beside, int) and beside > most:
            yield Finding(
                "tuning-parallel", "error", f"{key}.ResourceLimits.MaxParallelTrainingJobs",
                f"is {beside}, more than MaxNumberOfTrainingJobs ({most})", REFUSED, f"Make it {most} at most",
            )  # fmt: skip
        yield from _ranges(config, call.request, key)


def _ranges(config: Mapping[str, Any], request: Mapping[str, Any], key: str) -> Iterator[Finding]:
    static = at(request, "TrainingJobDefinition", "StaticHyperParameters", kind=dict) or {}
    listed = [
        (f"{key}.ParameterRanges.{kind}[{index}]", kind, one)
        for kind in (*_NUMERIC, "CategoricalParameterRanges")
        for index, one in objects(config, "ParameterRanges", kind)
    ]
    for where, kind, one in listed:
        if str(one.get("Name")) in static:
            yield Finding(
                "tuning-also-static",
                "error",
                f"{where}.Name",
                f"{one['Name']!r} is a static hyperparameter, too",
                REFUSED,
                "Take it out of StaticHyperParameters",
            )
        if kind in _NUMERIC:
            yield from _range(one, where)


def _range(one: Mapping[str, Any], where: str) -> Iterator[Finding]:
    try:
        low, high = float(one["MinValue"]), float(one["MaxValue"])
    except (KeyError, TypeError, ValueError):
        yield Finding(
            "tuning-range",
            "error",
            where,
            f"{one.get('MinValue')!r} to {one.get('MaxValue')!r} are no numbers",
            REFUSED,
            "Write both as numbers in text",
        )
        return
    if low >= high:
        yield Finding(
            "tuning-range", "error", where, f"runs from {low:g} to {high:g}", REFUSED, "The minimum is the smaller one"
        )
    if one.get("ScalingType") == "Logarithmic" and low <= 0:
        yield Finding(
            "tuning-logarithm", "error", f"{where}.MinValue", f"is {low:g}, and has no logarithm", REFUSED,
            "Begin above 0, or use Linear",
        )  # fmt: skip
    if one.get("ScalingType") == "ReverseLogarithmic" and not 0 <= low < high < 1:
        yield Finding(
            "tuning-logarithm", "error", where, "ReverseLogarithmic takes a range within 0 ≤ x < 1", REFUSED,
            "Use Linear or Logarithmic",
        )  # fmt: skip
