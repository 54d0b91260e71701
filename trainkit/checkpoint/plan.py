"""Who writes which part of which tensor: computed alike on every rank, from what every rank knows, without a word.

    held by all ranks (DDP)         large: cut into as many pieces as there are ranks; small: one rank writes it
    held in parts (FSDP2, TP)       each rank writes its own part; what several hold is cut as above
    several hosts, disks apart      each host keeps a copy of what its ranks hold and others write: it restarts alone

No list of tensors travels between ranks, and none is gathered: at 1,024 ranks that alone took others hours.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any, NamedTuple

from trainkit.checkpoint.boxes import Box, Shape

DTYPES: Mapping[str, int] = MappingProxyType(
    {
        "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "F8_E4M3FNUZ": 1, "F8_E5M2FNUZ": 1,
        "I16": 2, "U16": 2, "F16": 2, "BF16": 2, "I32": 4, "U32": 4, "F32": 4,
        "I64": 8, "U64": 8, "F64": 8, "C64": 8, "C128": 16,
    }
)  # fmt: skip
"""Bytes of an element. The names are safetensors'; it has none for C128 and FNUZ."""
WORTH_CUTTING = 64 << 10
"""Bytes: a piece that is smaller than this costs more to describe than it saves."""
TINY = 4 << 10
"""Bytes: tensors so small, an optimizer's counters, are written by one rank, all of them. Dealt out among a thousand
ranks, they would have each rank read a block of a thousand files."""


class Piece(NamedTuple):
    """A box, and the rank in whose file it is."""

    box: Box
    rank: int


class Layout(NamedTuple):
    """How tensors of one shape lie in files. `pieces` are a partition; `copies` are further ones, for single hosts."""

    shape: Shape
    pieces: tuple[Piece, ...]
    copies: tuple[Piece, ...] = ()


class Tensor(NamedTuple):
    """A tensor's name, its dtype (a key of DTYPES), and the number of its layout."""

    name: str
    dtype: str
    layout: int


@dataclass(frozen=True, slots=True, eq=False)
class Holdings:
    """Which ranks hold which box of a tensor; the boxes are a partition of it. Shared by tensors that lie alike."""

    boxes: tuple[tuple[Box, tuple[int, ...]], ...]


class Held(NamedTuple):
    """A tensor as it lies in the ranks' memory."""

    name: str
    dtype: str
    shape: Shape
    holdings: Holdings
    first: bool = False
    """Whether its holders may have different values, so that those of the first count, whole."""


@dataclass(frozen=True)
class Plan:
    """All tensors, those with the largest elements first: so every piece is aligned, and files have no gaps.

    Of those with equal elements the small ones come first: they lie together, and a few blocks bring them all.
    """

    tensors: tuple[Tensor, ...] = ()
    layouts: tuple[Layout, ...] = ()

    @cached_property
    def digest(self) -> str:
        """Alike on ranks that have the same plan."""
        return hashlib.sha256(json.dumps(self.document, separators=(",", ":")).encode()).hexdigest()

    @cached_property
    def document(self) -> dict[str, Any]:
        """As it stands in a manifest."""
        layouts = [
            {"shape": layout.shape, "pieces": [(*piece.box, piece.rank) for piece in layout.pieces]}
            | ({"copies": [(*piece.box, piece.rank) for piece in layout.copies]} if layout.copies else {})
            for layout in self.layouts
        ]
        return {"layouts": layouts, "tensors": self.tensors}

    def without_copies(self) -> Plan:
        """As it is where no host keeps copies."""
        return Plan(self.tensors, tuple(Layout(layout.shape, layout.pieces) for layout in self.layouts))

    def pieces(self, rank: int, *, copies: bool = False) -> Iterator[tuple[Tensor, Box]]:
        """What the file of `rank` holds, in its order; with `copies`, what its replica file holds."""
        of_layout = [
            [piece.box for piece in (layout.copies if copies else layout.pieces) if piece.rank == rank]
            for layout in self.layouts
        ]
        for tensor in self.tensors:
            for box in of_layout[tensor.layout]:
                yield tensor, box


def make(held: Iterable[Held], *, host_of: Sequence[int], copies: bool) -> Plan:
    """The plan for these tensors, alike wherever it is computed.

    `host_of[r]` is the host of rank r. With `copies`, every host keeps what its ranks hold.
    """
    dealer = _Dealer(host_of, copies=copies)
    ordered = sorted(held, key=lambda one: (-DTYPES[one.dtype], _size(one) >= WORTH_CUTTING, one.name))
    tensors = tuple(Tensor(one.name, one.dtype, dealer.layout(one)) for one in ordered)
    return Plan(tensors, tuple(dealer.layouts))


@dataclass(slots=True)
class _Dealer:
    """Gives pieces to ranks, so that those who hold the same have about as many bytes to write."""

    host_of: Sequence[int]
    copies: bool
    layouts: dict[Layout, int] = field(default_factory=dict)
    _known: dict[tuple[Any, ...], int] = field(default_factory=dict)
    _loads: dict[tuple[int, ...], list[tuple[int, int]]] = field(default_factory=dict)

    def layout(self, held: Held) -> int:
        size = DTYPES[held.dtype]
        choices = tuple(
            0 if held.first else self._choose(box, ranks, size) for box, ranks in held.holdings.boxes if len(ranks) > 1
        )
        key = (held.shape, held.holdings, choices)
        if (known := self._known.get(key)) is not None:
            return known
        chosen = iter(choices)
        pieces: list[Piece] = []
        others: list[Piece] = []
        for box, ranks in held.holdings.boxes:
            if len(ranks) == 1:
                pieces.append(Piece(box, ranks[0]))
            else:
                self._deal(box, ranks, next(chosen), pieces, others)
        layout = Layout(held.shape, tuple(pieces), tuple(others))
        return self._known.setdefault(key, self.layouts.setdefault(layout, len(self.layouts)))

    def _choose(self, box: Box, ranks: tuple[int, ...], itemsize: int) -> int | None:
        """None where the box is cut among its holders; else the one that has the least to write so far."""
        size = box.volume * itemsize
        if size <= TINY:
            return 0
        if size >= WORTH_CUTTING * len(ranks) and _dimension(box, len(ranks)) is not None:
            return None
        loads = self._loads.setdefault(ranks, [(0, at) for at in range(len(ranks))])
        load, at = loads[0]
        heapq.heapreplace(loads, (load + size, at))
        return at

    def _deal(
        self, box: Box, ranks: tuple[int, ...], chosen: int | None, pieces: list[Piece], others: list[Piece]
    ) -> None:
        if chosen is not None:
            parts = [(chosen, box)]
        else:
            dimension = _dimension(box, len(ranks))
            assert dimension is not None
            parts = list(enumerate(box.split(len(ranks), dimension=dimension)))
        hosts: dict[int, list[int]] = {}
        for rank in ranks:
            hosts.setdefault(self.host_of[rank], []).append(rank)
        for at, part in parts:
            pieces.append(Piece(part, ranks[at]))
            if self.copies:
                elsewhere = (own for host, own in hosts.items() if host != self.host_of[ranks[at]])
                others += [Piece(part, own[at % len(own)]) for own in elsewhere]


def _dimension(box: Box, parts: int) -> int | None:
    """The dimension along which to cut, so that pieces are contiguous in the box; None where it is too short."""
    first = next((at for at, length in enumerate(box.lengths) if length > 1), None)
    return first if first is not None and box.lengths[first] >= parts else None


def _size(held: Held) -> int:
    return math.prod(held.shape) * DTYPES[held.dtype]


def size_of(box: Box, dtype: str) -> int:
    """Bytes of a piece."""
    return math.prod(box.lengths) * DTYPES[dtype]
