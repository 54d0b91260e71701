"""The state file of one rank: what is no tensor of the plan, one safetensors image after the other, and where each is.

8 bytes     length of the index, little-endian
index       JSON: object → [start, size]; starts are counted from the index's end
images      trainkit.checkpoint.statefile: a typed tree, without pickle
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from trainkit.checkpoint import statefile, tree
from trainkit.errors import CheckpointError

_ALIGNED = 64


@dataclass(frozen=True, slots=True)
class Own:
    """The file before it is written: its index, and its images with their places in it."""

    index: bytes
    images: tuple[tuple[str, int, statefile.Image], ...]
    size: int

    def write_into(self, target: memoryview) -> None:
        """Write the file into `size` bytes."""
        target[: len(self.index)] = self.index
        for _, start, image in self.images:
            image.write_into(target[start : start + image.size])

    def places(self) -> Iterator[tuple[str, int, int]]:
        """Name, start and size of each image in the file."""
        return ((name, start, image.size) for name, start, image in self.images)


def measure(own: Mapping[str, Any]) -> Own:
    """Raises CheckpointError, with its path, for what cannot be saved."""
    images = [(name, statefile.measure(tree.pack(value, where=name))) for name, value in own.items()]
    places: dict[str, list[int]] = {}
    at = 0
    for name, image in images:
        places[name] = [at, image.size]
        at += -(-image.size // _ALIGNED) * _ALIGNED
    text = json.dumps(places, separators=(",", ":")).encode()
    text = text.ljust(-(-(8 + len(text)) // _ALIGNED) * _ALIGNED - 8)
    index = len(text).to_bytes(8, "little") + text
    return Own(index, tuple((name, len(index) + places[name][0], image) for name, image in images), len(index) + at)


def parse(content: bytes) -> dict[str, memoryview]:
    """Object → its image. Raises CheckpointError for what is no such file."""
    try:
        end = 8 + int.from_bytes(content[:8], "little")
        index: dict[str, tuple[int, int]] = json.loads(content[8:end])
        images: dict[str, memoryview] = {}
        for name, (start, size) in index.items():
            if not (isinstance(name, str) and start >= 0 and size >= 0 and end + start + size <= len(content)):
                raise ValueError(name)
            images[name] = memoryview(content)[end + start : end + start + size]
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"this is no file of a rank's state: {error}") from None
    return images


def decode(image: memoryview, *, described: bool = False) -> Any:
    """The state in an image; `described`: as in tree.unpack. Raises CheckpointError."""
    return statefile.decode(image, described=described)
