"""A model that was saved elsewhere, as a committed checkpoint: a training starts from it as from one of its own.

It holds a model and nothing else, from one rank: `restore(without=["optimizer", …])` goes on from it.
"""

from __future__ import annotations

import hashlib
import secrets
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, overload

from trainkit.checkpoint import crc, image, manifest, own, plan, tiers
from trainkit.checkpoint.boxes import Box, Shape
from trainkit.checkpoint.manifest import File, Manifest
from trainkit.checkpoint.people.place import attempts
from trainkit.checkpoint.plan import Held, Holdings
from trainkit.checkpoint.tiers import LocalTier, Tier
from trainkit.errors import CheckpointError, StorageError, UsageError

CHUNK = 32 << 20
"""Bytes of a tensor that are in memory at a time."""
_WORTH = 4096
"""Bytes: of shorter ones it is no matter whether they are tied."""
Read = Callable[[int, int], memoryview]
"""Bytes of a tensor: from where on, and how many."""


class Given(NamedTuple):
    """A tensor to import."""

    name: str
    dtype: str
    shape: Shape
    size: int
    read: Read


def write(given: Sequence[Given], tied: Mapping[str, str], place: str, *, step: int, name: str, job: str) -> Manifest:
    """Write a checkpoint of these tensors as those of the object `name`, and commit it.

    `tied`: further names → names. Raises UsageError where the place has a checkpoint that would be newer,
    StorageError where it cannot be written; nothing is left then.
    """
    if not given:
        raise CheckpointError("there are no tensors to import")
    tier = tiers.of(place)
    _refuse_older(place, tier, step)
    alike = _alike(given)
    tied = {**{alias: alike.get(kept, kept) for alias, kept in tied.items()}, **alike}
    kept = [one for one in given if one.name not in tied]
    whole_plan, sources = _planned(kept, name)
    picture = image.of(whole_plan, 0)
    state = own.measure({name: {"aliases": dict(tied), "others": {}}})
    content = bytearray(state.size)
    state.write_into(memoryview(content))
    attempt = secrets.token_hex(12)
    directory = manifest.directory(step, attempt)
    tensors, states = image.file_name(0), image.state_name(0)
    try:
        written = []
        if picture.slots:
            parts = _Parts(picture, sources)
            written.append(_file(tensors, picture.size, tier.put(directory, tensors, parts), len(picture.header)))
        written.append(_file(states, state.size, tier.put(directory, states, [memoryview(content)]), 0))
        whole = Manifest(
            step=step, attempt=attempt, job=job, at=time.time(), hosts=(socket.gethostname(),), host_of=(0,),
            plan=whole_plan, files=tuple(written), metrics={}, alike=(name,),
        )  # fmt: skip
        text = whole.text()
        manifest.parse(text)  # what could not be read again is not committed
        tier.put_manifest(directory, text)
    except BaseException:
        _take_back(tier, directory, (tensors, states))
        raise
    return whole


def _take_back(tier: Tier, directory: str, names: Sequence[str]) -> None:
    try:
        tier.delete_manifest(directory)  # its answer may be lost, and it be there
        tier.drop(directory, names)
    except StorageError:  # the first error says more; without a manifest, it is no checkpoint
        return


def _refuse_older(place: str, tier: Tier, step: int) -> None:
    if isinstance(tier, LocalTier) and not tier.root.is_dir():
        return
    newer = next((one for one in attempts(place) if one.found.committed and one.found.step >= step), None)
    if newer:
        raise UsageError(
            f"{place} has a checkpoint of step {newer.found.step}, which would be restored instead of the imported one "
            f"of step {step}. Import to a place of its own, and start with --resume-from; or give it a larger --step"
        )


def _planned(given: Sequence[Given], name: str) -> tuple[plan.Plan, dict[str, Given]]:
    alone: dict[Shape, Holdings] = {}
    for one in given:
        alone.setdefault(one.shape, Holdings(((Box.whole(one.shape), (0,)),) if 0 not in one.shape else ()))
    held = [Held(f"{name}.{one.name}", one.dtype, one.shape, alone[one.shape]) for one in given]
    return plan.make(held, host_of=(0,), copies=False), {f"{name}.{one.name}": one for one in given}


def _file(name: str, size: int, sums: tuple[int, ...], start: int) -> File:
    return File(name, size, crc.joined(sums, size), sums, start)


def _alike(given: Sequence[Given]) -> dict[str, str]:
    """Tensors with the same bytes: stored once, and so a model whose weights are tied finds them under either name."""
    found: dict[str, str] = {}
    first: dict[Any, list[Given]] = {}
    for one in given:
        if one.size >= _WORTH:
            first.setdefault((one.dtype, one.shape, bytes(one.read(0, _WORTH))), []).append(one)
    for several in first.values():
        kept: dict[bytes, str] = {}
        for one in several if len(several) > 1 else ():
            digest = hashlib.sha256()
            for chunk in _chunks(one):
                digest.update(chunk)
            if (name := kept.setdefault(digest.digest(), one.name)) != one.name:
                found[one.name] = name
    return found


def _chunks(one: Given) -> Iterator[memoryview]:
    for at in range(0, one.size, CHUNK):
        yield one.read(at, min(CHUNK, one.size - at))


class _Parts(Sequence[memoryview]):
    """The tensor file's header and tensors, in chunks that are read when they are asked for."""

    def __init__(self, picture: image.Image, sources: Mapping[str, Given]) -> None:
        self._header = memoryview(picture.header)
        self._places = [
            (sources[slot.name], at, min(CHUNK, slot.size - at))
            for slot in picture.slots for at in range(0, slot.size, CHUNK)
        ]  # fmt: skip

    def __len__(self) -> int:
        return 1 + len(self._places)

    @overload
    def __getitem__(self, at: int) -> memoryview: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[memoryview]: ...
    def __getitem__(self, at: int | slice) -> memoryview | Sequence[memoryview]:
        if isinstance(at, slice):
            return [self[number] for number in range(*at.indices(len(self)))]
        if at == 0:
            return self._header
        one, start, size = self._places[at - 1]
        chunk = one.read(start, size)
        if len(chunk) != size:
            raise StorageError(f"{one.name}: {len(chunk)} bytes came where {size} were asked for")
        return chunk
