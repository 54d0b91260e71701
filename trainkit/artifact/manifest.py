"""trainkit.json: which files make up a model directory, how long they are, and what they hash to.

It is written last and taken away first, so a directory with a manifest is whole. Standard library only.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trainkit.contract.features import FOLDER, MODEL_MANIFEST

FILE = MODEL_MANIFEST
SCRATCH = ".trainkit-model.part"
"""The folder in which files wait for their names."""
VERSION = 1


@dataclass(frozen=True, slots=True)
class Entry:
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """`files` maps a name in the directory to its entry. No time of day: the same model gives the same manifest."""

    files: Mapping[str, Entry]
    trainkit: str
    torch: str
    job: str
    step: int | None = None
    features: str = ""
    """The hash of the artifact that its rows were made with, where one lies beside it (contract.features)."""

    def text(self) -> str:
        body: dict[str, Any] = {"version": VERSION, "trainkit": self.trainkit, "torch": self.torch, "job": self.job}
        if self.step is not None:
            body["step"] = self.step
        if self.features:
            body[FOLDER] = self.features
        body["files"] = {name: asdict(entry) for name, entry in sorted(self.files.items())}
        return json.dumps(body, indent=2) + "\n"


def measure(path: Path) -> Entry:
    """The entry for a file as it is on disk now."""
    with path.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
        return Entry(content.tell(), digest)


def sweep(directory: Path) -> None:
    """Take away the scratch folder, be it our own or that of a writer that was killed."""
    if (directory / SCRATCH).exists():
        shutil.rmtree(directory / SCRATCH)


def is_name(name: str) -> bool:
    """Whether `name` can be a file of the directory itself."""
    return name not in ("", "..") and "\0" not in name and Path(name).name == name


def is_inside(name: str) -> bool:
    """Whether `name` can be a file of the directory, or of a folder in it."""
    return all(is_name(part) and part != "." for part in name.split("/"))


def names(directory: Path) -> frozenset[str]:
    """The files that the manifest names; none where there is no manifest, or one that says nothing."""
    try:
        return frozenset(_entries((directory / FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return frozenset()


def verify(directory: Path) -> list[str]:
    """What is wrong with the model in `directory`; nothing where it is whole. Other files there are no matter."""
    left = (directory / SCRATCH).exists()
    problems = [f"{SCRATCH}: left by a writer that was interrupted"] if left else []
    try:
        entries = _entries((directory / FILE).read_text(encoding="utf-8"))
    except OSError as error:
        return [*problems, f"{FILE}: {error.strerror}; the model was not written to its end"]
    except ValueError as error:
        return [*problems, f"{FILE}: is no manifest ({error})"]
    return problems + [
        problem for name, entry in entries.items() if (problem := _compare(directory / name, name, entry))
    ]


def _entries(text: str) -> dict[str, Entry]:
    """Raises ValueError for anything that is no manifest, and for names that lead out of the directory."""
    try:
        files = json.loads(text)["files"]
        entries = {str(name): Entry(int(entry["size"]), str(entry["sha256"])) for name, entry in files.items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from None
    for name in entries:
        if not is_inside(name):
            raise ValueError(f"{name!r} is no file name")
    return entries


def _compare(path: Path, name: str, expected: Entry) -> str | None:
    try:
        size = path.stat().st_size
        if size != expected.size:
            return f"{name}: has {size} bytes instead of {expected.size}"
        found = measure(path)
    except OSError as error:
        return f"{name}: {error.strerror}"
    if found.sha256 != expected.sha256:
        return f"{name}: has SHA-256 {found.sha256} instead of {expected.sha256}"
    return None
