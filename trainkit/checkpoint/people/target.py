"""Where an export goes: nothing there is half-written, and nothing that was there is touched."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trainkit.errors import UsageError
from trainkit.storage import commit, files
from trainkit.storage.store import told


def is_url(target: str) -> bool:
    return "://" in target and not target.startswith("file://")


def refuse_existing(target: str) -> None:
    """Raises UsageError where something is there already."""
    there = (files.head(target) or files.list(target)) if is_url(target) else os.path.lexists(target)
    if there:
        raise UsageError(f"{target} exists already, and is not touched. Choose another name, or delete it first")


@contextmanager
def committed_folder(target: Path) -> Iterator[Path]:
    """Yield an empty folder beside `target`, which becomes it when the block ends well, and vanishes else.

    Raises UsageError where something is there by then, StorageError from the file system.
    """
    scratch = target.with_name(f".{target.name[:48]}.{os.getpid()}.{secrets.token_hex(4)}.part")
    try:
        with told(str(target), "write it"):
            scratch.mkdir(parents=True)
            yield scratch
            for path in [*scratch.rglob("*"), scratch]:
                commit.sync(path)
            refuse_existing(str(target))
            scratch.rename(target)  # onto a folder with something in it, it fails
            commit.sync(target.parent)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
