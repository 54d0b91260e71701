"""All that is known before a check: read once, changed by nobody."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from urllib.parse import urlsplit

from trainkit.check.artifact import Artifact
from trainkit.check.code import Code
from trainkit.check.image import Image
from trainkit.check.request import Call, Job, jobs
from trainkit.check.uses import Uses, look

_MOST_FILES = 100_000


@dataclass(frozen=True, slots=True)
class Place:
    """A channel's data on this machine. `siblings` begin with its name and lie beside it."""

    path: Path
    exists: bool
    files: int = 0
    bytes: int = 0
    empty_files: int = 0
    siblings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Facts:
    calls: tuple[Call, ...] = ()
    code: Code | None = None
    image: Image | None = None
    artifact: Artifact | None = None
    artifact_name: str = ""
    places: Mapping[str, Place] = field(default_factory=dict)
    """Channel → its data, where that is here."""
    missing_script: str = ""
    """What a request names as its script, where --code does not have it."""

    @cached_property
    def jobs(self) -> tuple[Job, ...]:
        return tuple(job for call in self.calls for job in jobs(call))

    @cached_property
    def trainings(self) -> tuple[Job, ...]:
        return tuple(job for job in self.jobs if job.trains)

    @cached_property
    def uses(self) -> Uses:
        return look(self.code.closure if self.code else ())

    @property
    def has_script(self) -> bool:
        """Whether a Python script could be read: only then does its silence say something."""
        return bool(self.code and self.code.entry and self.code.entry.tree)


def place(path: Path) -> Place:
    """What lies there."""
    if not path.exists():
        return Place(path, exists=False)
    siblings = sorted(
        other.name for other in path.parent.iterdir() if other.name.startswith(path.name) and other.name != path.name
    )
    count = size = empty = 0
    for file in _files(path):
        count += 1
        length = file.stat().st_size
        size += length
        empty += not length
        if count >= _MOST_FILES:
            break
    return Place(path, True, count, size, empty, tuple(siblings))


def local(url: str) -> Path | None:
    """The path that a file:// URL or a path names; None for any other URL."""
    from urllib.parse import unquote

    parts = urlsplit(url)
    if parts.scheme == "file":
        return Path(unquote(parts.path))
    return None if len(parts.scheme) > 1 else Path(url).expanduser()


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
    for root, folders, names in os.walk(path):
        folders.sort()
        yield from (file for name in sorted(names) if (file := Path(root, name)).is_file())
