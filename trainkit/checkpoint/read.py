"""Reads boxes of tensors out of a checkpoint's files: only the blocks that hold them, and each is verified.

    box that a rank needs  ∩  pieces in files  ─▶  ranges of bytes, rounded to blocks  ─▶  read, compare checksums, copy

A block that is damaged or cannot be read in one tier is read in the next one. Other ranks' ranges do not matter here:
so a rank reads what it holds, from 1 file or from 1,000, whatever the number of ranks was that wrote them.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trainkit.checkpoint import crc, image
from trainkit.checkpoint.boxes import Box
from trainkit.checkpoint.manifest import File, Manifest
from trainkit.checkpoint.plan import DTYPES, Layout, size_of
from trainkit.checkpoint.tiers import Tier
from trainkit.errors import CheckpointError, StorageError

MOST_AT_ONCE = 32 << 20
"""Bytes that each of the THREADS holds, beside what is read into."""
THREADS = 4
Bytes = NDArray[np.uint8]
Integers = NDArray[np.int64]


class Damaged(CheckpointError):
    """Bytes that are not those that were written, wherever they could be read."""


class Wanted(NamedTuple):
    """A box of a tensor, and what takes it: called, in several threads, with each part of the box and its elements.

    They come as an array of bytes: its last dimension is one element's, the others are the part's.
    """

    tensor: str
    box: Box
    put: Callable[[Box, Bytes], None]


class _Range(NamedTuple):
    """`box` is to be read, from a piece that lies in each of `files`, from that byte on."""

    wanted: Wanted
    box: Box
    piece: Box
    itemsize: int
    files: Sequence[tuple[str, int]]


@dataclass
class Reader:
    """One checkpoint's files. `tiers` have them, to be tried in that order; `present[t]`: those that are in tier t."""

    manifest: Manifest
    tiers: Sequence[Tier]
    present: Sequence[Collection[str]]
    bytes_read: int = 0
    healed: list[str] = field(default_factory=list)
    """What was damaged or out of reach in one tier, and could be read in another."""

    def __post_init__(self) -> None:
        self._files = {file.name: file for file in self.manifest.files}

    def state(self, rank: int) -> bytes:
        """The state file that `rank` wrote. Raises Damaged or StorageError."""
        name = image.state_name(rank)
        size = self._files[name].size
        if not size:
            return b""
        return self._fetch([(name, 0)], size, np.zeros(1, dtype=np.int64), size).tobytes()

    def read(self, wanted: Sequence[Wanted]) -> None:
        """Read all of these. Raises Damaged or StorageError, and CheckpointError for what is not in the checkpoint."""
        known = {tensor.name for tensor in self.manifest.plan.tensors}
        if missing := [one.tensor for one in wanted if one.tensor not in known]:
            others = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise CheckpointError(f"{self.manifest.directory} has no {missing[0]}{others}")
        with ThreadPoolExecutor(THREADS, thread_name_prefix="restore") as pool:
            running: deque[Future[None]] = deque()
            try:
                for one, part in chain.from_iterable(map(_parts, self._ranges(wanted))):
                    running.append(pool.submit(self._read, one, part))
                    if len(running) >= 2 * THREADS:
                        running.popleft().result()
                while running:
                    running.popleft().result()
            finally:
                pool.shutdown(cancel_futures=True)

    def _ranges(self, wanted: Sequence[Wanted]) -> Iterator[_Range]:
        """Where the wanted boxes lie. Each file holds its pieces in the order of the tensors."""
        wishes: dict[str, list[Wanted]] = {}
        for one in wanted:
            wishes.setdefault(one.tensor, []).append(one)
        at = {file.name: file.start for file in self.manifest.files}
        plan = self.manifest.plan
        names = [_file_names(layout) for layout in plan.layouts]
        for tensor in plan.tensors:
            layout = plan.layouts[tensor.layout]
            places: dict[Box, list[tuple[str, int]]] = {}
            for name, piece in zip(names[tensor.layout], (*layout.pieces, *layout.copies), strict=True):
                places.setdefault(piece.box, []).append((name, at[name]))
                at[name] += size_of(piece.box, tensor.dtype)
            for one in wishes.get(tensor.name, ()):
                for box, files in places.items():
                    if both := one.box.overlap(box):
                        yield _Range(one, both, box, DTYPES[tensor.dtype], files)

    def _read(self, one: _Range, part: Box) -> None:
        """Read a part of the range, and hand it over."""
        strides = _strides(one)
        first = sum(
            (o - base) * stride for o, base, stride in zip(part.offsets, one.piece.offsets, strides, strict=True)
        )
        size = sum((n - 1) * stride for n, stride in zip(part.lengths, strides, strict=True)) + one.itemsize
        starts, run = _runs(part, strides, one.itemsize)
        content = self._fetch([(name, start + first) for name, start in one.files], size, starts, run)
        one.wanted.put(part, np.lib.stride_tricks.as_strided(content, (*part.lengths, one.itemsize), (*strides, 1)))

    def _fetch(self, places: Sequence[tuple[str, int]], size: int, starts: Integers, run: int) -> Bytes:
        """`size` bytes from the first place that has them, where at each of `starts` `run` bytes are wanted.

        What lies between those is read only as far as it is in the same blocks.
        """
        problems: list[CheckpointError | StorageError] = []
        for tier, present in zip(self.tiers, self.present, strict=True):
            for name, first in places:
                if name in present:
                    try:
                        content = self._blocks(tier, self._files[name], first, size, starts, run)
                    except (CheckpointError, StorageError) as error:
                        problems.append(error)
                        continue
                    self.healed += map(str, problems)
                    return content
        if problems:
            raise next((problem for problem in problems if isinstance(problem, Damaged)), problems[0])
        name = places[0][0]
        raise StorageError(f"{self.manifest.directory}/{name} is in none of {', '.join(t.name for t in self.tiers)}")

    def _blocks(self, tier: Tier, file: File, first: int, size: int, starts: Integers, run: int) -> Bytes:
        base = first // crc.BLOCK
        end = min(-(-(first + size) // crc.BLOCK) * crc.BLOCK, file.size)
        content = np.empty(end - base * crc.BLOCK, dtype=np.uint8)
        for begin, stop in _touched(starts + first, run):
            of_these = content[(begin - base) * crc.BLOCK : (stop - base) * crc.BLOCK]
            tier.read_into(self.manifest.directory, file.name, begin * crc.BLOCK, of_these.data)
            self.bytes_read += len(of_these)
            for block in range(begin, stop):
                at = (block - begin) * crc.BLOCK
                if crc.of_block(of_these[at : at + crc.BLOCK].data) != file.blocks[block]:
                    where = f"{tier.name}/{self.manifest.directory}/{file.name}"
                    raise Damaged(f"{where}: the MiB from byte {block * crc.BLOCK} on is not what was written")
        return content[first - base * crc.BLOCK :]


def _file_names(layout: Layout) -> list[str]:
    """The file of each piece, and of each copy."""
    return [
        image.file_name(piece.rank, copies=copies)
        for copies, pieces in ((False, layout.pieces), (True, layout.copies))
        for piece in pieces
    ]


def _strides(one: _Range) -> list[int]:
    """Bytes between neighbours, along each dimension of the piece as it lies in its file."""
    lengths = one.piece.lengths
    return [one.itemsize * math.prod(lengths[dimension + 1 :]) for dimension in range(len(lengths))]


def _parts(one: _Range) -> Iterator[tuple[_Range, Box]]:
    """The range's box in parts, of which each spans MOST_AT_ONCE bytes of the file at most."""
    strides = _strides(one)
    boxes = [one.box]
    for dimension, stride in enumerate(strides):
        most = max(1, MOST_AT_ONCE // stride)
        boxes = [part for box in boxes for part in box.split(-(-box.lengths[dimension] // most), dimension=dimension)]
        if most > 1:
            break
    for box in boxes:
        yield one, box


def _runs(part: Box, strides: Sequence[int], itemsize: int) -> tuple[Integers, int]:
    """Where its elements lie, from its first one on: the bytes at which runs start, ascending, and their length."""
    run, dimension = itemsize, len(strides)
    while dimension and strides[dimension - 1] == run:  # dimensions that are taken whole make one run
        dimension -= 1
        run *= part.lengths[dimension]
    starts = np.zeros(1, dtype=np.int64)
    for length, stride in zip(part.lengths[:dimension], strides[:dimension], strict=True):
        starts = (starts[:, None] + np.arange(length, dtype=np.int64) * stride).reshape(-1)
    return starts, run


def _touched(starts: Integers, run: int) -> Iterator[tuple[int, int]]:
    """The blocks in which these runs lie, as ranges of consecutive ones."""
    first, last = starts // crc.BLOCK, (starts + run - 1) // crc.BLOCK
    if run <= crc.BLOCK:
        blocks = np.unique(np.concatenate((first, last)))
    else:
        blocks = np.unique(np.concatenate([np.arange(a, b + 1) for a, b in zip(first, last, strict=True)]))
    for together in np.split(blocks, np.flatnonzero(np.diff(blocks) > 1) + 1):
        yield int(together[0]), int(together[-1]) + 1
