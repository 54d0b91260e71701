"""Where checkpoints lie: a local folder, and a URL. Both promise that what stands under its final name is whole.

On SageMaker the platform copies the local folder to S3 while the job runs, file by file, at moments of its choosing.
It leaves files alone that end in IGNORED, and shows by markers beside a file whether it is under way.
"""

from __future__ import annotations

import errno
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from trainkit.checkpoint import crc, manifest
from trainkit.storage import commit, files
from trainkit.storage.store import ObjectExists, told

IGNORED = ".sagemaker-ignore"
UPLOADING, UPLOADED = ".sagemaker-uploading", ".sagemaker-uploaded"
ARRIVED = "arrived.trainkit" + IGNORED
_UPLOADED_AT_ONCE = 64 << 20  # bytes: whole parts of an upload are cut out of it
Sums = tuple[int, ...]
"""The checksums of a file's blocks (crc.BLOCK)."""
SET_ASIDE = "SET-ASIDE.txt"
"""Marks an attempt that is damaged, or that a fresh start left behind: never chosen, never deleted by us."""


@dataclass(frozen=True, slots=True)
class Found:
    """An attempt's directory as a listing shows it: the size in bytes of each file."""

    directory: str
    sizes: Mapping[str, int] = field(default_factory=dict)

    @property
    def committed(self) -> bool:
        return manifest.FILE in self.sizes

    @property
    def aside(self) -> bool:
        return SET_ASIDE in self.sizes

    @property
    def step(self) -> int:
        step = manifest.step_of(self.directory)
        assert step is not None
        return step


class Tier(Protocol):
    """One place. Directories are attempts' names (manifest.directory). All methods raise StorageError."""

    @property
    def name(self) -> str:
        """As people write it: a path or a URL."""

    def put(self, directory: str, name: str, parts: Sequence[memoryview], *, sums: Sums | None = None) -> Sums:
        """Write a file, durable when this returns. Returns its blocks' checksums: `sums`, where they are known."""

    def put_manifest(self, directory: str, text: str) -> None:
        """The commit. Where the same manifest is there already, that was our own first try."""

    def list(self) -> list[Found]: ...

    def names(self, directory: str) -> frozenset[str] | None:
        """The files of one attempt that can be read here; None where all hosts see the same ones."""

    def read_into(self, directory: str, name: str, start: int, buffer: memoryview) -> None:
        """Fill the buffer with the bytes from `start` on."""

    def manifest(self, directory: str) -> bytes:
        """Raises ObjectMissing where there is none."""

    def set_aside(self, directory: str, why: str) -> None: ...

    def copied(self, directory: str) -> bool:
        """Whether all of it is where the platform copies this place to; where it seems to copy nothing, it is."""

    def marked(self, directory: str) -> bool | None:
        """Whether the platform has marked all of its files as copied; None where it has marked none."""

    def arrived(self) -> frozenset[str]:
        """The whole ones that were here when the job first came to this place, and which nobody has to copy."""

    def delete_manifest(self, directory: str) -> bool:
        """The first step of a deletion. Returns False where the directory must not be touched now."""

    def delete(self, directory: str) -> None:
        """The second step: all that is left in it."""

    def drop(self, directory: str, names: Sequence[str]) -> None:
        """Take back files of an attempt that will not be committed."""

    def begun(self) -> frozenset[str]:
        """Attempts of which there is something that `list` does not show: uploads of killed writers."""

    def abandon(self, directory: str) -> None:
        """Free what `begun` means of one attempt."""


@dataclass(frozen=True, slots=True)
class LocalTier:
    root: Path

    @property
    def name(self) -> str:
        return str(self.root)

    def put(self, directory: str, name: str, parts: Sequence[memoryview], *, sums: Sums | None = None) -> Sums:
        path = self.root / directory / name
        with told(str(path), "write it"):
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists():  # what was written once is never written again
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
            with (
                commit.committed(path, scratch=path.with_name(name + IGNORED)) as scratch,
                scratch.open("wb", 0) as out,
            ):
                return _write(out.fileno(), parts, sums)

    def put_manifest(self, directory: str, text: str) -> None:
        path = self.root / directory / manifest.FILE
        with told(str(path), "write it"):
            if not path.parent.is_dir():  # whoever took the directory away did not expect a commit
                raise FileNotFoundError(2, os.strerror(2), str(path.parent))
            with commit.committed(path, scratch=path.with_name(manifest.FILE + IGNORED)) as scratch:
                scratch.write_text(text, encoding="utf-8")
            commit.sync(self.root)  # the directory's own name

    def list(self) -> list[Found]:
        with told(self.name, "list it"):
            try:
                names = [entry.name for entry in os.scandir(self.root) if manifest.step_of(entry.name) is not None]
            except FileNotFoundError:
                return []
            return [Found(name, _sizes(self.root / name)) for name in names]

    def names(self, directory: str) -> frozenset[str] | None:
        with told(self.name, "list it"):
            return frozenset(_sizes(self.root / directory))

    def read_into(self, directory: str, name: str, start: int, buffer: memoryview) -> None:
        path = self.root / directory / name
        with told(str(path), "read it"), path.open("rb", buffering=0) as file:
            file.seek(start)
            done = 0
            while got := file.readinto(buffer[done:]):
                done += got
            if done < len(buffer):
                raise OSError(errno.EIO, f"it ends after {start + done} bytes")

    def manifest(self, directory: str) -> bytes:
        return files.get(self.root / directory / manifest.FILE)

    def set_aside(self, directory: str, why: str) -> None:
        path = self.root / directory / SET_ASIDE
        with told(str(path), "write it"):
            commit.write_whole(path, why)

    def copied(self, directory: str) -> bool:
        if (marked := self.marked(directory)) is not None:
            return marked
        with told(str(self.root / directory), "look at it"):
            # Without a marker it is from before the agent began, and it was copied from the bucket; or it is too new.
            times = [_time(path) for path in self.root.glob("step-*/*") if path.name.endswith((UPLOADING, UPLOADED))]
            return not times or _time(self.root / directory / manifest.FILE) < min(times)

    def marked(self, directory: str) -> bool | None:
        with told(str(self.root / directory), "look at it"):
            names = _sizes(self.root / directory, markers=True).keys()
        if not any(name.endswith((UPLOADING, UPLOADED)) for name in names):
            return None
        return all(name + UPLOADED in names for name in names if not name.endswith((UPLOADING, UPLOADED)))

    def arrived(self) -> frozenset[str]:
        note = self.root / ARRIVED
        with told(str(note), "write it"):
            with suppress(FileNotFoundError):  # of an earlier start on the same disk: the platform leaves it here
                return frozenset(note.read_text(encoding="utf-8").split())
            found = frozenset(one.directory for one in self.list() if one.committed)
            commit.write_whole(note, "\n".join(sorted(found)))
            return found

    def delete_manifest(self, directory: str) -> bool:
        path = self.root / directory
        with told(str(path), "delete it"):
            sizes = _sizes(path, markers=True)
            if any(name.endswith(UPLOADING) and name.replace(UPLOADING, UPLOADED) not in sizes for name in sizes):
                return False  # the platform's agent fails where a file vanishes under it
            (path / manifest.FILE).unlink(missing_ok=True)
            with suppress(FileNotFoundError):
                commit.sync(path)
            return True

    def delete(self, directory: str) -> None:
        path = self.root / directory
        with told(str(path), "delete it"), suppress(FileNotFoundError):
            shutil.rmtree(path)

    def drop(self, directory: str, names: Sequence[str]) -> None:
        path = self.root / directory
        with told(str(path), "delete it"):
            for name in names:
                (path / name).unlink(missing_ok=True)
            with suppress(OSError):
                path.rmdir()  # unless others have files there

    def begun(self) -> frozenset[str]:
        return frozenset()

    def abandon(self, directory: str) -> None:
        pass  # a file that was begun is deleted with its directory


@dataclass(frozen=True, slots=True)
class UrlTier:
    """Below `url`, through trainkit.storage: S3 by boto3, the rest by fsspec."""

    url: str

    @property
    def name(self) -> str:
        return self.url

    def put(self, directory: str, name: str, parts: Sequence[memoryview], *, sums: Sums | None = None) -> Sums:
        taken: list[int] = []
        chunks = parts if sums else _summed(parts, taken, at_once=_UPLOADED_AT_ONCE)
        files.put_stream(self._of(directory, name), chunks, replace=False)
        return sums or tuple(taken)

    def put_manifest(self, directory: str, text: str) -> None:
        url = self._of(directory, manifest.FILE)
        try:
            files.put_new(url, text.encode())
        except ObjectExists:
            if files.get(url) != text.encode():
                raise

    def list(self) -> list[Found]:
        found: dict[str, dict[str, int]] = {}
        prefix = self.url.rstrip("/") + "/"
        for entry in files.list(prefix):
            directory, slash, name = entry.url[len(prefix) :].partition("/")
            if slash and "/" not in name and manifest.step_of(directory) is not None:
                found.setdefault(directory, {})[name] = entry.size
        return [Found(directory, sizes) for directory, sizes in found.items()]

    def names(self, directory: str) -> frozenset[str] | None:
        return None

    def read_into(self, directory: str, name: str, start: int, buffer: memoryview) -> None:
        buffer[:] = files.get_range(self._of(directory, name), start, len(buffer))

    def manifest(self, directory: str) -> bytes:
        return files.get(self._of(directory, manifest.FILE))

    def set_aside(self, directory: str, why: str) -> None:
        with suppress(ObjectExists):
            files.put_new(self._of(directory, SET_ASIDE), why.encode())

    def copied(self, directory: str) -> bool:
        return True

    def marked(self, directory: str) -> bool | None:
        return True

    def arrived(self) -> frozenset[str]:
        return frozenset()

    def delete_manifest(self, directory: str) -> bool:
        files.delete(self._of(directory, manifest.FILE))
        return True

    def delete(self, directory: str) -> None:
        for entry in files.list(self._of(directory, "")):
            files.delete(entry.url)

    def drop(self, directory: str, names: Sequence[str]) -> None:
        for name in names:
            files.delete(self._of(directory, name))

    def begun(self) -> frozenset[str]:
        prefix = self.url.rstrip("/") + "/"
        names = {url[len(prefix) :].partition("/")[0] for url in files.unfinished(prefix)}
        return frozenset(name for name in names if manifest.step_of(name) is not None)

    def abandon(self, directory: str) -> None:
        files.abandon(self._of(directory, ""))

    def _of(self, directory: str, name: str) -> str:
        return f"{self.url.rstrip('/')}/{directory}/{name}"


def of(place: str) -> Tier:
    """The tier for a path or URL."""
    if place.startswith("file://"):
        return LocalTier(Path(unquote(urlsplit(place).path)))
    return UrlTier(place) if "://" in place else LocalTier(Path(place))


def _sizes(path: Path, *, markers: bool = False) -> dict[str, int]:
    """The files of a directory. They may vanish between two looks."""
    sizes = {}
    with suppress(FileNotFoundError, NotADirectoryError):
        for entry in os.scandir(path):
            if markers or not entry.name.endswith((IGNORED, UPLOADING, UPLOADED)):
                with suppress(FileNotFoundError):
                    sizes[entry.name] = entry.stat().st_size
    return sizes


def _time(path: Path) -> float:
    """When it was written; of what has vanished meanwhile, never."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return math.inf


def _write(descriptor: int, parts: Sequence[memoryview], sums: Sums | None) -> Sums:
    """Write all parts as one file. Returns the blocks' checksums, taken while bytes are in the processor's cache."""
    taken: list[int] = []
    for chunk in parts if sums else _summed(parts, taken):
        rest = chunk
        while rest:
            rest = rest[os.write(descriptor, rest) :]
    return sums or tuple(taken)


def _summed(parts: Sequence[memoryview], sums: list[int], *, at_once: int = crc.BLOCK) -> Iterator[memoryview]:
    """Chunks of the parts in turn; `sums` gets the checksums of the blocks of the whole."""
    total, room = 0, crc.BLOCK
    for part in parts:
        rest = part
        while rest:
            chunk, rest = rest[:at_once], rest[at_once:]
            unread = chunk
            while unread:
                block, unread = unread[:room], unread[room:]
                total = crc.of_block(block, total)
                room -= len(block)
                if not room:
                    sums.append(total)
                    total, room = 0, crc.BLOCK
            yield chunk
    if room < crc.BLOCK:
        sums.append(total)
