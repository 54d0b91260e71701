"""Data sets that are lists of objects, as SageMaker has them.

    ManifestFile            [{"prefix": "s3://bucket/p/"}, "a.parquet", "sub/b.parquet"]        items: p/a.parquet, …
    AugmentedManifestFile   {"source-ref": "s3://bucket/1.jpg", "class": 3}                     a row for each line:
                            {"source-ref": "s3://bucket/2.jpg", "class": 0}                     the object, and 3

Of an augmented manifest the items are the objects of its first reference; several lines about one object are several
rows of one item. Names are in the manifest and sizes are not: see keys.sizes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from trainkit.data.items import Item, Listing
from trainkit.data.sources.keys import sizes
from trainkit.errors import StorageError
from trainkit.storage import files
from trainkit.storage.store import ObjectMissing, failure

REFERENCE = "-ref"
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Augmented(Listing):
    """The objects of an augmented manifest, with the lines that speak of each: `lines[url]`, JSON as it stood there."""

    lines: Mapping[str, Sequence[bytes]] = field(default_factory=dict)
    reference: str = "source-ref"
    """The attribute whose object an item is. Other references of a line stay URLs."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """The other attributes, in the order of their first lines, and what is in them: "bool", "int64", "float64", or
    "string", which is also what a mixture and what is nested becomes, as JSON."""


def read(manifest: Item, *, environ: Mapping[str, str]) -> Listing:
    """The listing that a manifest stands for: which kind it is shows in its first character.

    Raises StorageError for what is no manifest, and with the names of the objects that it has and the storage has not.
    """
    content = files.get(manifest.url)
    if content.lstrip()[:1] == b"[":
        urls = _plain(manifest.url, content)
        return Listing(_items(manifest.url, urls, environ=environ), _common(urls))
    reference, lines, columns = _augmented(manifest.url, content)
    items = _items(manifest.url, list(lines), environ=environ)
    return Augmented(items, _common(list(lines)), False, lines, reference, columns)


def _plain(url: str, content: bytes) -> list[str]:
    try:
        first, *keys = json.loads(content)
        prefix = first["prefix"]
    except (ValueError, KeyError, TypeError):
        raise _wrong(url, 'it does not begin with {"prefix": "s3://…"}') from None
    if not isinstance(prefix, str) or not keys or not all(isinstance(key, str) for key in keys):
        raise _wrong(url, "after the prefix it must list keys, and nothing else")
    return [prefix + key for key in dict.fromkeys(keys)]


def _augmented(url: str, content: bytes) -> tuple[str, dict[str, list[bytes]], dict[str, str]]:
    """The attribute that names the objects, the lines of each object in the order of first lines, and the columns."""
    reference = ""
    lines: dict[str, list[bytes]] = {}
    columns: dict[str, str] = {}
    for number, line in enumerate(content.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row: Any = json.loads(line)
            reference = reference or next(name for name in row if name.endswith(REFERENCE))
            target = row.pop(reference)
        except (ValueError, KeyError, TypeError, AttributeError, StopIteration):
            wants = f"{reference!r}" if reference else f"an attribute that ends with {REFERENCE!r}"
            raise _wrong(url, f"line {number} is no JSON object with {wants}") from None
        if not isinstance(target, str):
            raise _wrong(url, f"line {number}: {reference!r} is no URL")
        for name, value in row.items():
            if value is not None:
                columns[name] = _both(columns.get(name), value)
        lines.setdefault(target, []).append(line)
    if not lines:
        raise _wrong(url, "it has no lines")
    return reference, lines, columns


def _both(before: str | None, value: object) -> str:
    """What a column is that was `before`, and has this value too."""
    kind = {bool: "bool", int: "int64", float: "float64"}.get(type(value), "string")
    if kind == "int64" and not -(2**63) <= value < 2**63:  # type: ignore[operator]
        kind = "string"
    if before in (None, kind):
        return kind
    return "float64" if {before, kind} == {"int64", "float64"} else "string"


def _items(url: str, wanted: Sequence[str], *, environ: Mapping[str, str]) -> tuple[Item, ...]:
    known = sizes(wanted, environ=environ)
    missing = [one for one in wanted if one not in known]
    if missing:
        more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        problem = f"{', '.join(missing[:_SHOWN])}{more} of it are not there"
        remedy = "Put the objects back, or take them out of the manifest"
        raise failure(url, "use it", problem, remedy, kind=ObjectMissing)
    return tuple(known[one] for one in wanted)


def _common(urls: Sequence[str]) -> str:
    """The folder that all of them are in."""
    first, last = min(urls), max(urls)
    same = next((at for at, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return first[: first.rfind("/", 0, same) + 1]


def _wrong(url: str, problem: str) -> StorageError:
    return failure(
        url, "use it as a manifest", problem,
        'Write [{"prefix": "s3://bucket/path/"}, "key", …], or lines of {"source-ref": "s3://…", …}',
    )  # fmt: skip
