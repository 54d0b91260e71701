"""`trainkit checkpoint show`: what one checkpoint holds, as people read it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from trainkit.checkpoint import own, statefile
from trainkit.checkpoint.leaves import Described
from trainkit.checkpoint.manifest import Manifest
from trainkit.checkpoint.people.place import Attempt
from trainkit.checkpoint.people.words import counted, plain, size, table, when
from trainkit.checkpoint.plan import DTYPES, Layout, Tensor
from trainkit.checkpoint.read import Reader
from trainkit.errors import CheckpointError

_FEW = 8
"""Items of a long list that are shown."""
_LINES = 120
"""Of one object's tree."""
_DEEP = 6


def states(one: Attempt, rank: int) -> dict[str, memoryview]:
    """The images in the state file of `rank`, verified. Raises CheckpointError or StorageError."""
    whole = _whole(one)
    if not 0 <= rank < whole.ranks:
        raise CheckpointError(f"{one.name} was written by ranks 0 to {whole.ranks - 1}; there is no rank {rank}")
    return own.parse(Reader(whole, [one.tier], [one.present]).state(rank))


def as_text(one: Attempt, *, rank: int) -> str:
    whole, images = _whole(one), states(one, rank)
    lines = [
        one.name,
        f"  step {whole.step} of {plain(whole.job)}, {when(whole.at)}, {size(whole.size)}, {one.state}",
        f"  written by {counted(whole.ranks, 'rank')} on {plain(', '.join(whole.hosts))}",
    ]
    if whole.metrics:
        lines.append("  " + ", ".join(f"{plain(name)} {value:.6g}" for name, value in whole.metrics.items()))
    lines += ["", *table([("OBJECT", "TENSORS", "BYTES", "STATE", ""), *_objects(whole, images)], right=(1, 2, 3))]
    if whole.plan.tensors:
        rows = [_tensor_row(whole, tensor) for tensor in whole.plan.tensors]
        lines += ["", *table([("TENSOR", "DTYPE", "SHAPE", "BYTES", "WHERE"), *rows], right=(3,))]
    for name, state in images.items():
        lines += ["", f"{plain(name)} ({'on all ranks' if name in whole.alike else f'of rank {rank}'})"]
        tree = list(_tree(own.decode(state, described=True), 1))
        lines += tree[:_LINES] + ([f"  … {len(tree) - _LINES:,} lines more; --json has all"] if tree[_LINES:] else [])
    return "\n".join(lines)


def document(one: Attempt, *, rank: int) -> dict[str, Any]:
    """The same for programs: the trees as they are stored (docs/checkpoints.md)."""
    whole, images = _whole(one), states(one, rank)
    return {
        "directory": one.name, "step": whole.step, "attempt": whole.attempt, "job": whole.job, "at": whole.at,
        "state": one.state, "hosts": list(whole.hosts), "host_of": list(whole.host_of), "size": whole.size,
        "metrics": dict(whole.metrics), "alike": list(whole.alike),
        "tensors": [
            {
                "name": tensor.name, "dtype": tensor.dtype, "shape": list(layout.shape), "bytes": _bytes(whole, tensor),
                "pieces": [{"offsets": list(p.box.offsets), "lengths": list(p.box.lengths), "rank": p.rank}
                           for p in layout.pieces],
            }
            for tensor in whole.plan.tensors for layout in [whole.plan.layouts[tensor.layout]]
        ],
        "rank": rank, "trees": {name: statefile.parse(state).structure for name, state in images.items()},
    }  # fmt: skip


def _whole(one: Attempt) -> Manifest:
    if one.manifest is None:
        raise CheckpointError(f"{one.name} is {one.state}, and has no manifest that can be read")
    return one.manifest


def _objects(whole: Manifest, images: Mapping[str, memoryview]) -> Iterator[tuple[str, ...]]:
    for name in {**dict.fromkeys(tensor.name.partition(".")[0] for tensor in whole.plan.tensors), **images}:
        own_tensors = [tensor for tensor in whole.plan.tensors if tensor.name.partition(".")[0] == name]
        held = sum(_bytes(whole, tensor) for tensor in own_tensors)
        alike = "alike on all ranks" if name in whole.alike else "each rank its own"
        of_state = (size(len(images[name])), alike) if name in images else ("-", "")
        yield plain(name), f"{len(own_tensors):,}", size(held), *of_state


def _tensor_row(whole: Manifest, tensor: Tensor) -> tuple[str, ...]:
    layout = whole.plan.layouts[tensor.layout]
    return (
        plain(tensor.name), tensor.dtype.lower(), " × ".join(map(str, layout.shape)) or "scalar",
        size(_bytes(whole, tensor)), _where(layout),
    )  # fmt: skip


def _where(layout: Layout) -> str:
    """`rank 3`, or `4 pieces: ranks 0-3`."""
    ranks = sorted({piece.rank for piece in layout.pieces})
    if not ranks:
        return "nowhere: empty"
    told = f"rank{'' if len(ranks) == 1 else 's'} {', '.join(_spans(ranks))}"
    return told if len(layout.pieces) == 1 else f"{len(layout.pieces)} pieces: {told}"


def _spans(numbers: Iterable[int]) -> Iterator[str]:
    ordered = list(numbers)
    while ordered:
        length = next((at for at in range(1, len(ordered)) if ordered[at] != ordered[0] + at), len(ordered))
        yield str(ordered[0]) if length == 1 else f"{ordered[0]}-{ordered[length - 1]}"
        ordered = ordered[length:]


def _bytes(whole: Manifest, tensor: Tensor) -> int:
    return math.prod(whole.plan.layouts[tensor.layout].shape) * DTYPES[tensor.dtype]


def _tree(value: Any, depth: int, name: str = "") -> Iterator[str]:
    """A line for each entry; what is short, or deep, on one line."""
    indent, label = "  " * depth, f"{name}: " if name else ""
    items = list(_items(value))
    inline = _inline(value)
    if not items or depth > _DEEP or (len(inline) <= 80 and not _nested(value)):
        yield f"{indent}{label}{inline}"
        return
    if name:
        yield f"{indent}{name}:"
        depth += 1
    shown = items if isinstance(value, dict) else items[:_FEW]
    for key, item in shown:
        yield from _tree(item, depth, key)
    if len(shown) < len(items):
        yield f"{'  ' * depth}… {len(items):,} items"


def _items(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        yield from ((plain(key if isinstance(key, str) else repr(key), 80), item) for key, item in value.items())
    elif isinstance(value, list | tuple) and not isinstance(value, Described) and _nested(value):
        yield from ((f"[{at}]", item) for at, item in enumerate(value))


def _nested(value: Any) -> bool:
    if isinstance(value, Described):
        return False
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return (isinstance(value, dict) and bool(value)) or any(isinstance(one, dict) for one in inner)


def _inline(value: Any) -> str:
    if isinstance(value, Described):
        return plain(str(value), 100) + (f", {size(value.size)}" if value.size else "")
    if isinstance(value, bytes | bytearray):
        return f"{type(value).__name__}, {size(len(value))}"
    if isinstance(value, list | tuple):
        shown = ", ".join(_inline(item) for item in list(value)[:_FEW])
        rest = f", … {len(value):,} items" if len(value) > _FEW else ""
        return f"[{shown}{rest}]" if isinstance(value, list) else f"({shown}{rest})"
    if isinstance(value, dict):
        return f"{{{len(value):,} entries}}" if value else "{}"
    return plain(repr(value) if not isinstance(value, int) or abs(value) < 1 << 80 else hex(value), 100)
