"""The one door to any URL: a local path, file://, s3://, or whatever fsspec knows.

    from trainkit.storage import files

    files.get_range("s3://bucket/shard-3.arrow", 4096, 512)
    files.put_new("s3://bucket/run/MANIFEST.json", text.encode())     # ObjectExists where another was first
    files.put_stream("/opt/ml/checkpoints/rank-0", chunks, replace=False)

What is written here appears whole under its name or not at all, and what is read is complete: fewer bytes than
asked for are an error. Errors are StorageError (ObjectExists, ObjectMissing), and name the URL, what was attempted,
what the service answered, and what to do. URLs are taken literally: `%20` in a key is these three characters.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path

from trainkit.storage import commit
from trainkit.storage.local import LocalStore
from trainkit.storage.store import (
    Data,
    Entry,
    ObjectExists,
    ObjectMissing,
    Prefixes,
    Store,
    Uploads,
    failure,
    folder,
    told,
)

__all__ = [
    "Entry", "ObjectExists", "ObjectMissing",
    "abandon", "delete", "download", "get", "get_range", "head", "list", "put_new", "put_stream", "read",
    "siblings", "unfinished",
]  # fmt: skip

URL = str | os.PathLike[str]
_AT_ONCE = 8  # files on their way during a download


def get(url: URL) -> bytes:
    """The whole object. Raises ObjectMissing where there is none."""
    url = os.fspath(url)
    return b"".join(_store(url).read(url))


def read(url: URL) -> Iterator[bytes]:
    """The whole object in pieces, all of one version. Raises ObjectMissing where there is none."""
    url = os.fspath(url)
    return _store(url).read(url)


def get_range(url: URL, start: int, length: int) -> bytes:
    """Exactly `length` bytes from byte `start`; an object that ends before is an error."""
    if start < 0 or length < 0:
        raise ValueError(f"a range starts at {start} and is {length} long; neither can be negative")
    url = os.fspath(url)
    data = b"".join(_store(url).read(url, start=start, length=length)) if length else b""
    if len(data) != length:
        raise failure(
            url, f"read {length} bytes from {start}", f"it ends after {len(data)} of them",
            "It was replaced by a shorter one, or written incompletely: compare its size with the writer's",
        )  # fmt: skip
    return data


def put_new(url: URL, data: Data) -> Entry:
    """Create the object; of any number of concurrent writers exactly one succeeds.

    Raises ObjectExists to the others, and StorageError at once on a protocol that cannot promise this.
    """
    url = os.fspath(url)
    return _store(url).put(url, data, replace=False)


def put_stream(url: URL, chunks: Iterable[Data], *, replace: bool) -> Entry:
    """Write chunk after chunk; the object appears when the last one is there.

    An error of the source (KeyboardInterrupt too) is passed on as it is, and leaves neither an object nor an open
    upload. A chunk may be reused by its producer once the next one is asked for.
    """
    url = os.fspath(url)
    return _store(url).put_stream(url, chunks, replace=replace)


def list(url: URL) -> tuple[Entry, ...]:
    """Every object in the folder and below, sorted by URL; nothing where there is no such folder.

    A slash at the end makes no difference: `train` is the folder, and never `train2/` or the object `train`.
    """
    url = os.fspath(url)
    return tuple(sorted(_store(url).list(url), key=lambda entry: entry.url))


def head(url: URL) -> Entry | None:
    """What is known about one object, or None where there is none."""
    url = os.fspath(url)
    return _store(url).head(url)


def siblings(url: URL) -> tuple[str, ...]:
    """URLs beside a folder that begin with its name: what a prefix without a slash at its end means too. S3 only."""
    url = os.fspath(url).rstrip("/")
    store = _store(url)
    return tuple(one for one in store.beside(url) if one.rstrip("/") != url) if isinstance(store, Prefixes) else ()


def delete(url: URL) -> None:
    """Delete one object; that it is gone already is no error."""
    url = os.fspath(url)
    _store(url).delete(url)


def unfinished(url: URL) -> tuple[str, ...]:
    """URLs of what a killed writer began in a folder, and never ended: unseen by `list`, and paid for. S3 only."""
    url = os.fspath(url)
    store = _store(url)
    return tuple(where for where, _ in store.uploads(url)) if isinstance(store, Uploads) else ()


def abandon(url: URL) -> None:
    """Free what `unfinished` shows in a folder. Whoever still writes there will fail."""
    url = os.fspath(url)
    store = _store(url)
    if isinstance(store, Uploads):
        for where, upload in store.uploads(url):
            store.abort_upload(where, upload)


def download(url: URL, into: Path) -> tuple[Path, ...]:
    """Copy a folder and all below it into `into`; returns the files, in the order of their URLs.

    Each file is there whole or not at all. Raises StorageError where nothing is to be had, where an object was
    replaced meanwhile, and, before anything is written, where a name would lead out of `into`.
    """
    url = os.fspath(url)
    entries = list(url)
    if not entries and not url.endswith("/") and head(url):
        raise failure(url, "download it", "it is one object, and no folder", "Name its folder, or read it with get")
    if not entries:
        raise failure(url, "download it", "there is no object in that folder", "Compare the name, letter by letter")
    targets = tuple(_inside(into, entry, prefix=folder(url)) for entry in entries)
    store = _store(url)
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="download") as pool:
        running = [pool.submit(_copy, store, entry, path) for entry, path in zip(entries, targets, strict=True)]
        try:
            for one in wait(running, return_when=FIRST_EXCEPTION).done:
                one.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    return targets


def _inside(into: Path, entry: Entry, *, prefix: str) -> Path:
    parts = entry.url[len(prefix) :].split("/")
    if any(part in ("", ".", "..") or "\0" in part for part in parts):
        raise failure(
            entry.url, f"download it into {into}", "its name is no path inside that folder",
            "Rename the object: no part of its key may be empty, '.' or '..'",
        )  # fmt: skip
    return into.joinpath(*parts)


def _copy(store: Store, entry: Entry, path: Path) -> None:
    with told(entry.url, f"download it to {path}"), commit.committed(path) as scratch:
        with scratch.open("xb") as out:
            for chunk in store.read(entry.url, etag=entry.etag):
                out.write(chunk)
            size = out.tell()
        if size != entry.size:
            raise failure(
                entry.url, "download it", f"{size} bytes came where {entry.size} were listed",
                "It was replaced meanwhile: start again",
            )  # fmt: skip


def _store(url: str) -> Store:
    """Who speaks this protocol; the clients behind it are imported only when they are needed."""
    protocol = url.partition("://")[0].lower() if "://" in url else "file"
    if protocol in ("file", "local"):
        return LocalStore()
    if protocol in ("s3", "s3a"):
        from trainkit.storage.s3 import S3Store

        return S3Store.of(os.environ)
    from trainkit.storage.other import OtherStore

    return OtherStore()
