"""Input data on its way to the hosts: the File mode of channels, and the script's folder.

Each host gets real directories with a link per file, so that a job on 50 GB starts at once, and what it adds or deletes
stays its own. Only a script that rewrites an input file in place reaches the original, which no job should do.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from trainkit.errors import UsageError

_NOT_CODE = frozenset(
    {
        *(".git", ".hg", ".svn", "__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache"),
        *("node_modules", "trainkit-output"),
    }
)
_MOST_CODE = 20_000  # files; a folder with more is no script's folder


class Amount(NamedTuple):
    """What a channel holds."""

    files: int
    size: int  # bytes


def fetch(url: str, *, into: Path) -> Path:
    """The local path of a channel's source: its own, or `into` with everything below the URL downloaded."""
    parts = urlsplit(url)
    if parts.scheme == "file":
        path = Path(unquote(parts.path))
        if not path.exists():
            raise UsageError(f"there is no {path}: name an existing file, directory or URL")
        return path
    from trainkit.storage.files import download  # brings fsspec, which a job on local files need not import

    into.mkdir(parents=True, exist_ok=True)
    download(url, into)
    return into


def link(source: Path, *, into: Path) -> Amount:
    """Link every file of `source` (a directory, or one file) below `into`."""
    return _link(_files(source, wanted=lambda _: True) if source.is_dir() else iter([source]), source, into)


def link_code(folder: Path, *, into: Path, without: Collection[Path]) -> Amount:
    """Link a script's folder, without version control, caches, virtual environments, and the paths in `without`."""
    apart = {path.resolve() for path in without} - {folder.resolve()}

    def limited() -> Iterator[Path]:
        for count, path in enumerate(_files(folder, wanted=lambda inner: _is_code(inner, apart))):
            if count == _MOST_CODE:
                raise UsageError(
                    f"{folder}, the script's folder, holds over {_MOST_CODE:,} files. All of it is the job's code: put "
                    f"the script into a folder of its own, and hand data over with --channel NAME=PATH"
                )
            yield path

    return _link(limited(), folder, into)


def _is_code(folder: Path, apart: Collection[Path]) -> bool:
    earlier_job = (folder / "describe.json").is_file() and (folder / "hosts").is_dir()
    environment = (folder / "pyvenv.cfg").exists()
    return folder.name not in _NOT_CODE and not environment and not earlier_job and folder.resolve() not in apart


def _files(folder: Path, *, wanted: Callable[[Path], bool], above: frozenset[Path] = frozenset()) -> Iterator[Path]:
    """The files below `folder`, through links to folders too, but not through one that leads back up."""
    above |= {folder.resolve()}
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            if path.resolve() not in above and wanted(path):
                yield from _files(path, wanted=wanted, above=above)
        elif path.is_file():
            yield path


def _link(files: Iterator[Path], source: Path, into: Path) -> Amount:
    into.mkdir(parents=True, exist_ok=True)
    base = source if source.is_dir() else source.parent
    made = {into}
    count = size = 0
    for path in files:
        target = into / path.relative_to(base)
        if target.parent not in made:
            target.parent.mkdir(parents=True, exist_ok=True)
            made.add(target.parent)
        target.symlink_to(path.absolute())
        count += 1
        size += path.stat().st_size
    return Amount(count, size)
