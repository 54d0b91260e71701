"""Where features and what was fitted for them lie, for those who make rows, train on them, and serve the model.

    OUTPUT/MANIFEST.json           {"artifact": hash, "key": …, "splits": {"train": {"rows", "files"}, …}}: written last
           features/<hash>/        what was fitted: features.json, and the files that it names with their SHA-256
           train/ … test/          rows; and again what they were made with, since a channel may be just one of these:
                _features/<hash>/
    MODEL/features/<hash>/         where job.save_model puts it
          trainkit.json            {"features": hash, …}

Standard library only: both wings read this.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from trainkit.errors import DataError

FILE = "features.json"
MANIFEST = "MANIFEST.json"
MODEL_MANIFEST = "trainkit.json"
FOLDER = "features"
BESIDE = "_features"
"""Hidden from whoever reads rows: streams, pyarrow and Spark pass over what begins with an underscore."""
SAID = "said"
"""In the run folder: what a host has come to, in words that hosts compare."""
_HASH = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"\w+(/\w[\w-]*(\.\w+)*)*", re.ASCII)
_AGAIN = "make the features again, or copy them whole"


def carried(folder: Path) -> dict[str, Path]:
    """Hash → folder of each artifact that `folder` carries: an output, a split, a model, or the artifact itself.

    Of an output or a model, the one that its manifest names: others are left from earlier runs. Raises DataError where
    that one is not there, or a manifest makes no sense.
    """
    if (folder / FILE).is_file():
        return {digest(folder): folder}
    found = [one.parent for place in (BESIDE, FOLDER, ".") for one in sorted((folder / place).glob(f"*/{FILE}"))]
    by_hash = {one.name: one for one in found if _HASH.fullmatch(one.name)}
    manifests = dict.fromkeys(sorted(folder.glob("MANIFEST*.json")), "artifact") | {folder / MODEL_MANIFEST: FOLDER}
    named = {str(text): one for one, key in manifests.items() if one.is_file() and (text := manifest(one).get(key))}
    for wanted, said_by in named.items():
        if wanted not in by_hash:
            raise DataError(f"{said_by} names the artifact {wanted}, and it is not there: {_AGAIN}")
    return {one: by_hash[one] for one in named} if named else by_hash


def carried_by(folders: Iterable[Path], *, required: bool = False) -> Path | None:
    """The one artifact that these folders carry; None where none does. Raises DataError where there are several, or
    none and it is `required`."""
    found: dict[str, Path] = {}
    for folder in folders:
        found |= carried(folder)
        if required and not found:
            raise DataError(f"{folder} carries no artifact of features: name what features.py wrote, or a part of it")
    if len(found) > 1:
        shown = ", ".join(str(one) for one in found.values())
        raise DataError(f"the channels carry {len(found)} artifacts, {shown}: say which one made the rows, features=…")
    return next(iter(found.values()), None)


def digest(folder: Path) -> str:
    """The hash of the artifact in a folder of whatever name."""
    return _digest(_read(folder / FILE))


def manifest(path: Path) -> Mapping[str, Any]:
    """What a MANIFEST.json, or a model's, says. Raises DataError where it makes no sense."""
    try:
        made = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read: {error}. Make it again, or copy it whole") from error
    if not isinstance(made, dict):
        raise DataError(f"{path} is no manifest, but a {type(made).__name__}: {_AGAIN}")
    return made


def splits(output: Path) -> tuple[str, ...]:
    """The splits that lie whole in an output; none where nothing does."""
    path = output / MANIFEST
    return tuple(manifest(path).get("splits", ())) if path.exists() else ()


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of an artifact by its name below `folder`, each compared with its hash. Raises DataError."""
    raw = _read(folder / FILE)
    if _HASH.fullmatch(folder.name) and folder.name != _digest(raw):
        raise DataError(f"{folder / FILE} has the hash {_digest(raw)}, and its folder is {folder.name}: {_AGAIN}")
    found = {FILE: raw}
    for name, wanted in _named(raw, folder / FILE):
        found[name] = _read(folder / name)
        if _digest(found[name]) != wanted:
            raise DataError(f"{folder / name} is not what was saved, its SHA-256 differs: {_AGAIN}")
    return found


def _named(raw: bytes, path: Path) -> Iterator[tuple[str, str]]:
    """(name, SHA-256) of each file beside features.json."""
    try:
        entries = [(str(one["file"]), str(one["sha256"])) for one in json.loads(raw)["fitted"] if "file" in one]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{path} is no artifact of features ({type(error).__name__}: {error}): {_AGAIN}") from error
    for name, wanted in entries:
        if not _NAME.fullmatch(name):
            raise DataError(f"{path} names a file {name!r}, which is no place inside its folder: {_AGAIN}")
        yield name, wanted


def _digest(raw: bytes) -> str:
    import hashlib  # with OpenSSL: every start would pay 3 ms for it, and most make no features

    return hashlib.sha256(raw).hexdigest()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}: {_AGAIN}") from error
