"""The memory that a rank copies its state into, and its writer writes files from: no name, no limit of /dev/shm.

A page that is used for the first time costs the kernel ten times what the copy costs, and would make the first save
the slowest by far. So all pages are made beforehand, while the training goes on.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
import tempfile
import threading

_POPULATE_WRITE = 23  # Linux 5.14; on older ones the first save makes its pages itself
_AT_ONCE = 64 << 20  # bytes: how long an interpreter that ends has to wait
_PAGE = mmap.PAGESIZE


class Arena:
    """`size` bytes of shared memory. The descriptor is what another process needs to have them too."""

    def __init__(self, size: int) -> None:
        """Raises OSError (ENOMEM, ENOSPC) where there is not so much."""
        self.size = max(_PAGE, -(-size // _PAGE) * _PAGE)
        self.descriptor = _anonymous()
        try:
            os.ftruncate(self.descriptor, self.size)
            self._map = mmap.mmap(self.descriptor, self.size)
        except BaseException:
            os.close(self.descriptor)
            raise
        self._leaving = threading.Event()
        self._toucher = threading.Thread(target=self._touch, name="trainkit.arena", daemon=True)

    @property
    def memory(self) -> memoryview:
        return memoryview(self._map)

    def touch(self) -> None:
        """Make the pages, in a thread beside; once, however often it is laid out."""
        if self._toucher.ident is None:
            self._toucher.start()

    def wait_touched(self) -> None:
        """Until all pages are made, if that has begun: two who make the same pages are slower than one."""
        if self._toucher.ident is not None:
            self._toucher.join()

    def close(self) -> None:
        """Let go. The memory goes when the writer lets go too; views that are left keep the mapping."""
        self._leaving.set()
        self.wait_touched()
        os.close(self.descriptor)

    def _touch(self) -> None:
        if sys.platform != "linux":
            return
        libc = ctypes.CDLL(None)
        start = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        for offset in range(0, self.size, _AT_ONCE):
            if self._leaving.is_set():
                return
            length = min(_AT_ONCE, self.size - offset)
            libc.madvise(ctypes.c_void_p(start + offset), ctypes.c_size_t(length), _POPULATE_WRITE)


def mapped(descriptor: int) -> memoryview:
    """The writer's side: all of it, to be read. Closes the descriptor."""
    try:
        return memoryview(mmap.mmap(descriptor, 0, prot=mmap.PROT_READ))
    finally:
        os.close(descriptor)


def _anonymous() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("trainkit.checkpoint", os.MFD_CLOEXEC)
    with tempfile.TemporaryFile() as file:  # macOS
        return os.dup(file.fileno())
