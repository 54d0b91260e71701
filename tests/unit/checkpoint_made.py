"""Small checkpoints of random tensors for tests: real files, without torch and without writers."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainkit.checkpoint import choose, crc, image, manifest, plan, tiers
from trainkit.checkpoint.boxes import Box, Shape
from trainkit.checkpoint.manifest import File, Manifest
from trainkit.checkpoint.plan import Held, Holdings, Plan
from trainkit.checkpoint.read import Reader, Wanted
from trainkit.checkpoint.tiers import LocalTier
from trainkit.errors import CheckpointError, StorageError

Values = Mapping[str, NDArray[np.uint8]]
"""Of each tensor the bytes of its elements: the last dimension is one element's."""


@dataclass(frozen=True, slots=True)
class Made:
    """What was saved, and where."""

    manifest: Manifest
    values: Values
    states: tuple[bytes, ...]
    root: Path

    @property
    def folder(self) -> Path:
        return self.root / self.manifest.directory


def cut(shape: Shape, parts: int, *, dimension: int) -> list[Box]:
    """A partition into as many boxes, or into one where it is too short."""
    fits = bool(shape) and shape[dimension] >= parts
    return list(Box.whole(shape).split(parts, dimension=dimension)) if fits else [Box.whole(shape)]


def random_holdings(dice: random.Random, shape: Shape, ranks: int) -> Holdings:
    """Replicated, in rows, in columns, or both: TP×FSDP."""
    everybody = tuple(range(ranks))
    boxes = (
        cut(shape, ranks, dimension=dice.choice((0, len(shape) - 1)))
        if shape and dice.random() < 0.7
        else [Box.whole(shape)]
    )
    if len(boxes) == ranks:
        return Holdings(tuple((box, (rank,)) for rank, box in enumerate(boxes)))
    if ranks == 4 and len(shape) > 1 and min(shape[0], shape[-1]) >= 2:
        halves = [part for box in cut(shape, 2, dimension=0) for part in box.split(2, dimension=len(shape) - 1)]
        return Holdings(tuple((box, (rank,)) for rank, box in enumerate(halves)))
    return Holdings(((Box.whole(shape), everybody),))


def random_tensors(dice: random.Random, ranks: int, *, count: int) -> list[Held]:
    lengths = (1, 2, 3, 7, 64, 500)
    held = []
    for number in range(count):
        shape = tuple(dice.choice(lengths) for _ in range(dice.randint(0, 3)))
        if Box.whole(shape).volume > 2_000_000:
            shape = shape[:2]
        held.append(Held(f"t{number}", dice.choice(("F32", "U8", "F64", "BF16", "C128")), shape,
                         random_holdings(dice, shape, ranks)))  # fmt: skip
    return held


def made(
    root: Path, dice: random.Random, *, step: int = 5, ranks: int = 2, count: int = 8, held: Sequence[Held] = (),
    hosts: int = 1, host: int | None = None, attempt: str | None = None, values: Values | None = None,
) -> Made:  # fmt: skip
    """Save random values of these tensors, or of random ones; with `host`, only what that host has on its disk."""
    tensors = list(held) or random_tensors(dice, ranks, count=count)
    host_of = tuple(rank * hosts // ranks for rank in range(ranks))
    laid = plan.make(tensors, host_of=host_of, copies=hosts > 1)
    values = values or {one.name: _random(dice, (*one.shape, plan.DTYPES[one.dtype])) for one in tensors}
    states = tuple(f"state of rank {rank} after step {step} ".encode() * (rank + 3) for rank in range(ranks))
    name = attempt or f"{dice.getrandbits(96):024x}"
    tier, files = LocalTier(root), []
    for rank in range(ranks):
        here = tier if host in (None, host_of[rank]) else None
        for copies in (False, True):
            if (whole := image_bytes(laid, rank, values, copies=copies)) is not None:
                content, start = whole
                files.append(_put(here, manifest.directory(step, name), image.file_name(rank, copies=copies),
                                  content, start))  # fmt: skip
        files.append(_put(here, manifest.directory(step, name), image.state_name(rank), states[rank], 0))
    whole_manifest = Manifest(
        step=step, attempt=name, job="job", at=1.0, hosts=tuple(f"algo-{n + 1}" for n in range(hosts)),
        host_of=host_of, plan=laid, files=tuple(files), metrics={"loss": 0.25},
    )  # fmt: skip
    if host in (None, 0):
        tier.put_manifest(whole_manifest.directory, whole_manifest.text())
    return Made(whole_manifest, values, states, root)


def image_bytes(laid: Plan, rank: int, values: Values, *, copies: bool = False) -> tuple[bytes, int] | None:
    """A rank's tensor file, and where its data begins; None where it has none."""
    whole = image.of(laid, rank, copies=copies)
    if not whole.slots:
        return None
    content = bytearray(whole.header)
    for slot in whole.slots:
        array = values[slot.name]
        content += np.ascontiguousarray(array[slot.box.within(Box.whole(array.shape[:-1]))]).tobytes()
    assert len(content) == whole.size
    return bytes(content), len(whole.header)


def restored(
    places: Sequence[tiers.Tier], *, without: Collection[str] = ()
) -> tuple[Manifest, Values, tuple[bytes, ...]] | None:
    """As a restart does it: the newest that is whole, all of it. None where there is none."""
    without = set(without)
    while (choice := choose.choose(places, without=without)).manifest is not None:
        whole = choice.manifest
        try:
            return whole, *_read(whole, [places[tier] for tier in choice.tiers])
        except (CheckpointError, StorageError):
            without.add(whole.directory)
    return None


def taker(array: NDArray[np.uint8], box: Box) -> Callable[[Box, Any], None]:
    """What puts parts of `box` into an array that holds it."""

    def put(part: Box, content: Any) -> None:
        array[part.within(box)] = content

    return put


def _read(whole: Manifest, places: Sequence[tiers.Tier]) -> tuple[Values, tuple[bytes, ...]]:
    arrays, wanted = {}, []
    for tensor in whole.plan.tensors:
        shape = whole.plan.layouts[tensor.layout].shape
        arrays[tensor.name] = np.zeros((*shape, plan.DTYPES[tensor.dtype]), np.uint8)
        wanted.append(Wanted(tensor.name, Box.whole(shape), taker(arrays[tensor.name], Box.whole(shape))))
    reader = Reader(whole, places, [present(place, whole.directory) for place in places])
    reader.read(wanted)
    return arrays, tuple(reader.state(rank) for rank in range(whole.ranks))


def present(place: tiers.Tier, directory: str) -> set[str]:
    return {name for found in place.list() if found.directory == directory for name in found.sizes}


def _put(tier: LocalTier | None, directory: str, name: str, content: bytes, start: int) -> File:
    sums = tuple(crc.of_block(content[at : at + crc.BLOCK]) for at in range(0, len(content), crc.BLOCK))
    if tier:
        assert tier.put(directory, name, [memoryview(content)]) == sums
    return File(name, len(content), crc.joined(sums, len(content)), sums, start)


def _random(dice: random.Random, shape: Shape) -> NDArray[np.uint8]:
    volume = Box.whole(shape).volume
    return np.frombuffer(dice.randbytes(volume), np.uint8).reshape(shape)
