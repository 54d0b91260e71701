"""The service's agent that keeps a host's checkpoints and their S3 prefix alike, while the job runs.

    at the start            all that is there ─▶ every host
    a new or changed file   <file>.sagemaker-uploading beside it ─▶ copied ─▶ <file>.sagemaker-uploaded beside it
    *.sagemaker-ignore      left alone, until it is renamed
    a file that was deleted is deleted there, too

All hosts share the prefix: two of them that write one name overwrite each other's, without a word. What another host
or anybody else puts there meanwhile does not come.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

from trainkit.contract.paths import Paths
from trainkit.contract.processing import placed
from trainkit.local import objects
from trainkit.local.isolation import Host
from trainkit.local.meanwhile import Meanwhile
from trainkit.local.objects import Place

IGNORED, UPLOADING, UPLOADED = ".sagemaker-ignore", ".sagemaker-uploading", ".sagemaker-uploaded"


class _Stamp(NamedTuple):
    changed: int  # nanoseconds
    size: int


class Agent:
    """`download`, then `begin` when the hosts run, then `end` when they have ended."""

    def __init__(self, local_path: str, there: Place, hosts: Sequence[Host]) -> None:
        self._there = there
        self._folders = {host.name: placed(local_path, Paths(host.root)) for host in hosts}
        self._alike: dict[str, dict[str, _Stamp]] = {host.name: {} for host in hosts}
        self._seen: dict[Path, _Stamp] = {}
        self._meanwhile = Meanwhile(
            (partial(self._pass, host, last=False) for host in self._folders), name="checkpoints"
        )

    def download(self) -> None:
        """All that is there, to every host. Raises OSError, StorageError."""
        first, *others = self._folders.values()
        first.mkdir(parents=True, exist_ok=True)
        if isinstance(self._there, Path):
            if self._there.is_dir():
                shutil.copytree(self._there, first, dirs_exist_ok=True)
        else:
            from trainkit.storage import files

            if files.list(self._there):
                files.download(self._there, first)
        for folder in others:
            shutil.copytree(first, folder)
        for host, folder in self._folders.items():
            self._alike[host] = dict(_files(folder))

    def begin(self) -> None:
        """From now on, beside the hosts."""
        self._meanwhile.begin()

    def end(self, *, lost: Collection[str] = ()) -> None:
        """The hosts have ended: whatever is left, but of the hosts that were `lost`. Raises OSError, StorageError."""
        self.stop()
        for host in [host for host in self._folders if host not in lost]:
            self._pass(host, last=True)

    def stop(self) -> None:
        """Nothing is copied beside the job any more."""
        self._meanwhile.stop()

    def _pass(self, host: str, *, last: bool) -> None:
        folder, alike = self._folders[host], self._alike[host]
        found = dict(_files(folder))
        for name in [name for name in alike if name not in found]:
            self._delete(folder, name)
            del alike[name]
        for name, stamp in found.items():
            path = folder / name
            if alike.get(name) == stamp or not (last or self._seen.get(path) == stamp):
                self._seen[path] = stamp  # one that still grows is left for the next look
                continue
            self._upload(path, name, marked=not last)
            alike[name] = stamp

    def _upload(self, path: Path, name: str, *, marked: bool) -> None:
        uploading = path.with_name(path.name + UPLOADING)
        try:
            if marked:
                uploading.touch()
            objects.put(path, objects.below(self._there, *name.split("/")))
            if marked and path.exists():
                path.with_name(path.name + UPLOADED).touch()
        finally:
            with suppress(OSError):
                uploading.unlink(missing_ok=True)

    def _delete(self, folder: Path, name: str) -> None:
        gone = objects.below(self._there, *name.split("/"))
        if isinstance(gone, Path):
            gone.unlink(missing_ok=True)
            with suppress(OSError):  # S3 has no empty folders
                gone.parent.rmdir()
        else:
            from trainkit.storage import files

            files.delete(gone)
        path = folder / name
        path.with_name(path.name + UPLOADED).unlink(missing_ok=True)


def seed(url: str, into: Path) -> None:
    """What lies at `url` on S3 as the beginning of `into`, which stands for it from then on. Raises StorageError."""
    from trainkit.storage import files

    if not (into.is_dir() and any(into.iterdir())) and files.list(url):
        files.download(url, into)


def _files(folder: Path) -> Iterator[tuple[str, _Stamp]]:
    for root, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = Path(root, name)
            if name.endswith((IGNORED, UPLOADING, UPLOADED)) or not path.is_file():
                continue
            try:
                facts = path.stat()
            except FileNotFoundError:
                continue  # it was deleted meanwhile
            yield path.relative_to(folder).as_posix(), _Stamp(facts.st_mtime_ns, facts.st_size)
