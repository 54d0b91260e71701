"""What there is instead of what is missing, for error messages."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path

from trainkit.data.sources.keys import beginning
from trainkit.errors import StorageError
from trainkit.storage.local import path_of

_SHOWN = 5


def suggestions(where: str, *, environ: Mapping[str, str]) -> list[str]:
    """The neighbours of a file, folder or key that are spelled most like it; nothing where they cannot be seen."""
    parent, _, name = where.rstrip("/").rpartition("/")
    try:
        if where.startswith("s3://"):
            page = next(beginning(f"{parent}/", environ=environ, delimiter="/")) if parent != "s3:/" else []
            found = [one if isinstance(one, str) else one.url for one in page]
        elif "://" not in where or where.startswith("file://"):
            found = [str(path) for path in path_of(parent or ".").iterdir()]
        else:
            found = []
    except (OSError, StorageError):
        return []
    names = {Path(url).name: url for url in sorted(found, reverse=True)}
    close = get_close_matches(name, names, n=_SHOWN, cutoff=0.4)
    return [names[one] for one in close] or sorted(found)[:_SHOWN]
