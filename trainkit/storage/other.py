"""Every other protocol that fsspec knows: gs://, abfs://, https://, hf://, memory://, …

fsspec says little about what its file systems promise, so this asks for little: whole reads and plain writes.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from trainkit.errors import StorageError
from trainkit.storage.store import CHUNK, Data, Entry, Source, exists, failure, folder, told

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

_memory = threading.Lock()  # memory:// lives in one process, so that a lock is all that a promise needs


class OtherStore:
    def read(self, url: str, *, start: int = 0, length: int | None = None, etag: str | None = None) -> Iterator[bytes]:
        with _told(url, "read it"):
            system, path = _open(url)
            if length is not None:
                yield bytes(system.cat_file(path, start=start, end=start + length))
                return
            with system.open(path, "rb", cache_type="readahead") as file:
                file.seek(start)
                while chunk := file.read(CHUNK):
                    yield chunk
                size = getattr(file, "size", None)
                if size is not None and file.tell() != size:
                    raise failure(url, "read it", f"{file.tell()} of {size} bytes came", "Try again")

    def put(self, url: str, data: Data, *, replace: bool) -> Entry:
        with _creating(url, replace=replace), _told(url, "write it"):
            system, path = _open(url)
            if not replace and system.exists(path):
                raise exists(url)
            system.pipe_file(path, bytes(data))
        return Entry(url, memoryview(data).nbytes)

    def put_stream(self, url: str, chunks: Iterable[Data], *, replace: bool) -> Entry:
        """The chunks go through a file of ours first: fsspec's own files commit what they have when a writer fails."""
        source = Source(chunks)
        with _creating(url, replace=replace), tempfile.NamedTemporaryFile(prefix="trainkit-") as staged:
            with told(url, f"write it to {staged.name} first", source=source):
                for chunk in source:
                    staged.write(chunk)
                staged.flush()
                size = staged.tell()
            with _told(url, "write it"):
                system, path = _open(url)
                if not replace and system.exists(path):
                    raise exists(url)
                system.put_file(staged.name, path)
        return Entry(url, size)

    def list(self, url: str) -> Iterator[Entry]:
        with _told(url, "list it"):
            system, path = _open(url)
            system.invalidate_cache()
            inside = folder(path)
            try:
                found: dict[str, Any] = system.find(path, detail=True)
            except FileNotFoundError:
                return
        for name, facts in found.items():
            if name.startswith(inside) and not name.endswith("/"):
                yield Entry(folder(url) + name[len(inside) :], int(facts["size"] or 0))

    def head(self, url: str) -> Entry | None:
        with _told(url, "look at it"):
            system, path = _open(url)
            system.invalidate_cache()
            try:
                facts = system.info(path)
            except FileNotFoundError:
                return None
        return Entry(url, int(facts["size"] or 0)) if facts["type"] == "file" else None

    def delete(self, url: str) -> None:
        with _told(url, "delete it"):
            system, path = _open(url)
            try:
                system.rm_file(path)
            except FileNotFoundError:
                pass  # that is what was asked for


@contextmanager
def _creating(url: str, *, replace: bool) -> Iterator[None]:
    """Look and create as one step, or refuse where that cannot be had."""
    protocol = url.partition("://")[0]
    if replace:
        yield
    elif protocol == "memory":
        with _memory:
            yield
    else:
        raise failure(
            url, "create it", f"{protocol}:// gives no promise that of two writers only one wins",
            "Use s3:// or a local path for this, or ask for replacement",
        )  # fmt: skip


def _open(url: str) -> tuple[AbstractFileSystem, str]:
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        protocol = url.partition("://")[0]
        remedy = f"Install the package that brings {protocol}:// to fsspec"
        raise failure(url, "open it", str(error).rstrip("."), remedy) from error
    return system, path


@contextmanager
def _told(url: str, doing: str) -> Iterator[None]:
    try:
        with told(url, doing):
            yield
    except StorageError:
        raise
    except Exception as error:  # each of fsspec's protocols raises what its own client raises
        problem = f"{type(error).__name__}: {error}".rstrip(".")
        raise failure(url, doing, problem, "Look into the documentation of that client") from error
