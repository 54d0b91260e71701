"""A request beside AWS's own description of it, which botocore carries: names, types, lengths, patterns and choices.

Looser in two respects: S3 locations may be local paths and file:// URLs, and instance types, the role and the image may
be anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from trainkit.errors import Mistake

_FREE = frozenset({"ProcessingInstanceType", "TrainingInstanceType", "RoleArn", "ImageUri", "AlgorithmImage", "S3Uri"})
"""What costs nothing here and may be anything: the lists of instance types grow faster than botocore is updated."""
_KINDS: Mapping[str, Any] = {
    "structure": dict, "map": dict, "list": list, "string": str, "integer": int, "long": int, "boolean": bool,
    "float": (int, float), "double": (int, float),
}  # fmt: skip


def mistakes(request: Any, *, shape: str, file: str) -> list[Mistake]:
    """Each way in which `request` is not what the API takes as `shape`."""
    found = _look(request, shape, shapes())
    return [Mistake(file, key, value, problem, remedy) for key, value, problem, remedy in found]


@cache
def shapes() -> Mapping[str, Any]:
    """SageMaker's shapes by name."""
    from botocore.loaders import Loader  # reads one large JSON file: half a second

    loaded: Mapping[str, Any] = Loader().load_service_model("sagemaker", "service-2")["shapes"]
    return loaded


_Found = Iterator[tuple[str, object, str, str]]


def _look(value: Any, name: str, shapes: Mapping[str, Any], key: str = "") -> _Found:
    shape = shapes[name]
    kind = shape["type"]
    if not isinstance(value, _KINDS[kind]) or (kind != "boolean" and isinstance(value, bool)):
        yield key, value, f"must be {'an' if kind == 'integer' else 'a'} {kind}", "Write it as the API has it"
    elif kind == "structure":
        yield from _structure(value, shape, shapes, key)
    elif kind == "list":
        yield from _within(len(value), shape, key, "entries")
        for index, entry in enumerate(value):
            yield from _look(entry, shape["member"]["shape"], shapes, f"{key}[{index}]")
    elif kind == "map":
        yield from _within(len(value), shape, key, "entries")
        for entry, inner in value.items():
            yield from _look(entry, shape["key"]["shape"], shapes, f"{key}.{entry}")
            yield from _look(inner, shape["value"]["shape"], shapes, f"{key}.{entry}")
    elif "enum" in shape and name not in _FREE and value not in shape["enum"]:
        yield key, value, f"is none of {', '.join(shape['enum'])}", "Use one of them"
    elif kind == "string" and name not in _FREE:
        yield from _within(len(value), shape, key, "characters")
        yield from _spelled(value, shape, key)
    elif kind in ("integer", "long"):
        yield from _within(value, shape, key, "")


def _structure(value: dict[str, Any], shape: Mapping[str, Any], shapes: Mapping[str, Any], key: str) -> _Found:
    dot = f"{key}." if key else ""
    for missing in [name for name in shape.get("required", []) if value.get(name) is None]:
        yield f"{dot}{missing}", None, "is missing", "The API requires it"
    for name, inner in value.items():
        if name not in shape["members"]:
            known = ", ".join(sorted(shape["members"]))
            yield f"{dot}{name}", inner, "is nothing that the API knows", f"It has {known}"
        elif inner is not None:
            yield from _look(inner, shape["members"][name]["shape"], shapes, f"{dot}{name}")


def _within(size: int, shape: Mapping[str, Any], key: str, unit: str) -> _Found:
    low, high = shape.get("min", 0), shape.get("max")
    if size < low or (high is not None and size > high):
        span = f"at least {low}" if high is None else f"{low} to {high}"
        yield key, size, f"must be {span} {unit}".rstrip(), "The API accepts no other"


def _spelled(value: str, shape: Mapping[str, Any], key: str) -> _Found:
    pattern = shape.get("pattern", ".*")
    if "\\p{" not in pattern and not re.fullmatch(pattern, value):  # classes of Unicode are not known to Python
        yield key, value, f"must match {pattern}", "The API accepts no other"
