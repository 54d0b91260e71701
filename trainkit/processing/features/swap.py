"""New rows in place of old ones: after SIGKILL at any moment the output is the old one or the new one, whole.

    .new.part/  is being written      ─ killed here: the old output is as it was, and the next run takes this away
    .new/       whole, on the disk    ─ killed from here on: `settle` goes on, in the next run or for whoever reads
                the old MANIFEST.json into .new, each folder in its place, what the old one had besides away,
                the new MANIFEST.json in its place

An output with a MANIFEST.json is whole. Between two moves it has none.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trainkit.contract.features import manifest
from trainkit.errors import DataError
from trainkit.storage import commit

WRITING, READY, OLD = ".new.part", ".new", ".old.json"


@contextmanager
def replacing(output: Path) -> Iterator[Path]:
    """Yield a folder; what the block put there, one MANIFEST.json among it, takes the old ones' places at its end.

    One process at a time may do this to an output.
    """
    settle(output)
    scratch = output / WRITING
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        yield scratch
        for folder in (scratch, *(one for one in scratch.rglob("*") if one.is_dir())):
            commit.sync(folder)
        scratch.rename(output / READY)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    commit.sync(output)
    settle(output)


def settle(output: Path) -> bool:
    """Go on with what a killed run had decided. Returns whether there was anything."""
    ready = output / READY
    if not ready.is_dir():
        return False
    old = ready / OLD
    for new in ready.glob("MANIFEST*.json"):  # none where all is in its place
        current = output / new.name
        if current.exists():
            current.rename(old)
        for one in sorted(one for one in ready.iterdir() if one not in (new, old)):
            _away(output / one.name)
            one.rename(output / one.name)
        for name in _had(old) - _had(new):
            _away(output / name)
        commit.sync(output)
        new.rename(current)
        commit.sync(output)
    shutil.rmtree(ready)
    return True


def _had(path: Path) -> set[str]:
    """The folders that a manifest speaks of."""
    try:
        made = manifest(path) if path.exists() else {}
    except DataError:  # nobody knows what it was
        return set()
    return {*map(str, made.get("splits", ())), *(["report"] if made.get("report") else [])}


def _away(folder: Path) -> None:
    if folder.is_dir():
        shutil.rmtree(folder)
    else:
        folder.unlink(missing_ok=True)
