"""Files of this machine that hosts get: those of a folder, and those of a script's folder that are code."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from urllib.parse import unquote_to_bytes, urlsplit

from trainkit.errors import UsageError

_NOT_CODE = frozenset(
    {
        *(".git", ".hg", ".svn", "__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache"),
        *("node_modules", "trainkit-output"),
    }
)
_MOST_CODE = 20_000  # files; a folder with more is no script's folder


@dataclass(frozen=True, slots=True)
class Listing:
    """The files of a channel below `base`: read once, laid into every host."""

    base: Path
    files: tuple[Path, ...]


def path(url: str) -> Path:
    """Where a file:// URL points."""
    return Path(os.fsdecode(unquote_to_bytes(urlsplit(url).path)))


def data(source: Path) -> Listing:
    """Every file of `source` (a directory, or one file). Raises UsageError where a part of it cannot be read."""

    def refuse(error: OSError) -> None:
        raise UsageError(
            f"cannot read {error.filename}: {error.strerror}. A channel is handed over whole or not at all"
        )

    if not source.is_dir():
        return Listing(source.parent, (source,))
    return Listing(source, tuple(_files(source, wanted=lambda _: True, unreadable=refuse)))


def code(folder: Path, *, without: Collection[Path], unreadable: Callable[[OSError], None]) -> Listing:
    """A script's folder, without version control, caches, virtual environments, and the paths in `without`.

    What cannot be read is told to `unreadable` and left out. Raises UsageError where there is too much.
    """
    apart = {path.resolve() for path in without} - {folder.resolve()}
    found = _files(folder, wanted=lambda inner: _is_code(inner, apart), unreadable=unreadable)
    files = tuple(islice(found, _MOST_CODE + 1))
    if len(files) > _MOST_CODE:
        raise UsageError(
            f"{folder}, the script's folder, holds over {_MOST_CODE:,} files. All of it is the job's code: put "
            f"the script into a folder of its own, and hand data over with --channel NAME=PATH"
        )
    return Listing(folder, files)


def link(listing: Listing, *, into: Path) -> None:
    """Link every file of `listing` below `into`."""
    into.mkdir(parents=True, exist_ok=True)
    made = {into}
    for path in listing.files:
        target = into / path.relative_to(listing.base)
        if target.parent not in made:
            target.parent.mkdir(parents=True, exist_ok=True)
            made.add(target.parent)
        target.symlink_to(path.absolute())


def _is_code(folder: Path, apart: Collection[Path]) -> bool:
    earlier_job = (folder / "describe.json").is_file() and (folder / "hosts").is_dir()
    environment = (folder / "pyvenv.cfg").exists()
    return folder.name not in _NOT_CODE and not environment and not earlier_job and folder.resolve() not in apart


def _files(
    folder: Path,
    *,
    wanted: Callable[[Path], bool],
    unreadable: Callable[[OSError], None],
    above: frozenset[Path] = frozenset(),
) -> Iterator[Path]:
    """The files below `folder`, through links to folders too, but not through one that leads back up."""
    above |= {folder.resolve()}
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        unreadable(error)
        return
    for path in entries:
        try:
            inner = path.is_dir() and path.resolve() not in above and wanted(path)
            file = path.is_file()
        except OSError as error:
            unreadable(error)
            continue
        if inner:
            yield from _files(path, wanted=wanted, unreadable=unreadable, above=above)
        elif file:
            yield path
