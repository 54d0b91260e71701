"""Which ranks hold which part of a torch tensor: known on every rank from the tensor itself."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trainkit.checkpoint.boxes import Box, Shape
from trainkit.checkpoint.plan import Held, Holdings
from trainkit.errors import CheckpointError

DTYPES: Mapping[torch.dtype, str] = MappingProxyType(
    {
        dtype: name
        for name, dtype in {
            "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "I16": torch.int16, "I32": torch.int32,
            "I64": torch.int64, "F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32,
            "F64": torch.float64, "C64": torch.complex64, "C128": torch.complex128,
            **{name: getattr(torch, spelled) for name, spelled in (
                ("U16", "uint16"), ("U32", "uint32"), ("U64", "uint64"), ("F8_E4M3", "float8_e4m3fn"),
                ("F8_E5M2", "float8_e5m2"), ("F8_E8M0", "float8_e8m0fnu"), ("F8_E4M3FNUZ", "float8_e4m3fnuz"),
                ("F8_E5M2FNUZ", "float8_e5m2fnuz"),
            ) if hasattr(torch, spelled)},
        }.items()
    }
)  # fmt: skip
"""The dtypes that can be saved, under their names in a checkpoint."""
OF_NAME: Mapping[str, torch.dtype] = MappingProxyType({name: dtype for dtype, name in DTYPES.items()})


class _Seen(NamedTuple):
    """A tensor that was looked at before: a save looks at thousands, and they are mostly the same."""

    of: weakref.ref[Tensor]
    shape: torch.Size
    dtype: torch.dtype
    held: Held
    box: Box | None

    def alike(self, tensor: Tensor, first: bool) -> bool:
        """Whether it is what it was: `tensor.data = …` may change shape and dtype."""
        return tensor.shape == self.shape and tensor.dtype is self.dtype and self.held.first == first


class Holders:
    """Remembers for each kind of tensor how it lies on the ranks. `rank` is this one's, of `ranks`."""

    def __init__(self, *, rank: int, ranks: int) -> None:
        self._rank, self._everybody = rank, tuple(range(ranks))
        self._known: dict[Any, tuple[Holdings, Box | None]] = {}
        self._seen: dict[str, _Seen] = {}

    def held(self, name: str, tensor: Tensor, *, first: bool = False) -> tuple[Held, Box | None]:
        """The tensor as the plan needs to know it, and the box of it that this rank has; None where that is empty.

        `first`: ranks may hold different values, and rank 0's count. Raises CheckpointError for what cannot be saved.
        """
        seen = self._seen.get(name)
        if seen and seen.of() is tensor and seen.alike(tensor, first):
            return seen.held, seen.box
        if tensor.layout is not torch.strided or tensor.is_quantized or tensor.dtype not in DTYPES:
            kind = tensor.dtype if tensor.layout is torch.strided else tensor.layout
            raise CheckpointError(f"{name} is a tensor of a kind that no checkpoint can hold ({kind}): convert it")
        if tensor.is_meta:
            raise CheckpointError(f"{name} is on the meta device: it has no values. Call to_empty(…) and fill it")
        holdings, box = self._holdings(name, tensor)
        held = Held(name, DTYPES[tensor.dtype], tuple(tensor.shape), holdings, first)
        self._seen[name] = _Seen(weakref.ref(tensor), tensor.shape, tensor.dtype, held, box)
        return held, box

    def _holdings(self, name: str, tensor: Tensor) -> tuple[Holdings, Box | None]:
        """Which ranks hold which box of it, and which one is ours."""
        shape = tuple(tensor.shape)
        mesh, placements = getattr(tensor, "device_mesh", None), getattr(tensor, "placements", None)
        key = (shape, mesh, placements)
        if key not in self._known:
            if mesh is None or placements is None:
                holdings = Holdings(((Box.whole(shape), self._everybody),) if 0 not in shape else ())
            else:
                holdings = Holdings(_of_mesh(name, shape, mesh, placements))
            ours = next((box for box, ranks in holdings.boxes if self._rank in ranks), None)
            self._known[key] = holdings, ours
        return self._known[key]


def part_of(tensor: Tensor) -> Tensor:
    """This rank's part of a tensor, without a copy. Call it under no_grad: else DTensor dispatches an operation."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a tensor, without a copy, and without a history."""
    with torch.no_grad():
        return part_of(tensor).detach()


def _of_mesh(name: str, shape: Shape, mesh: Any, placements: Any) -> tuple[tuple[Box, tuple[int, ...]], ...]:
    """For each place in the mesh what the rank there holds. This is torch's own rule, uneven and strided shards too."""
    from torch.distributed.tensor._utils import _compute_local_shape_and_global_offset

    if strange := [placement for placement in placements if placement.is_partial()]:
        raise CheckpointError(
            f"{name} is a sum that is not finished ({strange[0]}): redistribute it before it is saved"
        )
    alike = _and_its_like(mesh)
    ranks: dict[Box, list[int]] = {}
    coordinate: tuple[int, ...]
    for coordinate in itertools.product(*(range(length) for length in mesh.shape)):
        lengths, offsets = _compute_local_shape_and_global_offset(
            torch.Size(shape), mesh.shape, list(coordinate), placements
        )
        if 0 not in lengths:
            holders = ranks.setdefault(Box(tuple(offsets), tuple(lengths)), [])
            holders += alike.movedim(0, -1)[coordinate].tolist()
    return tuple((box, tuple(sorted(holders))) for box, holders in ranks.items())


def _and_its_like(mesh: Any) -> Tensor:
    """The ranks of this mesh, and of those like it: a part of a mesh has a sibling on the other ranks.

    With tensor parallelism, what is not cut by it lies on the mesh of data parallelism alone: on each rank on another
    one, and with the same values.
    """
    layout = getattr(mesh, "_layout", None)
    if layout is not None:
        return layout.remap_to_tensor(mesh._rank_map)  # type: ignore[no-any-return]
    from torch.distributed.device_mesh import _mesh_resources  # before torch 2.10

    root = _mesh_resources.get_root_mesh(mesh)
    if root is mesh or not set(mesh.mesh_dim_names or ()) <= set(root.mesh_dim_names or ()):
        return mesh.mesh.unsqueeze(0)  # type: ignore[no-any-return]
    ours = [list(root.mesh_dim_names or ()).index(name) for name in mesh.mesh_dim_names]
    others = [dimension for dimension in range(root.ndim) if dimension not in ours]
    return root.mesh.permute(*others, *ours).reshape(-1, *mesh.shape)
