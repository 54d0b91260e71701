"""MANIFEST.json: everything that makes up one checkpoint, and the proof that it was finished.

It is written when every file it names is on the disk of its host, or in the bucket. So a directory without one is
no checkpoint; and one whose files differ from it, by a byte or by a generation, is not the checkpoint it describes.

    {"format": "trainkit-checkpoint", "version": 1, "step": …, "attempt": …, …}      one line of JSON
    sha256:<of that line, and its newline>
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import math
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from trainkit.checkpoint import boxes, crc, image
from trainkit.checkpoint.boxes import Box, Shape
from trainkit.checkpoint.plan import DTYPES, Layout, Piece, Plan, Tensor
from trainkit.errors import CheckpointError

FILE = "MANIFEST.json"
FORMAT = "trainkit-checkpoint"
VERSION = 1
MOST_BYTES = 1 << 30
"""A manifest larger than this is none: 5 TB in a thousand files need 30 MB."""
_NAME = re.compile(r"r(\d{5,6})(\.replica\.safetensors|\.safetensors|\.state)")
_ATTEMPT = re.compile(r"[0-9a-f]{24}")
_DIRECTORY = re.compile(r"step-(\d{9,18})\.([0-9a-f]{24})")
_MOST_RANKS = 1 << 20


@dataclass(frozen=True, slots=True)
class File:
    """One file: its size in bytes, the CRC-32 of it and of each of its blocks, and where its data begins."""

    name: str
    size: int
    crc32: int
    blocks: tuple[int, ...]
    start: int = 0

    @property
    def is_copy(self) -> bool:
        return self.name.endswith(".replica.safetensors")

    def document(self) -> dict[str, Any]:
        """As it stands in a manifest."""
        packed = struct.pack(f"<{len(self.blocks)}I", *self.blocks)
        return {
            "name": self.name, "size": self.size, "start": self.start, "crc32": f"{self.crc32:08x}",
            "blocks": base64.b64encode(packed).decode(),
        }  # fmt: skip

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> File:
        """Raises CheckpointError for anything else than `document` gives."""
        with _told("is no file of a checkpoint"):
            return _file(document)


@dataclass(frozen=True)
class Manifest:
    """One checkpoint. `host_of[r]` is the index in `hosts` of rank r's host; `at` is seconds since 1970."""

    step: int
    attempt: str
    job: str
    at: float
    hosts: tuple[str, ...]
    host_of: tuple[int, ...]
    plan: Plan
    files: tuple[File, ...]
    metrics: Mapping[str, float]
    alike: tuple[str, ...] = ()
    """What all ranks had the same state of, so that any number of ranks can go on with it."""

    @cached_property
    def by_name(self) -> Mapping[str, Tensor]:
        return {tensor.name: tensor for tensor in self.plan.tensors}

    @property
    def ranks(self) -> int:
        return len(self.host_of)

    @property
    def directory(self) -> str:
        return directory(self.step, self.attempt)

    @property
    def needed(self) -> tuple[File, ...]:
        """The files that are the checkpoint; the others are copies for single hosts."""
        return tuple(file for file in self.files if not file.is_copy)

    @property
    def size(self) -> int:
        """Bytes of the files that are needed."""
        return sum(file.size for file in self.needed)

    def text(self) -> str:
        body = {
            "format": FORMAT, "version": VERSION, "step": self.step, "attempt": self.attempt, "job": self.job,
            "at": self.at, "hosts": self.hosts, "host_of": self.host_of, "metrics": dict(self.metrics),
            "alike": self.alike, "files": [file.document() for file in self.files], **self.plan.document,
        }  # fmt: skip
        line = json.dumps(body, separators=(",", ":"), allow_nan=False) + "\n"
        return f"{line}sha256:{hashlib.sha256(line.encode()).hexdigest()}\n"


def directory(step: int, attempt: str) -> str:
    """The name of the directory of one attempt at this step: sorted by name, they are sorted by step."""
    return f"step-{step:09d}.{attempt}"


def step_of(name: str) -> int | None:
    """The step of the attempt in a directory of this name; None for any other directory."""
    match = _DIRECTORY.fullmatch(name)
    return int(match[1]) if match else None


def parse(text: bytes | str) -> Manifest:
    """Raises CheckpointError, without the place: it is the caller's to say, for anything but a whole manifest."""
    with _told("is no manifest"):
        return _parse(text)


def plan_of(document: Mapping[str, Any], *, ranks: int) -> Plan:
    """The plan that Plan.document describes. Raises CheckpointError for anything else."""
    with _told("is no plan"):
        return _plan(document, ranks=ranks)


@contextmanager
def _told(what: str) -> Iterator[None]:
    try:
        yield
    except _Nonsense as error:
        raise CheckpointError(f"{what}: {error}") from None
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError, OverflowError) as error:
        raise CheckpointError(f"{what}: {type(error).__name__}: {error}") from None


class _Nonsense(Exception):
    pass


def _parse(text: bytes | str) -> Manifest:
    raw = text.encode() if isinstance(text, str) else text
    line, newline, seal = raw.partition(b"\n")
    if seal != b"sha256:" + hashlib.sha256(line + newline).hexdigest().encode() + b"\n":
        raise _Nonsense("its last line is not the checksum of what is before it; it was cut off, or changed")
    body = json.loads(line)
    if body["format"] != FORMAT:
        raise _Nonsense(f"its format is {body['format']!r}")
    if body["version"] != VERSION:
        raise _Nonsense(f"its version is {body['version']!r}, and this trainkit reads {VERSION}; install a newer one")
    hosts = tuple(_text(host) for host in body["hosts"])
    host_of = tuple(_whole(host, below=len(hosts)) for host in body["host_of"])
    if not 0 < len(host_of) <= _MOST_RANKS:
        raise _Nonsense(f"it was written by {len(host_of)} ranks")
    if not _ATTEMPT.fullmatch(body["attempt"]):
        raise _Nonsense(f"its attempt is {body['attempt']!r}")
    manifest = Manifest(
        step=_whole(body["step"], below=10**18), attempt=body["attempt"], job=_text(body["job"]),
        at=_number(body["at"]), hosts=hosts, host_of=host_of, plan=_plan(body, ranks=len(host_of)),
        files=tuple(_file(entry) for entry in body["files"]),
        metrics={_text(name): _number(value) for name, value in body["metrics"].items()},
        alike=tuple(_text(name) for name in body["alike"]),
    )  # fmt: skip
    _check_files(manifest)
    return manifest


def _plan(body: Mapping[str, Any], *, ranks: int) -> Plan:
    layouts = tuple(_layout(entry, ranks=ranks) for entry in body["layouts"])
    tensors = tuple(Tensor(_text(name), dtype, _whole(at, below=len(layouts))) for name, dtype, at in body["tensors"])
    if strange := {tensor.dtype for tensor in tensors} - set(DTYPES):
        raise _Nonsense(f"it has tensors of unknown dtypes: {', '.join(sorted(map(repr, strange)))}")
    if len({tensor.name for tensor in tensors}) != len(tensors):
        raise _Nonsense("two of its tensors have the same name")
    return Plan(tensors, layouts)


def _layout(entry: Mapping[str, Any], *, ranks: int) -> Layout:
    shape = _shape(entry["shape"])
    layout = Layout(shape, _pieces(entry["pieces"], ranks=ranks), _pieces(entry.get("copies", ()), ranks=ranks))
    problem = boxes.problem(shape, [piece.box for piece in layout.pieces])
    problem = problem or next(filter(None, (boxes.outside(shape, piece.box) for piece in layout.copies)), None)
    if problem:
        raise _Nonsense(problem)
    return layout


def _pieces(entries: Sequence[Any], *, ranks: int) -> tuple[Piece, ...]:
    return tuple(
        Piece(Box(_shape(offsets), _shape(lengths)), _whole(rank, below=ranks)) for offsets, lengths, rank in entries
    )


def _check_files(manifest: Manifest) -> None:
    """The files are those that the plan says, each as long as its pieces."""
    files = {file.name: file for file in manifest.files}
    if len(files) != len(manifest.files):
        raise _Nonsense("two of its files have the same name")
    expected = {image.state_name(rank): None for rank in range(manifest.ranks)} | _sizes(manifest.plan)
    if missing := expected.keys() - files.keys():
        raise _Nonsense(f"it lacks {', '.join(sorted(missing)[:3])}")
    for name, file in files.items():
        if name not in expected:
            raise _Nonsense(f"it names {name!r}, which has nothing to hold")
        if expected[name] is not None and file.size - file.start != expected[name]:
            raise _Nonsense(f"{name} has {file.size - file.start} bytes of data, and its pieces {expected[name]}")


def _sizes(plan: Plan) -> dict[str, int]:
    """Bytes of data in each tensor file that there must be."""
    each: list[list[tuple[str, int]]] = [
        [(image.file_name(piece.rank, copies=copies), math.prod(piece.box.lengths))
         for copies, pieces in ((False, layout.pieces), (True, layout.copies)) for piece in pieces]
        for layout in plan.layouts
    ]  # fmt: skip
    itemsizes = [0] * len(plan.layouts)
    for tensor in plan.tensors:
        itemsizes[tensor.layout] += DTYPES[tensor.dtype]
    sizes: dict[str, int] = {}
    for itemsize, pieces in zip(itemsizes, each, strict=True):
        for name, volume in pieces:
            sizes[name] = sizes.get(name, 0) + volume * itemsize
    return sizes


def _file(entry: Mapping[str, Any]) -> File:
    name, size = _text(entry["name"]), _whole(entry["size"], below=1 << 50)
    if not _NAME.fullmatch(name):
        raise _Nonsense(f"{name!r} is no name of a checkpoint's file")
    try:
        packed = base64.b64decode(entry["blocks"], validate=True)
    except binascii.Error:
        raise _Nonsense(f"the checksums of {name} are no base64") from None
    if len(packed) != 4 * crc.blocks(size):
        raise _Nonsense(f"{name} has {size} bytes, and {len(packed) / 4:g} checksums of blocks")
    sums = struct.unpack(f"<{len(packed) // 4}I", packed)
    return File(name, size, int(entry["crc32"], 16), sums, _whole(entry["start"], below=size + 1))


def _whole(value: object, *, below: int) -> int:
    if type(value) is not int or not 0 <= value < below:
        raise _Nonsense(f"{value!r} is no whole number from 0 to {below - 1}")
    return value


def _number(value: object) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):  # type: ignore[arg-type]
        raise _Nonsense(f"{value!r} is no number")
    return float(value)  # type: ignore[arg-type]


def _shape(value: object) -> Shape:
    if not isinstance(value, list):
        raise _Nonsense(f"{value!r} is no shape")
    return tuple(_whole(length, below=1 << 60) for length in value)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise _Nonsense(f"{value!r} is no text")
    return value
