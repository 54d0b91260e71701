"""Manifests: which objects a channel or an input is made of.

ManifestFile             [{"prefix": "s3://bucket/folder/"}, "name", …]        objects below one folder
AugmentedManifestFile    {"image-ref": "s3://…", "class": "1"}  per line       a record per line, of its attributes
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from trainkit.errors import UsageError
from trainkit.local.objects import Place, pieces, place
from trainkit.storage.store import ObjectMissing

_REFERENCE = "-ref"


class Item(NamedTuple):
    """One object: its name below the directory, and where it is."""

    name: str
    place: Place


class Part(NamedTuple):
    """A piece of a record in a pipe: an object's bytes, or text."""

    kind: Literal["place", "text"]
    value: str


def listed(manifest: Place, *, base: Path) -> list[Item]:
    """What a ManifestFile lists. Raises UsageError."""
    try:
        first, *names = json.loads(_read(manifest))
        prefix = first["prefix"]
        if not isinstance(prefix, str) or not all(isinstance(name, str) for name in names):
            raise TypeError
    except (ValueError, TypeError, KeyError):
        raise UsageError(f'{manifest} is no manifest: write [{{"prefix": "s3://bucket/folder/"}}, "name", …]') from None
    items = [Item(inner(name, manifest), place(prefix + name, base=base)) for name in names]
    for item in items:
        _there(item.place, f"{manifest} lists {item.name}")
    return items


def augmented(manifest: Place, attributes: Sequence[str], *, base: Path) -> list[tuple[Part, ...]]:
    """The records of an AugmentedManifestFile: its `attributes` in their order, line by line. Raises UsageError."""
    records = []
    for number, line in enumerate(_read(manifest).decode("utf-8", "replace").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            values = [(name, row[name]) for name in attributes]
        except (ValueError, TypeError):
            raise UsageError(f"{manifest}: line {number} is no JSON object: write one per line") from None
        except KeyError as missing:
            has = ", ".join(row) or "nothing"
            raise UsageError(
                f"{manifest}: line {number} has no {missing}, one of AttributeNames; it has {has}"
            ) from None
        records.append(tuple(_part(name, value, f"{manifest}: line {number}", base) for name, value in values))
    return records


def inner(name: str, of: Place) -> str:
    """`name`, which leads nowhere but into a folder. Raises UsageError."""
    if any(part in ("", ".", "..") or "\0" in part for part in name.split("/")):
        raise UsageError(f"{name!r}, of {of}, is no path inside a folder: no part may be empty, '.' or '..'")
    return name


def _part(name: str, value: Any, where: str, base: Path) -> Part:
    if not name.endswith(_REFERENCE):
        return Part("text", value if isinstance(value, str) else json.dumps(value))
    if not isinstance(value, str):
        raise UsageError(f"{where}: {name} is {value!r}: it must be the URL of an object")
    found = place(value, base=base)
    _there(found, f"{where}: {name}")
    return Part("place", str(found))


def _there(found: Place, what: str) -> None:
    if isinstance(found, Path) and not found.is_file():
        raise UsageError(f"{what}, and there is no {found}")


def _read(manifest: Place) -> bytes:
    try:
        if isinstance(manifest, str):
            from trainkit.storage import files

            return files.get(manifest)
        return b"".join(pieces(manifest))
    except ObjectMissing:
        raise UsageError(f"there is no manifest {manifest}: compare the name, letter by letter") from None
    except OSError as error:
        raise UsageError(f"cannot read the manifest {manifest}: {error.strerror}") from None
