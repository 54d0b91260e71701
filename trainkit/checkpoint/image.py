"""A rank's tensor file, laid out before a byte of it is copied: a safetensors file whose header is known beforehand.

8 bytes     length of the header, little-endian
header      JSON: name → dtype, shape, data_offsets; padded with spaces, so that the data begins at a multiple of 64
data        piece after piece, in the plan's order, row by row, without gaps
"""

from __future__ import annotations

import json
from typing import NamedTuple

from trainkit.checkpoint.boxes import Box, Shape
from trainkit.checkpoint.plan import DTYPES, Plan, size_of

_ALIGNED = 64
_UNKNOWN_TO_SAFETENSORS = frozenset({"C128", "F8_E4M3FNUZ", "F8_E5M2FNUZ"})


class Slot(NamedTuple):
    """Where a piece lies in the file: `size` bytes from `start`."""

    name: str
    box: Box
    start: int
    size: int


class Image(NamedTuple):
    """The file's header, its slots, and its size in bytes. The first slot begins where the header ends."""

    header: bytes
    slots: tuple[Slot, ...]
    size: int


def file_name(rank: int, *, copies: bool = False) -> str:
    return f"r{rank:05d}{'.replica' if copies else ''}.safetensors"


def state_name(rank: int) -> str:
    """The file for what is no tensor of the plan."""
    return f"r{rank:05d}.state"


def of(plan: Plan, rank: int, *, copies: bool = False) -> Image:
    """The tensor file of `rank`; one without slots where it has nothing to write."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    places: list[tuple[str, Box, int, int]] = []
    at = 0
    for tensor, box in plan.pieces(rank, copies=copies):
        size = size_of(box, tensor.dtype)
        key = piece_name(tensor.name, box, plan.layouts[tensor.layout].shape)
        strange = tensor.dtype in _UNKNOWN_TO_SAFETENSORS
        shape = [*box.lengths, DTYPES[tensor.dtype]] if strange else [*box.lengths]
        entries[key] = {"dtype": "U8" if strange else tensor.dtype, "shape": shape, "data_offsets": [at, at + size]}
        places.append((tensor.name, box, at, size))
        at += size
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=True).encode()
    text = text.ljust(-(-(8 + len(text)) // _ALIGNED) * _ALIGNED - 8)
    header = len(text).to_bytes(8, "little") + text
    slots = tuple(Slot(name, box, len(header) + start, size) for name, box, start, size in places)
    return Image(header, slots, len(header) + at)


def piece_name(name: str, box: Box, shape: Shape) -> str:
    """A whole tensor's own name, or with what is in the file of it: `weight[0:128,64:96]`."""
    if box == Box.whole(shape):
        return name
    ranges = (f"{offset}:{offset + length}" for offset, length in zip(*box, strict=True))
    return f"{name}[{','.join(ranges)}]"
