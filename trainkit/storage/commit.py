"""A local file appears whole under its name, or not at all. Standard library only: the supervisor uses this too.

    .model.4711.9f3a01c2.part ─ written ─ fsync ─ rename ─▶ model ─ fsync of the folder
                                                 └ link  ─▶ model    where it must not exist yet

After SIGKILL between two of these steps a scratch file remains, recognisable by its name, and never a torn `model`.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_SCRATCH = re.compile(r"\..+\.\d+\.[0-9a-f]{8}\.part")


@contextmanager
def committed(path: Path, *, replace: bool = True, scratch: Path | None = None) -> Iterator[Path]:
    """Yield a scratch path beside `path`; what the block wrote there becomes `path` when it ends well.

    `scratch`: another name for it, in the same folder, that nobody else uses.
    Raises OSError from the file system, FileExistsError where `path` exists and may not be replaced (also when
    another process was faster by a moment); `path` is then what it was before.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:  # it says that `path` may not be created, and not that it is there
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path.parent)) from error
    # A process id is not enough: threads write too, and two hosts on a shared file system can have the same one.
    scratch = scratch or path.with_name(f".{path.name[:48]}.{os.getpid()}.{secrets.token_hex(4)}.part")
    try:
        yield scratch
        sync(scratch)
        if replace:
            scratch.replace(path)
        else:
            path.hardlink_to(scratch)  # unlike rename, it fails where something is there
        sync(path.parent)
    finally:
        scratch.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes | str) -> None:
    """Write a file whole or not at all, in place of what was there; text as UTF-8. Raises OSError."""
    with committed(path) as scratch:
        scratch.write_bytes(content.encode() if isinstance(content, str) else content)


def is_scratch(name: str) -> bool:
    """Whether a file of this name is unfinished work of `committed`."""
    return _SCRATCH.fullmatch(name) is not None


def sync(path: Path) -> None:
    """Make a file, or a folder's entries, sure to be on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
