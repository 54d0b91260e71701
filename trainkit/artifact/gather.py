"""From a model on many ranks to one state on the first, and one verdict from the first to all.

every rank                                          rank 0
──────────                                          ──────
unwrap (DDP, compile)
sharded?  gather each parameter ───────────────▶    full state, on the CPU
not?      nothing to do                             the model's own tensors, no copy
                                                    writes
hear_verdict ◀──────────────────────────────────    "" or what went wrong
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import _SIZE  # the dtypes that it can write; it has no public list
from torch import Tensor, nn

from trainkit.contract.blame import is_collateral
from trainkit.errors import PeerLost, TrainkitError

FORMAT, METADATA = "format", "__metadata__"
"""Keys of a safetensors file that are none of the model's."""
VERDICT_BYTES = 1024
_heard: list[dist.Work] = []
"""Finished work, kept: gloo's thread would else be the last to let go of it, which takes the GIL. Scripts often destroy
the process group right after saving; that waits for gloo's threads without giving the GIL away, and both wait forever
(torch 2.13, seen in two of two runs of four ranks on two cores)."""
_COMPILED = "_orig_mod."


@dataclass(frozen=True, slots=True)
class State:
    """Each tensor once, and the further names of those that have several: alias → kept name."""

    tensors: Mapping[str, Tensor]
    aliases: Mapping[str, str]


def in_group() -> bool:
    return dist.is_available() and dist.is_initialized()


def unwrap(model: nn.Module) -> nn.Module:
    """The user's module inside DDP, DataParallel and torch.compile, in whatever order they were applied."""
    wrappers = (nn.parallel.DistributedDataParallel, nn.parallel.DataParallel)
    while True:
        inner = model.module if isinstance(model, wrappers) else getattr(model, "_orig_mod", model)
        if inner is model:
            return model
        model = inner


def plain_name(name: str) -> str:
    """A state dict's key without the marks of compiled submodules."""
    return name.replace(_COMPILED, "")


def collect(model: nn.Module) -> Mapping[str, Any] | None:
    """The whole state of an unwrapped sharded model, on the first rank; None for a model that is whole on each.

    Collective where parameters are sharded. Raises TrainkitError, on all ranks alike, where this cannot be done.
    """
    _refuse(model)
    if not is_sharded(model):
        return None
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    with _with_peers():
        return get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))


def each_once(model: nn.Module, collected: Mapping[str, Any] | None) -> State:
    """What `collect` gave, with tied tensors under their first name only. Not collective.

    Raises TrainkitError for what a safetensors file cannot hold, and whatever the model's own hooks raise.
    """
    collected = model.state_dict() if collected is None else collected
    tensors = {plain_name(name): tensor for name, tensor in collected.items()}
    strange = [name for name, tensor in tensors.items() if not isinstance(tensor, Tensor)]
    if strange:
        raise TrainkitError(f"{', '.join(strange)} in the model's state is no tensor; put such things in `files`")
    unfit = [f"{name} ({_kind(tensor)})" for name, tensor in tensors.items() if not _fits(tensor)]
    if unfit:
        raise TrainkitError(f"safetensors has no place for {', '.join(unfit)}; convert it, or put it in `files`")
    if METADATA in tensors:
        raise TrainkitError(f"safetensors keeps the name {METADATA} for itself; rename that parameter or buffer")
    # A gather gives every name a tensor of its own, so what is tied is seen in the parameters before it.
    ties = _same_objects(model) if is_sharded(model) else {}
    state = _each_once(tensors, ties=ties)
    if FORMAT in state.aliases:
        raise TrainkitError(f"safetensors keeps the name {FORMAT} for itself; rename that tied parameter or buffer")
    return state


def _fits(tensor: Tensor) -> bool:
    return tensor.layout is torch.strided and tensor.dtype in _SIZE


def _kind(tensor: Tensor) -> str:
    return str(tensor.dtype if tensor.layout is torch.strided else tensor.layout)


def is_sharded(model: nn.Module) -> bool:
    """Whether this rank's tensors are only its share."""
    if not in_group():
        return False
    from torch.distributed.tensor import DTensor

    held = (*model.parameters(), *model.buffers())
    return any(isinstance(tensor, DTensor) for tensor in held)


def _refuse(model: nn.Module) -> None:
    """Raise for kinds of sharding whose tensors would pass for the whole, and be saved as it."""
    fsdp = sys.modules.get("torch.distributed.fsdp")  # not imported: then nobody wrapped anything in it
    if fsdp is not None and any(isinstance(module, fsdp.FullyShardedDataParallel) for module in model.modules()):
        raise TrainkitError(
            "save_model takes no FullyShardedDataParallel, torch's older FSDP. "
            "Use torch's fully_shard instead (with accelerate: fsdp_version=2)."
        )
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if hasattr(tensor, "ds_id"):
            raise TrainkitError(
                f"{name} is sharded by DeepSpeed ZeRO-3, which save_model cannot gather. "
                "Save with the engine's save_16bit_model, or train with FSDP2 (fully_shard)."
            )
        if tensor.is_meta:
            raise TrainkitError(f"{name} is on the meta device: it has no values. Call model.to_empty(…) and fill it.")


def _same_objects(model: nn.Module) -> dict[str, str]:
    """Names that stand for the same parameter object: alias → the first of its names."""
    kept: dict[int, str] = {}
    ties: dict[str, str] = {}
    for name, tensor in sorted(model.state_dict(keep_vars=True).items()):
        first = kept.setdefault(id(tensor), plain_name(name))
        if first != plain_name(name):
            ties[plain_name(name)] = first
    return ties


def _each_once(tensors: Mapping[str, Tensor], *, ties: Mapping[str, str]) -> State:
    """Each tensor under its first name; what merely overlaps another, or is not contiguous, as a copy of its own."""
    aliases = dict(ties)
    kept: dict[str, Tensor] = {}
    views: dict[tuple[object, ...], str] = {}
    storages: set[tuple[torch.device, int]] = set()
    for name in sorted(tensors):
        if name in aliases:
            continue
        tensor = tensors[name].detach()
        storage = (tensor.device, tensor.untyped_storage().data_ptr())
        turned = (tensor.is_conj(), tensor.is_neg())
        view = (*storage, tensor.storage_offset(), tensor.shape, tensor.stride(), tensor.dtype, *turned)
        if tensor.numel() and views.setdefault(view, name) != name:
            aliases[name] = views[view]
            continue
        if any(turned):  # the storage holds other numbers than the tensor shows
            tensor = tensor.resolve_conj().resolve_neg().clone(memory_format=torch.contiguous_format)
        elif not tensor.is_contiguous() or storage in storages:
            tensor = tensor.clone(memory_format=torch.contiguous_format)
        elif tensor.numel():
            storages.add(storage)
        kept[name] = tensor
    return State(kept, aliases)


def hear_verdict(problem: str) -> str:
    """Rank 0's `problem` ("" where all went well), on every rank. Collective; returns at once without a group."""
    if not in_group():
        return problem
    verdict = torch.zeros(VERDICT_BYTES, dtype=torch.uint8)
    text = problem.encode()[:VERDICT_BYTES]
    verdict[: len(text)] = torch.tensor(list(text), dtype=torch.uint8)
    verdict = verdict.to(_group_device())
    try:
        with _with_peers():
            work = dist.broadcast(verdict, src=0, async_op=True)
            if work is not None:
                work.wait()
                _heard.append(work)
    except PeerLost:
        if problem:  # rank 0 knows better what went wrong
            return problem
        raise
    return bytes(verdict.cpu().tolist()).rstrip(b"\0").decode(errors="ignore")


@contextmanager
def _with_peers() -> Iterator[None]:
    """Turn what gloo and NCCL say when another rank is gone into words. Its echo stays in them, for contract.blame."""
    try:
        yield
    except RuntimeError as error:
        said = str(error).partition("\n")[0]
        if not is_collateral(said):
            raise
        raise PeerLost(
            f"another rank ended while the model was being saved; its own error is the cause ({said})"
        ) from error


def _group_device() -> torch.device:
    """Where the default group can move a tensor: NCCL takes none from the CPU."""
    backend = str(dist.get_backend())
    if "nccl" in backend and "gloo" not in backend:
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")
