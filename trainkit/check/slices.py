"""A little of each channel, enough for a few steps: the first files, links where they are whole, the first lines.

a directory   of each folder in it the first file, so that classes and parts stay; 32 folders at most
lines         csv, json lines, text: the first megabyte, cut at a line
parquet       the first row group where the file is large
anything else whole, up to 256 MB
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from trainkit.errors import StorageError

MOST_FOLDERS = 32
PER_FOLDER = 2
_SMALL = 4 << 20
_MOST = 256 << 20
_LINES = (".csv", ".jsonl", ".json-lines", ".ndjson", ".txt", ".tsv")


def cut(source: str | Path, *, into: Path) -> Path:
    """A slice of a directory, a file or a URL. Returns where it lies. Raises StorageError, OSError."""
    into.mkdir(parents=True)
    if isinstance(source, str):
        return _remote(source, into)
    if source.is_file():
        _piece(source, into / source.name)
        return into
    for path in _chosen(source):
        target = into / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        _piece(path, target)
    return into


def _chosen(folder: Path) -> Iterator[Path]:
    folders = 0
    for root, inner, names in os.walk(folder, followlinks=True):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        kept = [path for name in sorted(names) if not name.startswith(".") and (path := Path(root, name)).is_file()]
        yield from kept[:PER_FOLDER] or kept
        folders += bool(kept)
        if folders >= MOST_FOLDERS:
            return


def _piece(source: Path, target: Path) -> None:
    size = source.stat().st_size
    if size > _SMALL and source.suffix in _LINES:
        with source.open("rb") as content:
            head = content.read(_SMALL // 4)
        target.write_bytes(head[: head.rfind(b"\n") + 1] or head)
    elif size > _SMALL and source.suffix == ".parquet":
        import pyarrow.parquet as pq

        with pq.ParquetFile(source) as file:
            pq.write_table(file.read_row_group(0), target)
    elif size > _MOST:
        raise StorageError(
            f"{source} has {size >> 20} MB, and only lines and parquet can be cut: name a smaller sample"
        )
    else:
        target.symlink_to(source.absolute())


def _remote(url: str, into: Path) -> Path:
    """The first objects below a URL."""
    from trainkit.storage import files

    prefix, taken = url.rstrip("/"), 0
    for entry in files.list(url):
        name = entry.url.removeprefix(prefix).lstrip("/") or entry.url.rpartition("/")[2]
        if not entry.size or entry.size > _MOST:
            continue
        target = into / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(files.get(entry.url))
        taken += 1
        if taken >= PER_FOLDER:
            return into
    if not taken:
        shutil.rmtree(into)
        raise StorageError(f"{url} has no object that a rehearsal could take (of at most {_MOST >> 20} MB)")
    return into
