"""Reads boxes of tensors out of a checkpoint's files: only the blocks that hold them, and each is verified.

    box that a rank needs  ∩  pieces in files  ─▶  ranges of bytes, rounded to blocks  ─▶  read, compare checksums, copy

A block that is damaged or cannot be read in one tier is read in the next one. Other ranks' ranges do not matter here:
so a rank reads what it holds, from 1 file or from 1,000, whatever the number of ranks was that wrote them.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
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


class _Part(NamedTuple):
    """`size` bytes that begin in each of `files` at that byte; of them, at each of `starts`, `run` bytes are wanted."""

    hand_over: Callable[[Bytes], None]
    files: Sequence[tuple[str, int]]
    size: int
    starts: Integers
    run: int


@dataclass
class Reader:
    """One checkpoint's files. `tiers` have them, to be tried in that order; `present[t]`: those that are in tier t."""

    manifest: Manifest
    tiers: Sequence[Tier]
    present: Sequence[Collection[str]]
    bytes_read: int = 0
    damaged: set[int] = field(default_factory=set)
    """Tiers in which bytes were found that nobody wrote."""
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
        content: list[Bytes] = []
        whole = _Part(lambda got: content.append(got[:size]), [(name, 0)], size, np.zeros(1, dtype=np.int64), size)
        for together in self._neighbours([whole]):
            self._read(together)
        return content[0].tobytes()

    def read(self, wanted: Sequence[Wanted]) -> None:
        """Read all of these. Raises Damaged or StorageError, and CheckpointError for what is not in the checkpoint."""
        known = {tensor.name for tensor in self.manifest.plan.tensors}
        if missing := [one.tensor for one in wanted if one.tensor not in known]:
            others = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise CheckpointError(f"{self.manifest.directory} has no {missing[0]}{others}")
        parts = [part for one in self._ranges(wanted) for part in _parts(one)]
        with ThreadPoolExecutor(THREADS, thread_name_prefix="restore") as pool:
            running: deque[Future[None]] = deque()
            try:
                for neighbours in self._neighbours(parts):
                    running.append(pool.submit(self._read, neighbours))
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

    def _neighbours(self, parts: Sequence[_Part]) -> Iterator[_Together]:
        """Parts that lie side by side in a file, to be read at once: they have blocks in common."""
        placed: dict[tuple[int, str], list[tuple[int, _Part]]] = {}
        for part in parts:
            for tier, name, first in self._places(part)[:1]:
                placed.setdefault((tier, name), []).append((first, part))
            if not self._places(part):
                tried = ", ".join(tier.name for tier in self.tiers)
                raise StorageError(f"{self.manifest.directory}/{part.files[0][0]} is in none of {tried}")
        for (tier, name), of_file in placed.items():
            of_file.sort(key=lambda one: one[0])
            together: list[tuple[int, _Part]] = []
            for first, part in of_file:
                if together and first + part.size - together[0][0] > MOST_AT_ONCE:
                    yield _Together(self.tiers[tier], name, together)
                    together = []
                together.append((first, part))
            yield _Together(self.tiers[tier], name, together)

    def _places(self, part: _Part) -> list[tuple[int, str, int]]:
        """Tier, file and first byte, wherever it is: the tier to be tried first comes first."""
        return [
            (tier, name, first)
            for tier, present in enumerate(self.present)
            for name, first in part.files
            if name in present
        ]

    def _read(self, together: _Together) -> None:
        """Read parts, and hand them over. Where that fails, each is read by itself from wherever it can be had."""
        touched = _joined(
            blocks for first, part in together.parts for blocks in _touched(part.starts + first, part.run)
        )
        try:
            base, content = self._blocks(together.tier, self._files[together.name], touched)
        except (CheckpointError, StorageError):
            for _, part in together.parts:
                part.hand_over(self._fetch(part))
            return
        for first, part in together.parts:
            part.hand_over(content[first - base * crc.BLOCK :])

    def _fetch(self, part: _Part) -> Bytes:
        """A part's bytes, from the first place that has them."""
        problems: list[CheckpointError | StorageError] = []
        for tier, name, first in self._places(part):
            try:
                touched = list(_touched(part.starts + first, part.run))
                base, content = self._blocks(self.tiers[tier], self._files[name], touched)
            except (CheckpointError, StorageError) as error:
                if isinstance(error, Damaged):
                    self.damaged.add(tier)
                problems.append(error)
                continue
            self.healed += map(str, problems)
            return content[first - base * crc.BLOCK :]
        raise next((problem for problem in problems if isinstance(problem, Damaged)), problems[0])

    def _blocks(self, tier: Tier, file: File, touched: Sequence[tuple[int, int]]) -> tuple[int, Bytes]:
        """These blocks of a file, with room for those between them, and the number of the first."""
        base = touched[0][0]
        end = min(touched[-1][1] * crc.BLOCK, file.size)
        content = np.empty(end - base * crc.BLOCK, dtype=np.uint8)
        for begin, stop in touched:
            of_these = content[(begin - base) * crc.BLOCK : (stop - base) * crc.BLOCK]
            tier.read_into(self.manifest.directory, file.name, begin * crc.BLOCK, of_these.data)
            self.bytes_read += len(of_these)
            for block in range(begin, stop):
                at = (block - begin) * crc.BLOCK
                if crc.of_block(of_these[at : at + crc.BLOCK].data) != file.blocks[block]:
                    where = f"{tier.name}/{self.manifest.directory}/{file.name}"
                    raise Damaged(f"{where}: the MiB from byte {block * crc.BLOCK} on is not what was written")
        return base, content


class _Together(NamedTuple):
    """Parts in one file of one tier, with the byte at which each begins, ascending."""

    tier: Tier
    name: str
    parts: list[tuple[int, _Part]]


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


def _parts(one: _Range) -> Iterator[_Part]:
    """The range's box in parts, of which each spans MOST_AT_ONCE bytes of the file at most."""
    strides = _strides(one)
    boxes = [one.box]
    for dimension, stride in enumerate(strides):
        most = max(1, MOST_AT_ONCE // stride)
        boxes = [part for box in boxes for part in box.split(-(-box.lengths[dimension] // most), dimension=dimension)]
        if most > 1:
            break
    for box in boxes:
        first = sum(
            (o - base) * stride for o, base, stride in zip(box.offsets, one.piece.offsets, strides, strict=True)
        )
        size = sum((n - 1) * stride for n, stride in zip(box.lengths, strides, strict=True)) + one.itemsize
        starts, run = _runs(box, strides, one.itemsize)
        put = partial(_put, one.wanted, box, (*strides, 1), one.itemsize)
        yield _Part(put, [(name, start + first) for name, start in one.files], size, starts, run)


def _put(wanted: Wanted, box: Box, strides: Sequence[int], itemsize: int, content: Bytes) -> None:
    """Hand over the elements of a box, which lie with these strides in its piece."""
    wanted.put(box, np.lib.stride_tricks.as_strided(content, (*box.lengths, itemsize), strides))


def _joined(blocks: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Ranges of blocks, those that touch each other as one."""
    joined: list[tuple[int, int]] = []
    for begin, stop in sorted(blocks):
        if joined and begin <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(stop, joined[-1][1]))
        else:
            joined.append((begin, stop))
    return joined


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
