"""A state file: a typed tree in a safetensors file, which anything that reads safetensors can look into.

    8 bytes     length of the header, little-endian
    header      JSON: {"__metadata__": {"trainkit-state": "1", "tree": "<JSON, see tree>"}, "<leaf>": {…}, …}
                padded with spaces, so that the data begins at a multiple of 64
    data        leaf after leaf without gaps, those with large elements first, so that all are aligned

Its size is known before a byte is copied: `measure` a state, find room for `size` bytes, and `write_into` that room.
Leaves of a dtype that not every safetensors knows are U8, with an element's bytes as one dimension more; the tree says
what they are. Whether bytes were changed underway is not seen here; the manifest has their checksums.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from trainkit.checkpoint import leaves, tree
from trainkit.checkpoint.leaves import SIZES, Form, Stored
from trainkit.checkpoint.tree import Packed
from trainkit.errors import CheckpointError

VERSION = "1"
MOST_HEADER = 64 << 20
"""Bytes of a header; safetensors itself stops at 100,000,000."""
_ALIGNED = 64
_MARK, _TREE, _METADATA = "trainkit-state", "tree", "__metadata__"


@dataclass(frozen=True, slots=True)
class Image:
    """A state file that is yet to be written: `size` bytes. It refers to the leaves, which must stay as they are."""

    header: bytes
    places: tuple[tuple[Any, int, int], ...]  # leaf, start in the file, size
    size: int

    def write_into(self, target: memoryview) -> None:
        """Write the file into `target`, writable and `size` bytes long; each leaf is copied once."""
        target = target.cast("B")
        if len(target) != self.size:
            raise ValueError(f"the state needs {self.size} bytes, and there are {len(target)}")
        target[: len(self.header)] = self.header
        for leaf, start, size in self.places:
            leaves.copy_into(leaf, target[start : start + size])


def measure(packed: Packed) -> Image:
    """Lay out the file. Raises CheckpointError where the structure is too long, or a leaf is a DTensor."""
    forms = {name: _form(name, leaf) for name, leaf in packed.leaves.items()}
    text = json.dumps(packed.structure, allow_nan=False, separators=(",", ":"))
    entries: dict[str, Any] = {_METADATA: {_MARK: VERSION, _TREE: text}}
    at = 0
    offsets = {}
    for name in sorted(forms, key=lambda name: -leaves.alignment(packed.leaves[name])):
        form = forms[name]
        offsets[name] = at
        entries[name] = {"dtype": form.dtype, "shape": form.shape, "data_offsets": (at, at + form.size)}
        at += form.size
    body = json.dumps(entries, separators=(",", ":")).encode()
    body = body.ljust(-(-(8 + len(body)) // _ALIGNED) * _ALIGNED - 8)
    if len(body) > MOST_HEADER:
        raise CheckpointError(
            f"the state's structure takes {len(body)} bytes, and {MOST_HEADER} is the most. "
            "Save many numbers as an array or a tensor, and long text as bytes"
        )
    header = len(body).to_bytes(8, "little") + body
    places = tuple((leaf, len(header) + offsets[name], forms[name].size) for name, leaf in packed.leaves.items())
    return Image(header, places, len(header) + at)


def encode(packed: Packed) -> bytearray:
    """The whole file, for states that are small."""
    image = measure(packed)
    content = bytearray(image.size)
    image.write_into(memoryview(content))
    return content


def parse(data: bytes | bytearray | memoryview) -> Packed:
    """The tree and its leaves as they lie in `data`, nothing copied: show them, or give them to `tree.unpack`.

    Raises CheckpointError, without the place, for anything but a whole state file of this version.
    """
    data = memoryview(data).cast("B")
    entries, start = _header(data)
    metadata = entries.pop(_METADATA, None)
    if type(metadata) is not dict or not all(type(text) is str for text in metadata.values()) or _MARK not in metadata:
        raise CheckpointError("is no state file: its header does not say that it is one")
    if metadata[_MARK] != VERSION:
        raise CheckpointError(
            f"is of version {metadata[_MARK][:20]!r}, and this trainkit reads {VERSION}. Install a newer one"
        )
    forms = {name: _read_form(name, entry) for name, entry in entries.items()}
    stored = dict(_placed(forms, data[start:]))
    return Packed(_json(metadata.get(_TREE, ""), "tree"), stored)


def decode(data: bytes | bytearray | memoryview, *, described: bool = False) -> Any:
    """The state in a file. All of it is copied out: `data` may be reused. `described`: as in tree.unpack.

    Raises CheckpointError, without the place, for anything that `measure` could not have made.
    """
    packed = parse(data)
    taken = _Taken(packed.leaves)
    try:
        value = tree.unpack(packed.structure, taken, described=described)
    except CheckpointError as error:
        raise CheckpointError(f"is no state file: {error}") from None
    if left := taken.keys() - taken.asked:
        raise CheckpointError(f"is no state file: its tree does not name the leaf {min(left)!r:.80}")
    return value


class _Taken(dict[str, Any]):
    """Knows which of its values somebody asked for."""

    def __init__(self, given: dict[str, Any]) -> None:
        super().__init__(given)
        self.asked: set[str] = set()

    def __getitem__(self, name: str) -> Any:
        self.asked.add(name)
        return super().__getitem__(name)


def _form(name: str, leaf: Any) -> Form:
    if leaves.is_distributed(leaf):
        raise CheckpointError(f"{name} is a DTensor, of which this rank holds a part. Save it as a tensor of the model")
    return leaves.form(leaf)


def _header(data: memoryview) -> tuple[dict[str, Any], int]:
    """The header's entries, and where the data begins."""
    length = int.from_bytes(data[:8], "little") if len(data) >= 8 else 0
    if not 2 <= length <= min(MOST_HEADER, len(data) - 8):
        raise CheckpointError(f"is no state file: of its {len(data)} bytes, the header would be {length}")
    try:
        text = str(data[8 : 8 + length], "utf-8")
    except UnicodeDecodeError:
        raise CheckpointError("is no state file: its header is not UTF-8") from None
    entries = _json(text, "header") if text.startswith("{") else None
    if type(entries) is not dict:
        raise CheckpointError("is no state file: its header is no JSON object")
    return entries, 8 + length


def _json(text: str, what: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_object, parse_constant=_constant)
    except RecursionError:
        raise CheckpointError(f"is no state file: its {what} lies too deep") from None
    except ValueError as error:
        raise CheckpointError(f"is no state file: its {what} is no JSON: {error}") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    return found


def _constant(text: str) -> None:
    raise ValueError(f"there is no {text}")


def _read_form(name: str, entry: Any) -> tuple[Form, int]:
    """How a leaf lies in the file, and where."""
    wrong = CheckpointError(f"is no state file: what it says of the leaf {name!r:.80} makes no sense")
    if type(entry) is not dict or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise wrong
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if type(dtype) is not str or dtype not in SIZES or not _are_sizes(shape) or not _are_sizes(offsets):
        raise wrong
    if len(offsets) != 2 or offsets[1] - offsets[0] != math.prod(shape) * SIZES[dtype]:
        raise wrong
    return Form(dtype, tuple(shape), offsets[1] - offsets[0]), offsets[0]


def _are_sizes(numbers: Any) -> bool:
    most = 1 << 60
    return type(numbers) is list and len(numbers) <= 65 and all(type(one) is int and 0 <= one < most for one in numbers)


def _placed(forms: dict[str, tuple[Form, int]], data: memoryview) -> Iterator[tuple[str, Stored]]:
    """Each leaf with its bytes; together they are the data, without gaps and overlaps."""
    at = 0
    for name, (form, start) in sorted(forms.items(), key=lambda one: (one[1][1], one[1][0].size)):
        if start != at or at + form.size > len(data):
            raise CheckpointError(f"is no state file: the leaf {name!r:.80} does not lie where the one before it ends")
        at += form.size
        yield name, Stored(form, data[start:at])
    if at != len(data):
        raise CheckpointError(f"is no state file: {len(data) - at} bytes at its end belong to nothing")
