"""Plain paths and file:// URLs."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from trainkit.storage import commit
from trainkit.storage.store import CHUNK, Data, Entry, Source, failure, folder, told


class LocalStore:
    def read(self, url: str, *, start: int = 0, length: int | None = None, etag: str | None = None) -> Iterator[bytes]:
        with told(url, "read it"), path_of(url).open("rb", buffering=0) as file:
            file.seek(start)
            while chunk := file.read(CHUNK if length is None else min(CHUNK, length)):
                length = None if length is None else length - len(chunk)
                yield chunk

    def put(self, url: str, data: Data, *, replace: bool) -> Entry:
        return self.put_stream(url, (data,), replace=replace)

    def put_stream(self, url: str, chunks: Iterable[Data], *, replace: bool) -> Entry:
        source = Source(chunks)
        with told(url, "write it", source=source):
            with commit.committed(path_of(url), replace=replace) as scratch, scratch.open("xb") as out:
                for chunk in source:
                    out.write(chunk)
                size = out.tell()
            return Entry(url, size)

    def list(self, url: str) -> Iterator[Entry]:
        def refuse(error: OSError) -> None:
            # os.walk would leave out what it cannot read, and a part of a data set would look like all of it.
            if not isinstance(error, FileNotFoundError | NotADirectoryError):
                raise error

        root, prefix = path_of(url), folder(url)
        with told(url, "list it"):
            for directory, below, names in os.walk(root, onerror=refuse, followlinks=True):
                below[:] = [name for name in below if not _is_circle(Path(directory, name), root=root)]
                for name in names:
                    path = Path(directory, name)
                    if not commit.is_scratch(name) and stat.S_ISREG((facts := _stat(path)).st_mode):
                        yield Entry(prefix + path.relative_to(root).as_posix(), facts.st_size)

    def head(self, url: str) -> Entry | None:
        with told(url, "look at it"):
            try:
                facts = path_of(url).stat()
            except (FileNotFoundError, NotADirectoryError):
                return None
        return Entry(url, facts.st_size) if stat.S_ISREG(facts.st_mode) else None

    def delete(self, url: str) -> None:
        with told(url, "delete it"):
            try:
                path_of(url).unlink()
            except (FileNotFoundError, NotADirectoryError):
                pass  # that is what was asked for


def path_of(url: str) -> Path:
    """The path that a local URL means. As with fsspec, nothing in it is percent-decoded."""
    if "\0" in url:
        raise failure(url.replace("\0", "\\0"), "use it", "it contains a NUL character", "No path can: take it out")
    scheme, mark, rest = url.partition("://")
    if not mark:
        return Path(url)
    rest = rest.removeprefix("localhost") if rest.startswith("localhost/") else rest
    if not rest.startswith("/"):
        raise failure(url, f"use this {scheme} URL", "its path is not absolute", f"Write {scheme}:///{rest}")
    return Path(rest)


def _is_circle(folder: Path, *, root: Path) -> bool:
    """Whether a link leads back to a folder that it is in: all that is there is listed already."""
    if not folder.is_symlink():
        return False
    target = folder.resolve()
    walked = (parent for parent in folder.parents if parent == root or root in parent.parents)
    return any(parent.resolve().is_relative_to(target) for parent in walked)


def _stat(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except FileNotFoundError:
        if not path.is_symlink():
            raise
        problem = f"it is a link to {path.readlink()}, which does not exist"
        raise failure(str(path), "list it", problem, "Remove the link, or put back what it leads to") from None
