"""What the service takes from the hosts when they have ended: one model, one output, merged from all of them."""

from __future__ import annotations

import filecmp
import os
import shutil
import tarfile
from collections.abc import Sequence
from pathlib import Path

from trainkit.storage.commit import committed


def collect(folders: Sequence[Path], *, into: Path, compress: bool) -> tuple[Path | None, list[str]]:
    """Merge `folders` (one per host) into `<into>.tar.gz`, or into the directory `into` without `compress`.

    Returns what was written, None where there was nothing, and the paths that two hosts wrote differently: the first
    host's stands.
    """
    chosen: dict[str, Path] = {}
    clashes = []
    for folder in folders:
        for path in _files(folder):
            name = path.relative_to(folder).as_posix()
            known = chosen.setdefault(name, path)
            if known is not path and not filecmp.cmp(known, path, shallow=False):
                clashes.append(name)
    if not chosen:
        return None, []
    if not compress:
        for name, path in chosen.items():
            (into / name).parent.mkdir(parents=True, exist_ok=True)
            with committed(into / name) as scratch:
                shutil.copyfile(path, scratch)
        return into, clashes
    archive = into.with_name(into.name + ".tar.gz")
    with committed(archive) as scratch, tarfile.open(scratch, "w:gz", dereference=True) as tar:
        for name, path in sorted(chosen.items()):
            tar.add(path, arcname=name)
    return archive, clashes


def _files(folder: Path) -> list[Path]:
    found = []
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not _is_scratch(name))
        found += [path for name in sorted(names) if not _is_scratch(name) and (path := Path(root, name)).is_file()]
    return found


def _is_scratch(name: str) -> bool:
    """What a writer that was killed left half-written."""
    return name.startswith(".") and name.endswith(".part")
