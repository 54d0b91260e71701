"""Blocks kept on this host's disk: an epoch after the first reads them from there. Off unless someone asks for it.

    get(item, start, length) ─▶ FOLDER/3f/<URL>-<version>-<range> ─ there, whole ─▶ its bytes
                                       │ not there, or damaged
                                       ▼
                                    fetcher ─▶ bytes, and ─▶ .….part ─ link ─▶ the same name

- An entry is named after its URL, ETag, size and range: another version has another name. Without an ETag nothing is
  kept, since nobody could tell a changed object.
- An entry appears whole, and its checksum is looked at with each read: what was torn or flipped is fetched again.
- When `limit` is reached, nothing more is kept, and nothing thrown out. An epoch has each block once, in another order
  than the last: what was used longest ago is what comes soonest. With room for half of the blocks, half are found here;
  where the oldest made room for the newest it would be about 15 %, and the disk would be written to all the time.
- The ranks of a host share a folder: each holds a lock on it. Whoever finds nobody else there tidies up first: scratch
  files of the killed, other versions of what is listed now, and what nobody has used for a week.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import secrets
import struct
import sys
import threading
import time
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from trainkit.data.fetch.fetcher import Counters, Fetcher, Name
from trainkit.data.items import Item
from trainkit.storage.commit import is_scratch
from trainkit.storage.store import failure

_HEAD = struct.Struct("<8sQI4x")
_MAGIC = b"tkcache1"
_DAY = 86400.0
_UNUSED = 7 * _DAY
_LARGEST = 1 << 30  # Linux reads no 2 GiB at a time
_FULL = (errno.ENOSPC, errno.EDQUOT)


class Cache:
    """Named bytes in a folder. For any number of threads and processes of one host, and for their children."""

    def __init__(self, folder: Path, *, limit: int | None, items: Iterable[Item] = ()) -> None:
        """`limit`: bytes; by default half of what the file system has left. `items`: the versions that are current.

        Raises StorageError where the folder cannot be used. A full disk is no reason: then nothing is kept.
        """
        self._folder = folder
        self._filling = True
        self._said = threading.Lock()
        self._lock = -1
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(folder / "users", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._enter(items)
            self._limit = self._half() if limit is None else limit
        except OSError as error:
            self.close()
            if error.errno not in _FULL:
                remedy = "Choose a folder on a local disk that this user may write to, or leave out cache="
                raise failure(str(folder), "keep blocks there", str(error), remedy) from error
            self._stop(error)

    def read(self, name: str, *, length: int | None = None) -> memoryview | None:
        """What is kept under a name, of this length where it is known; None where nothing whole is."""
        path = self._path(name)
        try:
            opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            facts = os.fstat(opened)
            size = facts.st_size - _HEAD.size
            if size >= 0 and length in (None, size):
                head, view = bytearray(_HEAD.size), np.empty(size, np.uint8).data
                if os.preadv(opened, [head, view], 0) == facts.st_size and head == _head(view):
                    if time.time() - facts.st_mtime > _DAY:
                        os.utime(opened)
                    return view
        except OSError:
            return None  # a disk that fails; the storage still has it
        finally:
            os.close(opened)
        self._drop(path, facts.st_size)
        return None

    def write(self, name: str, data: memoryview) -> None:
        """Keep these bytes, where there is room."""
        size = _HEAD.size + len(data)
        if not self._filling or size > _LARGEST:
            return
        path = self._path(name)
        scratch = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.part")
        try:
            if not self._count(size):
                return
            try:
                path.parent.mkdir(exist_ok=True)
                _fill(scratch, _head(data), data)
                path.hardlink_to(scratch)  # unlike rename, it says whether another rank was there first
            except OSError:
                self._count(-size)
                raise
            finally:
                scratch.unlink(missing_ok=True)
        except FileExistsError:
            pass
        except OSError as error:
            self._stop(error)

    def close(self) -> None:
        """Let go of the folder."""
        lock, self._lock = self._lock, -1
        if lock >= 0:
            os.close(lock)

    def _path(self, name: str) -> Path:
        return self._folder / f"{zlib.crc32(name.encode()) & 0xFF:02x}" / name

    def _enter(self, items: Iterable[Item]) -> None:
        """Wait until nobody tidies up, or do it: then this one is alone."""
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pass
        else:
            self._tidy({_url(item): _version(item) for item in items})
        fcntl.flock(self._lock, fcntl.LOCK_SH)

    def _tidy(self, current: dict[str, str]) -> None:
        used, old = 0, time.time() - _UNUSED
        for entry in self._entries():
            url, version = (*entry.name.split("-"), "")[:2]
            facts = entry.stat()
            if is_scratch(entry.name) or facts.st_mtime < old or current.get(url, version) != version:
                Path(entry.path).unlink(missing_ok=True)
            else:
                used += facts.st_size
        self._count(used, anew=True)

    def _entries(self) -> Iterator[os.DirEntry[str]]:
        for folder in range(256):
            try:
                with os.scandir(self._folder / f"{folder:02x}") as found:
                    yield from found
            except FileNotFoundError:
                pass

    def _drop(self, path: Path, size: int) -> None:
        try:
            path.unlink()
            self._count(-size)
        except OSError:
            pass  # another rank did it; or it stays, damaged as it is, and is not served

    def _half(self) -> int:
        disk = os.statvfs(self._folder)
        return (disk.f_bavail * disk.f_frsize + self._used()) // 2

    def _used(self) -> int:
        return int.from_bytes((self._folder / "used").read_bytes()[:8], "little")

    def _count(self, size: int, *, anew: bool = False) -> bool:
        """Take so many bytes of what all processes may keep together; whether there is room."""
        opened = os.open(self._folder / "used", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(opened, fcntl.LOCK_EX)
            before = 0 if anew else int.from_bytes(os.pread(opened, 8, 0), "little")
            if size > 0 and not anew and before + size > self._limit:
                return False
            os.pwrite(opened, max(0, before + size).to_bytes(8, "little"), 0)
            return True
        finally:
            os.close(opened)

    def _stop(self, error: OSError) -> None:
        self._filling = False
        if self._said.acquire(blocking=False):  # and never released: several threads come here at once
            print(f"{self._folder}: nothing more is kept there ({error}); the stream goes on", file=sys.stderr)


class CachedFetcher:
    """A fetcher that looks into a cache first, and fills it."""

    def __init__(self, fetcher: Fetcher, cache: Cache) -> None:
        self.name: Name = fetcher.name
        self.fetcher = fetcher
        """The one behind it, for what is not worth keeping."""
        self._cache = cache

    @property
    def counters(self) -> Counters:
        """What was fetched; what was found here is not in it."""
        return self.fetcher.counters

    def get(self, item: Item, start: int, length: int) -> memoryview:
        """Exactly these bytes. Raises StorageError as the fetcher does."""
        if item.etag is None or not length:
            return self.fetcher.get(item, start, length)
        name = entry(item, f"{start:x}-{length:x}")
        found = self._cache.read(name, length=length)
        if found is None:
            found = self.fetcher.get(item, start, length)
            self._cache.write(name, found)
        return found

    def close(self) -> None:
        self.fetcher.close()
        self._cache.close()


def entry(item: Item, part: str) -> str:
    """The name of something that was made of one version of an item."""
    return f"{_url(item)}-{_version(item)}-{part}"


def _url(item: Item) -> str:
    return hashlib.blake2b(item.url.encode(), digest_size=12).hexdigest()


def _version(item: Item) -> str:
    return hashlib.blake2b(f"{item.etag} {item.size}".encode(), digest_size=12).hexdigest()


def _head(data: memoryview) -> bytes:
    return _HEAD.pack(_MAGIC, len(data), zlib.crc32(data))


def _fill(path: Path, *parts: bytes | memoryview) -> None:
    opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        for part in parts:
            view = memoryview(part)
            while view:  # Linux takes 2 GiB at a time, and a disk that is nearly full less
                view = view[os.write(opened, view) :]
    finally:
        os.close(opened)
