"""A model artifact, model.tar.gz or the directory that becomes one, as far as serving it depends on it."""

from __future__ import annotations

import hashlib
import io
import json
import struct
import tarfile
import time
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from trainkit.errors import UsageError

MANIFEST = "trainkit.json"
_PATIENCE = 2.0
"""Seconds for one artifact: what a larger one holds beyond is left unread, and said."""
_SMALL = 1 << 20  # bytes of a file that are kept
_HEADER = 16 << 20  # bytes of a safetensors file that are read: more than any header of a real one


@dataclass(frozen=True, slots=True)
class Item:
    """One file of it. `kind` is file, link or other; `head` its beginning; `inner` a zip's names."""

    name: str
    size: int
    kind: str = "file"
    head: bytes = b""
    sha256: str = ""
    inner: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Artifact:
    items: tuple[Item, ...]
    is_archive: bool
    whole: bool
    """Whether all of it was read in time."""
    damage: str = ""

    def item(self, name: str) -> Item | None:
        return next((item for item in self.items if item.name == name), None)

    @property
    def files(self) -> list[Item]:
        return [item for item in self.items if item.kind == "file"]


def read(place: Path) -> Artifact:
    """Raises UsageError where it cannot be read at all."""
    deadline = time.monotonic() + _PATIENCE
    items: list[Item] = []
    whole, damage = True, ""
    try:
        for item in _of_folder(place, deadline) if place.is_dir() else _of_archive(place, deadline):
            items.append(item)
            if time.monotonic() > deadline:
                whole = False
                break
    except (tarfile.TarError, EOFError, zlib.error) as error:
        damage = str(error) or type(error).__name__
    except OSError as error:
        if error.errno is None:  # gzip's own
            damage = str(error)
        else:
            raise UsageError(f"cannot read {error.filename or place}: {error.strerror}") from None
    return Artifact(tuple(items), not place.is_dir(), whole, damage)


def _of_folder(place: Path, deadline: float) -> Iterator[Item]:
    for path in sorted(place.rglob("*")):
        name = path.relative_to(place).as_posix()
        if path.is_symlink():
            yield Item(name, 0, "link")
        elif path.is_file():
            with path.open("rb") as content:
                head = content.read(_HEADER if name.endswith(".safetensors") else _SMALL)
                inner = _zip_names(content) if zipfile.is_zipfile(content) else ()
                content.seek(0)
                digest = hashlib.sha256()
                while data := content.read(1 << 20):
                    digest.update(data)
                    if time.monotonic() > deadline:
                        break
                sha256 = digest.hexdigest() if not data else ""
            yield Item(name, path.stat().st_size, "file", head, sha256, inner)


def _of_archive(place: Path, deadline: float) -> Iterator[Item]:
    with tarfile.open(place, "r:*") as tar:
        for member in tar:
            if member.isdir():
                continue
            if not member.isreg():
                yield Item(member.name, 0, "link" if member.issym() or member.islnk() else "other")
                continue
            content = tar.extractfile(member)
            assert content
            is_model = member.name.endswith((".pt", ".pth", ".bin", ".ckpt"))
            head = content.read(_HEADER if member.name.endswith(".safetensors") or is_model else _SMALL)
            inner = _zip_names(io.BytesIO(head)) if is_model and len(head) == member.size else ()
            digest = hashlib.sha256(head)
            while data := content.read(1 << 20):
                digest.update(data)
                if time.monotonic() > deadline:
                    break
            name = member.name.removeprefix("./")
            yield Item(name, member.size, "file", head, digest.hexdigest() if not data else "", inner)


def _zip_names(content: io.BytesIO | io.BufferedReader) -> tuple[str, ...]:
    try:
        return tuple(zipfile.ZipFile(content).namelist())
    except (zipfile.BadZipFile, OSError, ValueError):
        return ()


def safetensors_problem(item: Item) -> str:
    """What is wrong with the header of a safetensors file; "" where it is sane."""
    if len(item.head) < 8:
        return "is shorter than its own header"
    (length,) = struct.unpack("<Q", item.head[:8])
    if length > item.size - 8:
        return f"says that its header has {length} bytes, and the whole file has {item.size}"
    if length > len(item.head) - 8:
        return ""  # too long to have been kept
    try:
        header = json.loads(item.head[8 : 8 + length])
        ends = [entry["data_offsets"] for name, entry in header.items() if name != "__metadata__"]
        last = max((int(end) for _, end in ends), default=0)
        sane = all(0 <= int(begin) <= int(end) for begin, end in ends)
    except (ValueError, TypeError, KeyError, AttributeError, UnicodeDecodeError) as error:
        return f"has a header that is none ({type(error).__name__})"
    if not sane or 8 + length + last != item.size:
        return f"describes {8 + length + last} bytes, and has {item.size}"
    return ""
