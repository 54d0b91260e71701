"""`trainkit checkpoint verify`: every byte is read, and compared with what was written."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from trainkit.checkpoint import crc, image, own
from trainkit.checkpoint.manifest import File, Manifest
from trainkit.checkpoint.people.place import Attempt
from trainkit.checkpoint.people.words import some
from trainkit.checkpoint.read import Reader
from trainkit.errors import CheckpointError, StorageError

THREADS = max(2, min(16, os.cpu_count() or 1))
_AT_ONCE = 16 * crc.BLOCK
"""Bytes that each thread reads at a time."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found. `whole`: all of it is here, and is what was written."""

    damages: tuple[str, ...]
    elsewhere: tuple[str, ...]
    files: int
    bytes: int
    seconds: float

    @property
    def whole(self) -> bool:
        return not self.damages and not self.elsewhere


class _Part(NamedTuple):
    """Blocks [begin, end) of a file: their checksums as they are now, or why they could not be read."""

    file: File
    begin: int
    sums: tuple[int, ...]
    problem: str | None = None


def verify(one: Attempt, *, tell: Callable[[int], None] = lambda done: None) -> Verdict:
    """Read all files of an attempt that are here. `tell` hears how many bytes were read so far.

    Raises CheckpointError for an attempt without a manifest: nothing says what its bytes should be.
    """
    whole = one.manifest
    if whole is None:
        raise CheckpointError(f"{one.name} is {one.state}{f': {one.problem}' if one.problem else ''}")
    began = time.monotonic()
    damages: list[str] = []
    good: list[File] = []
    for file in whole.files:
        here = one.found.sizes.get(file.name)
        if here is None:
            if not file.is_copy and len(whole.hosts) == 1:
                damages.append(f"{file.name} is gone")
        elif here != file.size:
            damages.append(f"{file.name} ends at byte {here}, and {file.size} were written")
        else:
            good.append(file)
    sums: dict[str, list[int]] = {file.name: [] for file in good}
    done = 0
    with ThreadPoolExecutor(THREADS, thread_name_prefix="verify") as pool:
        for part in pool.map(lambda what: _read(one, *what), _parts(good)):
            damages += _compare(whole, part)
            sums[part.file.name] += part.sums
            done += sum(crc.length(part.begin + at, part.file.size) for at in range(len(part.sums)))
            tell(done)
    damaged = {damage.partition(" ")[0].rstrip(":") for damage in damages}
    for file in good:
        if file.name not in damaged:
            damages += _inside(one, whole, file, sums[file.name])
    if one.found.directory != whole.directory:
        damages.append(f"its manifest is that of {whole.directory}")
    elsewhere = tuple(file.name for file in one.elsewhere) if len(whole.hosts) > 1 else ()
    return Verdict(tuple(damages), elsewhere, len(good), done, time.monotonic() - began)


def _parts(files: list[File]) -> Iterator[tuple[File, int, int]]:
    step = _AT_ONCE // crc.BLOCK
    for file in files:
        blocks = crc.blocks(file.size)
        for begin in range(0, blocks, step):
            yield file, begin, min(begin + step, blocks)


def _read(one: Attempt, file: File, begin: int, end: int) -> _Part:
    start = begin * crc.BLOCK
    content = np.empty(min(end * crc.BLOCK, file.size) - start, dtype=np.uint8).data
    try:
        one.tier.read_into(one.found.directory, file.name, start, content)
    except StorageError as error:
        return _Part(file, begin, (), str(error))
    sums = (crc.of_block(content[at : at + crc.BLOCK]) for at in range(0, len(content), crc.BLOCK))
    return _Part(file, begin, tuple(sums))


def _compare(whole: Manifest, part: _Part) -> Iterator[str]:
    """What is wrong with it: neighbouring blocks together, and the tensors that have bytes there."""
    name = part.file.name
    if part.problem:
        yield f"{name} cannot be read from byte {part.begin * crc.BLOCK} on: {part.problem}"
        return
    bad = [part.begin + at for at, found in enumerate(part.sums) if found != part.file.blocks[part.begin + at]]
    while bad:
        length = next((at for at in range(1, len(bad)) if bad[at] != bad[0] + at), len(bad))
        start, end = bad[0] * crc.BLOCK, min((bad[0] + length) * crc.BLOCK, part.file.size)
        hit = some(_hit(whole, part.file, start, end))
        yield f"{name}: bytes {start} to {end - 1} are not what was written" + (f" ({hit})" if hit else "")
        bad = bad[length:]


def _hit(whole: Manifest, file: File, start: int, end: int) -> list[str]:
    """What lies there."""
    if file.name.endswith(".state"):
        return []
    header = ["its header"] if start < file.start else []
    slots = _image(whole, file).slots
    shift = file.start - (slots[0].start if slots else 0)
    return header + [slot.name for slot in slots if slot.start + shift < end and slot.start + slot.size + shift > start]


def _inside(one: Attempt, whole: Manifest, file: File, sums: list[int]) -> Iterator[str]:
    """Whether a file whose blocks are right is right as a whole, and what the manifest says that it is."""
    if crc.joined(sums, file.size) != file.crc32:
        yield f"{file.name}: its blocks are what was written, and its whole is not: the manifest contradicts itself"
        return
    try:
        if file.name.endswith(".state"):
            content = Reader(whole, [one.tier], [one.present]).state(_rank(file))
            for name, state in own.parse(content).items():
                _decodes(name, state)
        else:
            _header_fits(one, whole, file)
    except (CheckpointError, StorageError) as error:
        yield f"{file.name}: {error}"


def _decodes(name: str, state: memoryview) -> None:
    try:
        own.decode(state, described=True)
    except CheckpointError as error:
        raise CheckpointError(f"the state of {name} {error}") from None


def _header_fits(one: Attempt, whole: Manifest, file: File) -> None:
    """The file's own header, for those who read it without the manifest, says the same."""
    content = bytearray(file.start)
    one.tier.read_into(one.found.directory, file.name, 0, memoryview(content))
    expected: Any = json.loads(_image(whole, file).header[8:])
    try:
        found: Any = json.loads(content[8:])
    except (ValueError, RecursionError):
        found = None
    if found != expected or int.from_bytes(content[:8], "little") != file.start - 8:
        raise CheckpointError("its header says other things of its tensors than the manifest")


def _image(whole: Manifest, file: File) -> image.Image:
    return image.of(whole.plan, _rank(file), copies=file.is_copy)


def _rank(file: File) -> int:
    return int(file.name[1:].partition(".")[0])
