"""What every kind of storage answers to, and the words for what goes wrong there."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from trainkit.contract.secrets import scrub
from trainkit.errors import StorageError

Data = bytes | bytearray | memoryview
CHUNK = 1 << 20  # bytes that reads hand over at a time


class ObjectExists(StorageError):
    """Something is there already, and was not to be replaced. It is as it was."""


class ObjectMissing(StorageError):
    """There is no such object."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One object: its URL, its size in bytes, and its version where the storage names one."""

    url: str
    size: int
    etag: str | None = None


class Store(Protocol):
    """One kind of storage. Every method takes whole URLs, and raises StorageError naming them."""

    def read(self, url: str, *, start: int = 0, length: int | None = None, etag: str | None = None) -> Iterator[bytes]:
        """The bytes from `start`, `length` of them or all; of that version where `etag` is given and known here."""

    def put(self, url: str, data: Data, *, replace: bool) -> Entry: ...

    def put_stream(self, url: str, chunks: Iterable[Data], *, replace: bool) -> Entry: ...

    def list(self, url: str) -> Iterator[Entry]:
        """Every object in the folder and its subfolders, in any order; URLs begin with `folder(url)`."""

    def head(self, url: str) -> Entry | None: ...

    def delete(self, url: str) -> None: ...


@runtime_checkable
class Uploads(Protocol):
    """Storage in which an upload that nobody ends stays, unseen."""

    def uploads(self, url: str) -> Iterator[tuple[str, str]]:
        """Those in the folder and below: URL and id."""

    def abort_upload(self, url: str, upload: str) -> None: ...


@runtime_checkable
class Prefixes(Protocol):
    """Storage whose folders are but the beginnings of names, so that `train` is that of `train2/` too."""

    def beside(self, url: str) -> Iterator[str]:
        """The folders and objects in the folder of `url` that begin as it does, itself included; a thousand at most."""


class Source:
    """The caller's chunks. Their own error is remembered, so that storage is not blamed for it."""

    def __init__(self, chunks: Iterable[Data]) -> None:
        self._chunks = chunks
        self.error: BaseException | None = None

    def __iter__(self) -> Iterator[Data]:
        try:
            yield from self._chunks
        except BaseException as error:
            self.error = error
            raise


def folder(url: str) -> str:
    """The URL with exactly one slash at its end: `train` must not mean `train2/` too."""
    return url.rstrip("/") + "/"


def failure(
    url: str, doing: str, problem: str, remedy: str, *, kind: type[StorageError] = StorageError
) -> StorageError:
    """The error, in the order in which people read: where, what was tried, what came back, what to do."""
    return kind(scrub(f"{url}: cannot {doing}: {problem}. {remedy}."))


@contextmanager
def told(url: str, doing: str, *, source: Source | None = None) -> Iterator[None]:
    """Turn OSError into StorageError, except where it is the source's own."""
    try:
        yield
    except OSError as error:
        if source is not None and error is source.error:
            raise
        if isinstance(error, FileExistsError):
            raise exists(url) from error
        kind = ObjectMissing if isinstance(error, FileNotFoundError) else StorageError
        raise failure(url, doing, error.strerror or str(error) or repr(error), remedy(error), kind=kind) from error


def exists(url: str) -> StorageError:
    return failure(url, "create it", "it exists already", "Choose another name, or delete it first", kind=ObjectExists)


def remedy(error: OSError) -> str:
    """What to do about an error of the file system, without a full stop."""
    remedies = {
        errno.ENOENT: "Compare the name, letter by letter",
        errno.EACCES: "Give this user the permission, or choose a place it may use",
        errno.EPERM: "The file system forbids it (creating needs hard links); choose a place on another one",
        errno.EOPNOTSUPP: "The file system has no hard links, which creating needs; choose a place on another one",
        errno.EROFS: "The file system is mounted read-only; choose another place",
        errno.ENOSPC: "The disk is full: free some space, or ask for a larger volume (VolumeSizeInGB)",
        errno.EDQUOT: "The quota is used up: free some space, or have it raised",
        errno.EISDIR: "It is a folder; name a file in it",
        errno.ENOTDIR: "A file stands where a folder must be; choose another name",
    }
    if isinstance(error, FileNotFoundError):
        return remedies[errno.ENOENT]  # fsspec raises it without a number
    return remedies.get(error.errno or 0, "Look at the volume behind it, and at the kernel's log")
