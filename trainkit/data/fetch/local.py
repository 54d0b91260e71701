"""Files: pread into the buffer.

Not mmap: it saves the copy, and kills the process (SIGBUS) where a file shrinks or a FUSE mount loses its server.
"""

from __future__ import annotations

import errno
import os
import threading
from collections import OrderedDict

from trainkit.data.fetch.fetcher import Name, Passing
from trainkit.data.items import Item
from trainkit.errors import StorageError
from trainkit.storage.local import path_of
from trainkit.storage.store import failure, told

_KEPT = 64  # open files; opening costs a round trip on network file systems, and on FastFile mounts
_PASSING = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN)  # what mounts say when their server is unwell


class _Opened:
    """A descriptor that is closed when its last user lets go of it."""

    def __init__(self, item: Item) -> None:
        self.number = os.open(path_of(item.url), os.O_RDONLY | os.O_CLOEXEC)
        self.size = os.fstat(self.number).st_size

    def __del__(self) -> None:
        if hasattr(self, "number"):
            os.close(self.number)


class LocalReader:
    name: Name = "local"

    def __init__(self) -> None:
        self._renew()

    def fill(self, item: Item, start: int, view: memoryview, *, timeout: float) -> int:
        doing = f"read {len(view)} bytes from {start}"
        try:
            with told(item.url, doing):
                opened = self._open(item)
                if opened.size != item.size:
                    raise _changed(item, opened.size)
                filled = 0
                while filled < len(view):  # Linux hands over 2 GiB at a time
                    came = os.preadv(opened.number, [view[filled:]], start + filled)
                    if not came:
                        raise _changed(item, start + filled)
                    filled += came
                return filled
        except StorageError as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno in _PASSING:
                self._forget(item)
                raise Passing(str(error.__cause__)) from error
            raise

    def close(self) -> None:
        with self._lock:
            self._files.clear()

    def _open(self, item: Item) -> _Opened:
        if self._process != os.getpid():
            self._renew()
        with self._lock:
            if found := self._files.get(item.url):
                self._files.move_to_end(item.url)
                return found
        opened = _Opened(item)  # outside the lock: on a mount it takes its time
        with self._lock:
            self._files[item.url] = opened
            if len(self._files) > _KEPT:
                self._files.popitem(last=False)
        return opened

    def _forget(self, item: Item) -> None:
        with self._lock:
            self._files.pop(item.url, None)

    def _renew(self) -> None:
        self._process, self._lock = os.getpid(), threading.Lock()
        self._files: OrderedDict[str, _Opened] = OrderedDict()


def _changed(item: Item, size: int) -> StorageError:
    return failure(
        item.url, "read it", f"it has {size} bytes, and had {item.size} when it was listed",
        "It was replaced or cut off meanwhile: leave data alone while it is trained on, and start again",
    )  # fmt: skip
