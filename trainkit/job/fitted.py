"""The artifact of features that the job's channels carry, wherever they lie. Of a URL just the artifact is fetched."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from trainkit.contract.features import BESIDE, FILE, FOLDER, MANIFEST, carried_by
from trainkit.errors import StorageError
from trainkit.storage import files
from trainkit.storage.store import folder


def carried(places: Iterable[Path | str], scratch: Path, *, say: Callable[[str], None]) -> Path | None:
    """The one artifact of the channels at `places`, URLs as str. Raises DataError where there are several.

    A URL that cannot be asked is passed over with a line: a trained model is not lost for that.
    """
    found: list[Path] = []
    for number, place in enumerate(places):
        if isinstance(place, Path):
            found.append(place)
            continue
        try:
            found.append(fetched(place, scratch / str(number)))
        except StorageError as error:
            say(f"save_model: {error} Whether it carries an artifact of features is not known: name it, features=…")
    return carried_by(found)


def named(place: str, scratch: Path) -> Path | None:
    """The artifact at a path or URL that was named. Raises DataError where there is none, StorageError."""
    return carried_by([fetched(place, scratch) if "://" in place else Path(place)], required=True)


def fetched(url: str, into: Path) -> Path:
    """What lies at a URL and belongs to an artifact, as a folder: of a split, of an output, or the artifact itself."""
    base = folder(url)
    for name in (BESIDE, FOLDER):
        if files.list(f"{base}{name}"):
            files.download(f"{base}{name}", into / name)
            if name == FOLDER and (manifest := files.head(f"{base}{MANIFEST}")) is not None:
                (into / MANIFEST).write_bytes(files.get(manifest.url))
            return into
    if files.head(f"{base}{FILE}") is not None:
        files.download(base, into)
    return into
