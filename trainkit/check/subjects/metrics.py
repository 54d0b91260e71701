r"""MetricDefinitions: that each regex is one, catches numbers whole, and finds a line that the script prints.

A text that a regex matches is made from the regex itself, up to its group: `loss=([0-9.]+)` gives `loss=`, and behind
that stand the numbers that trainings print: 0.345, 1e-05, -0.5, nan. The parser is that of Python's own re, which has
no public door; what it may call differently one day is caught by the tests.
"""

from __future__ import annotations

import re
import re._constants as _c  # type: ignore[import-not-found]
import re._parser as _parser  # type: ignore[import-not-found]
from collections import Counter
from collections.abc import Iterator
from typing import Any

from trainkit.check.facts import Facts
from trainkit.check.finding import REFUSED, Finding
from trainkit.check.request import Job, at, objects

LINE = "trainkit.metric step=120 {name}={value}"
"""What job.log prints."""
_NUMBERS = ("0.345", "1e-05", "-0.5", "nan")
_LOUD = frozenset(
    {"transformers", "lightning", "pytorch_lightning", "trl", "fastai", "keras", "ultralytics", "xgboost"}
)
"""Libraries that print metrics of their own."""


def definitions(facts: Facts) -> Iterator[Finding]:
    for job in facts.trainings:
        listed = objects(job.definition, "AlgorithmSpecification", "MetricDefinitions")
        names = Counter(str(one.get("Name")) for _, one in listed)
        for index, one in listed:
            key, regex = f"{job.key}AlgorithmSpecification.MetricDefinitions[{index}]", one.get("Regex")
            if names[str(one.get("Name"))] > 1:
                yield Finding(
                    "metric-twice", "error", f"{key}.Name", f"{one.get('Name')!r} is defined twice", REFUSED,
                    "Name each differently",
                )  # fmt: skip
            if isinstance(regex, str):
                yield from _regex(facts, regex, f"{key}.Regex", name=str(one.get("Name")))


def _regex(facts: Facts, regex: str, key: str, *, name: str) -> Iterator[Finding]:
    try:
        pattern = re.compile(regex)
    except re.error as error:
        yield Finding(
            "metric-regex", "error", key, f"{regex!r} is no regular expression: {error}",
            f"{REFUSED}, or the metric never appears", "Try it with Python's re",
        )  # fmt: skip
        return
    if not pattern.groups:
        yield Finding(
            "metric-no-group", "error", key, f"{regex!r} has no group around the number",
            "The job runs to its end without this metric; a tuning job on it fails every trial",
            "Put the number into parentheses: loss=(\\S+)",
        )  # fmt: skip
        return
    if lost := _lost(pattern, regex):
        yield Finding(
            "metric-loses-numbers", "warning", key, f"{regex!r} does not catch {', '.join(lost)} whole",
            "Small, negative or diverging values appear as other numbers, or not at all: 1e-05 becomes 1",
            "Use the regex that trainkit.job.metrics.definition gives, or (\\S+)",
        )  # fmt: skip
    yield from _found(facts, pattern, key, name=name)


def _lost(pattern: re.Pattern[str], regex: str) -> list[str]:
    """The numbers that it takes apart; none where it catches none at all, since then they are words or percents."""
    around = _around(regex)
    if around is None:
        return []
    before, after = around

    def caught(number: str) -> bool:
        found = pattern.search(f"{before}{number}{after}")
        return bool(found) and found is not None and found[1] == number

    lost = [number for number in _NUMBERS if not caught(number)]
    return [] if len(lost) == len(_NUMBERS) else lost


def _found(facts: Facts, pattern: re.Pattern[str], key: str, *, name: str) -> Iterator[Finding]:
    """Whether the script prints a line that it finds: by job.log, or by a text of its own."""
    uses = facts.uses
    if not facts.has_script or uses.imported & _LOUD:
        return
    logs = [call for call in uses.called("log") if call.whole.rpartition(".")[0].endswith("job")]
    if any(not call.named for call in logs):  # job.log(**values)
        return
    logged = sorted({metric for call in logs for metric in call.named if metric != "step"})
    lines = [LINE.format(name=metric, value="0.345") for metric in logged]
    own = [said.text for said in uses.texts] + [
        re.sub(r"%[\d.]*[a-z]|\{[^}]*\}", "0.345", said.text) for said in uses.texts
    ]
    if not any(pattern.search(line) for line in [*lines, *own]):
        seen = f"job.log has {', '.join(logged)}" if logged else "it calls no job.log"
        yield Finding(
            "metric-never-found", "warning", key, f"no line that the script prints matches it ({seen})",
            "The job runs to its end without this metric; a tuning job on it fails every trial",
            f"Log it: job.log({re.sub(r'[^A-Za-z0-9_]', '_', name)}=…), and take the regex of docs/metrics.md",
        )  # fmt: skip


def objective(facts: Facts) -> Iterator[Finding]:
    """What a tuning job optimises must be one of its trials' metrics."""
    for call in facts.calls:
        config = at(call.request, "HyperParameterTuningJobConfig", kind=dict) or {}
        shared = at(config, "HyperParameterTuningJobObjective", kind=dict)
        for job in facts.trainings:
            wanted = at(job.definition, "TuningObjective", kind=dict) or shared
            key = "HyperParameterTuningJobConfig.HyperParameterTuningJobObjective"
            if wanted and _is_ours(job) and wanted.get("MetricName") not in _names(job):
                yield Finding(
                    "objective-undefined",
                    "error",
                    f"{call.key}{key}.MetricName",
                    f"{wanted.get('MetricName')!r} is none of the job's metrics: {', '.join(_names(job)) or 'none'}",
                    f"{REFUSED}, or every trial fails for want of its objective",
                    "Name a metric of MetricDefinitions",
                )


def _is_ours(job: Job) -> bool:
    """Algorithms of the service have metrics of their own."""
    return not at(job.definition, "AlgorithmSpecification", "AlgorithmName", kind=str)


def _names(job: Job) -> list[str]:
    return [str(one.get("Name")) for _, one in objects(job.definition, "AlgorithmSpecification", "MetricDefinitions")]


def _around(regex: str) -> tuple[str, str] | None:
    """Texts that match what stands before and after the first group; None where that takes more than is known here."""
    try:
        tokens = list(_parser.parse(regex))
        at_group = next(i for i, (kind, _) in enumerate(tokens) if kind is _c.SUBPATTERN)
        return "".join(map(_sample, tokens[:at_group])), "".join(map(_sample, tokens[at_group + 1 :]))
    except (re.error, StopIteration, LookupError, NotImplementedError):
        return None


def _sample(token: tuple[Any, Any]) -> str:
    """A text that one token of a regex matches. Raises NotImplementedError."""
    kind, value = token
    if kind is _c.LITERAL:
        return chr(value)
    if kind is _c.NOT_LITERAL:
        return " " if value != 32 else "x"
    if kind is _c.ANY:
        return "x"
    if kind is _c.AT:
        return ""
    if kind is _c.IN:
        return _of_set(value)
    if kind in (_c.MAX_REPEAT, _c.MIN_REPEAT):
        low, _, inner = value
        return "".join(map(_sample, inner)) * int(low)
    if kind is _c.SUBPATTERN:
        return "".join(map(_sample, value[-1]))
    if kind is _c.BRANCH:
        return "".join(map(_sample, value[1][0]))
    raise NotImplementedError(str(kind))


def _of_set(members: list[tuple[Any, Any]]) -> str:
    kind, value = members[0]
    if kind is _c.LITERAL:
        return chr(value)
    if kind is _c.RANGE:
        return chr(value[0])
    if kind is _c.CATEGORY:
        return {_c.CATEGORY_SPACE: " ", _c.CATEGORY_DIGIT: "1"}.get(value, "x")
    raise NotImplementedError(str(kind))
