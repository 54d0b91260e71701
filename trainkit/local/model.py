"""A request beside AWS's own description of it, which botocore carries: names, types, lengths and choices.

Looser in one respect: S3 locations may be local paths and file:// URLs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from trainkit.errors import Mistake

_FREE = frozenset({"ProcessingInstanceType", "RoleArn", "ImageUri"})
"""What costs nothing here and may be anything: the lists of instance types grow faster than botocore is updated."""
_KINDS: Mapping[str, Any] = {
    "structure": dict, "map": dict, "list": list, "string": str, "integer": int, "long": int, "boolean": bool,
}  # fmt: skip


def mistakes(request: Any, *, shape: str, file: str) -> list[Mistake]:
    """Each way in which `request` is not what the API takes as `shape`."""
    from botocore.loaders import Loader  # reads one large JSON file: half a second

    shapes = Loader().load_service_model("sagemaker", "service-2")["shapes"]
    return [Mistake(file, key, value, problem, remedy) for key, value, problem, remedy in _look(request, shape, shapes)]


_Found = Iterator[tuple[str, object, str, str]]


def _look(value: Any, name: str, shapes: Mapping[str, Any], key: str = "") -> _Found:
    shape = shapes[name]
    kind = shape["type"]
    if not isinstance(value, _KINDS[kind]) or (kind == "integer" and isinstance(value, bool)):
        yield key, value, f"must be a {kind}", "Write it as the API has it"
    elif kind == "structure":
        yield from _structure(value, shape, shapes, key)
    elif kind == "list":
        yield from _within(len(value), shape, key, "entries")
        for index, entry in enumerate(value):
            yield from _look(entry, shape["member"]["shape"], shapes, f"{key}[{index}]")
    elif kind == "map":
        yield from _within(len(value), shape, key, "entries")
        for entry, inner in value.items():
            yield from _look(inner, shape["value"]["shape"], shapes, f"{key}.{entry}")
    elif "enum" in shape and name not in _FREE and value not in shape["enum"]:
        yield key, value, f"is none of {', '.join(shape['enum'])}", "Use one of them"
    elif kind == "string" and name not in _FREE:
        yield from _within(len(value), shape, key, "characters")
    elif kind == "integer":
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
    low, high = shape.get("min", 0), shape.get("max", size)
    if not low <= size <= high:
        yield key, size, f"must be {low} to {high} {unit}".rstrip(), "The API accepts no other"
