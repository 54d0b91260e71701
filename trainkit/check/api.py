"""A request beside AWS's own description of it, which botocore carries: names, types, choices, lengths and patterns.

botocore's own validation looks at names, types and lower bounds only; the rest comes back from the service.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from trainkit.check.finding import REFUSED, Finding
from trainkit.check.request import Call, is_placeholder
from trainkit.errors import is_secret
from trainkit.local.model import shapes

_INSTANCE_TYPES = frozenset({"TrainingInstanceType", "ProcessingInstanceType"})
"""Lists that grow faster than botocore is updated."""
_KINDS: Mapping[str, tuple[type[Any], ...]] = {
    "structure": (dict,), "map": (dict,), "list": (list,), "string": (str,), "integer": (int,), "long": (int,),
    "boolean": (bool,), "float": (int, float), "double": (int, float), "timestamp": (str, int, float),
}  # fmt: skip
_FILLED_IN = frozenset({"TrainingJobName", "ProcessingJobName", "HyperParameterTuningJobName"})
"""What a pipeline gives to each of its jobs."""


def against_the_api(call: Call) -> Iterator[Finding]:
    """Each way in which the request is not what the API takes."""
    return _Look(shapes(), partial=call.partial).at(call.request, f"{call.operation}Request", call.key.rstrip("."))


class _Look:
    def __init__(self, shapes: Mapping[str, Any], *, partial: bool) -> None:
        self._shapes = shapes
        self._partial = partial

    def at(self, value: Any, name: str, key: str) -> Iterator[Finding]:
        shape = self._shapes[name]
        kind = shape["type"]
        if self._partial and is_placeholder(value):
            return
        if not isinstance(value, _KINDS.get(kind, (object,))) or (
            isinstance(value, bool) and kind in ("integer", "long")
        ):
            article = "an" if kind == "integer" else "a"
            hint = "; a hyperparameter is text" if name in ("HyperParameterValue", "HyperParameters") else ""
            yield _wrong(
                "api-type", key, f"{_short(value, key)} must be {article} {kind}{hint}", "Write it as the API has it"
            )
        elif kind == "structure":
            yield from self._structure(value, shape, key)
        elif kind == "list":
            yield from _within(len(value), shape, key, "entries")
            for index, entry in enumerate(value):
                yield from self.at(entry, shape["member"]["shape"], f"{key}[{index}]")
        elif kind == "map":
            yield from _within(len(value), shape, key, "entries")
            for entry, inner in value.items():
                yield from self.at(entry, shape["key"]["shape"], f"{key}.{entry}")
                yield from self.at(inner, shape["value"]["shape"], f"{key}.{entry}")
        elif kind == "string":
            yield from _text(value, name, shape, key)
        elif kind in ("integer", "long"):
            yield from _within(value, shape, key, "")

    def _structure(self, value: dict[str, Any], shape: Mapping[str, Any], key: str) -> Iterator[Finding]:
        dot = f"{key}." if key else ""
        members = shape["members"]
        for missing in [name for name in shape.get("required", []) if value.get(name) is None]:
            if not (self._partial and missing in _FILLED_IN):
                yield _wrong("api-missing", f"{dot}{missing}", "is missing", "The API requires it: add it")
        for name, inner in value.items():
            if name not in members:
                close = difflib.get_close_matches(name, members, n=1)
                hint = f"Did you mean {close[0]}?" if close else f"There are {', '.join(sorted(members))}"
                yield _wrong("api-unknown", f"{dot}{name}", "is no member that the API knows", hint)
            elif inner is not None:
                yield from self.at(inner, members[name]["shape"], f"{dot}{name}")


def _text(value: str, name: str, shape: Mapping[str, Any], key: str) -> Iterator[Finding]:
    if "enum" in shape:
        if name in _INSTANCE_TYPES and value not in shape["enum"]:
            yield _instance_type(value, shape["enum"], key)
        elif value not in shape["enum"]:
            yield _wrong(
                "api-choice", key, f"{_short(value, key)} is none of the choices", f"Use {_any(shape['enum'])}"
            )
        return
    too_long = [*_within(len(value), shape, key, "characters")]
    yield from too_long
    pattern = _pattern(shape.get("pattern"))
    if too_long or not pattern or pattern.fullmatch(value):
        return
    if name == "S3Uri" and value.startswith("file://"):
        yield Finding(
            "api-local-path", "warning", key, f"{_short(value)} is a path of this machine",
            "Only `trainkit local` can run this request; the API refuses it as soon as it is sent",
            "Copy the data to S3 (aws s3 sync), and write its s3:// URI",
        )  # fmt: skip
    else:
        yield _wrong(
            "api-pattern", key, f"{_short(value, key)} does not match {shape['pattern']}", "Write it in that form"
        )


def _instance_type(value: str, known: list[str], key: str) -> Finding:
    close = difflib.get_close_matches(value, known, n=3)
    hint = f"Did you mean {', '.join(close)}?" if close else "Compare the list in the service's documentation"
    return Finding(
        "api-instance-type", "warning", key, f"botocore knows no instance type {_short(value)}",
        "If it is a misspelling, the API refuses the request; if it is newer than this botocore, all is well", hint,
    )  # fmt: skip


def _within(size: int, shape: Mapping[str, Any], key: str, unit: str) -> Iterator[Finding]:
    low, high = shape.get("min", 0), shape.get("max")
    if size < low or (high is not None and size > high):
        span = f"at least {low}" if high is None else f"{low} to {high}"
        what = f"has {size} {unit}, and must have {span}" if unit else f"is {size}, and must be {span}"
        yield _wrong("api-limit", key, what, "Keep to it: larger things go into a file of a channel")


def _wrong(code: str, key: str, what: str, remedy: str) -> Finding:
    return Finding(code, "error", key, what, REFUSED, remedy)


@cache
def _pattern(text: str | None) -> re.Pattern[str] | None:
    """The service's patterns are Java's; the few that Python cannot read are left to it."""
    try:
        return re.compile(text, re.ASCII) if text else None
    except re.error:
        return None


def _any(choices: list[str]) -> str:
    return ", ".join(choices) if len(choices) <= 12 else f"one of {len(choices)}, such as {', '.join(choices[:6])}"


def _short(value: object, key: str = "", *, limit: int = 80) -> str:
    text = "***" if is_secret(key.rpartition(".")[2]) else repr(value)
    return text if len(text) <= limit else f"{text[:limit]}…"
