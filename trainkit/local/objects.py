"""Objects that a request names: a path here, file://, or a URL; listed, and read piece by piece."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from trainkit.local import stage
from trainkit.storage.commit import committed

Place = Path | str
"""A file here, or a URL."""
_PIECE = 8 << 20  # bytes of an object at a time


def place(url: str, *, base: Path) -> Place:
    """Where `url` is; paths are relative to `base`."""
    scheme = urlsplit(url).scheme
    if scheme == "file":
        return stage.path(url)
    return base / Path(url).expanduser() if len(scheme) < 2 else url


def below(target: Place, *names: str) -> Place:
    """A place inside the folder `target`."""
    return target.joinpath(*names) if isinstance(target, Path) else "/".join([target.rstrip("/"), *names])


def pieces(target: Place) -> Iterator[bytes]:
    """The content of an object."""
    if isinstance(target, Path):
        with target.open("rb") as file:
            while data := file.read(_PIECE):
                yield data
        return
    from trainkit.storage import files

    entry = files.head(target)
    size = entry.size if entry else 0
    for start in range(0, size, _PIECE):
        yield files.get_range(target, start, min(_PIECE, size - start))


def put(source: Place, target: Place) -> None:
    """Copy the object `source` to `target`, whole or not at all. Raises OSError, StorageError."""
    if isinstance(target, str):
        from trainkit.storage import files

        files.put_stream(target, pieces(source), replace=True)
        return
    with committed(target) as scratch:
        if isinstance(source, Path):
            shutil.copyfile(source, scratch)  # by the kernel
        else:
            with scratch.open("xb") as out:
                out.writelines(pieces(source))
