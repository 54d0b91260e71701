"""Models with everything that is awkward to save, laid on ranks in every way, and what is to come back of them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

KINDS = ("ddp", "fsdp", "tp", "hsdp")
STEPS = 2


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, 2 * width + 3)
        self.down = nn.Linear(2 * width + 3, width, bias=False)
        self.norm = nn.BatchNorm1d(width)


class Zoo(nn.Module):
    """`width` 7 is small, and every dimension is one that ranks do not divide; many are smaller than their number."""

    def __init__(self, *, width: int = 7, blocks: int = 2) -> None:
        super().__init__()
        self.embed = nn.Embedding(3, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(blocks))
        self.head = nn.Linear(width, 3, bias=False)
        self.head.weight = self.embed.weight
        self.scale = nn.Parameter(torch.randn(()))
        self.single = nn.Parameter(torch.randn(1))
        self.few = nn.Parameter(torch.randn(2, 9))
        self.cube = nn.Parameter(torch.randn(5, 3, 2))
        self.brief = nn.Parameter(torch.randn(5, 4).bfloat16())
        self.frozen = nn.Linear(5, 3).requires_grad_(False)
        self.register_buffer("count", torch.tensor(int(torch.randint(1000, ()))))
        self.register_buffer("flags", torch.rand(9) > 0.5)
        self.register_buffer("angles", torch.randn(3, 2, dtype=torch.complex64))
        self.register_buffer("nothing", torch.empty(0, 4))
        self.register_buffer("scratch", torch.randn(2), persistent=False)
        self.note: Any = {"seen": [int(torch.randint(1000, ())), (1, "a")]}
        self.spare = torch.randn(3)
        self.inner = Noted()

    def get_extra_state(self) -> Any:
        return self.note

    def set_extra_state(self, state: Any) -> None:
        self.note = state


class Noted(nn.Module):
    """Its extra state is a tensor that is made for the purpose."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = torch.randint(1000, (3,)).tolist()

    def get_extra_state(self) -> Any:
        return torch.tensor(self.numbers)

    def set_extra_state(self, state: Any) -> None:
        self.numbers = state.tolist()


def laid(kind: str, model: nn.Module, ranks: int) -> nn.Module:
    """The model on all ranks. Some of its parts are wrapped in what changes their names."""
    blocks: Any = model.blocks
    if kind == "ddp":
        blocks[0] = checkpoint_wrapper(blocks[0])
        blocks[1] = checkpoint_wrapper(torch.compile(blocks[1]))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return nn.parallel.DistributedDataParallel(torch.compile(model)) if ranks > 1 else torch.compile(model)
    whole = {model.scale}
    if kind == "fsdp":
        mesh = init_device_mesh("cpu", (ranks,))
        blocks[0] = checkpoint_wrapper(blocks[0])
    elif kind == "hsdp":
        mesh = init_device_mesh("cpu", (2, ranks // 2) if ranks % 2 == 0 else (ranks, 1), mesh_dim_names=("dp", "s"))
        blocks[1] = torch.compile(blocks[1])
    else:
        both = init_device_mesh("cpu", (2, ranks // 2) if ranks == 4 else (1, ranks), mesh_dim_names=("dp", "tp"))
        for block in blocks:
            parallelize_module(block, both["tp"], {"up": ColwiseParallel(), "down": RowwiseParallel()})
        mesh = both["dp"]
    for block in blocks:
        fully_shard(block, mesh=mesh)
    return fully_shard(model, mesh=mesh, ignored_params=whole)


def optimizers(model: nn.Module) -> dict[str, torch.optim.Optimizer]:
    """Four, each with a part of the parameters; the first with two groups."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    parts = [parameters[at::4] for at in range(4)]
    groups = [{"params": parts[0][::2], "lr": 0.1}, {"params": parts[0][1::2], "weight_decay": 0.3}]
    return {
        "adamw": torch.optim.AdamW(groups, lr=0.01, foreach=False),
        "momentum": torch.optim.SGD(parts[1], lr=0.1, momentum=0.9, foreach=False),
        "plain": torch.optim.SGD(parts[2], lr=0.1, foreach=False),
        "adagrad": torch.optim.Adagrad(parts[3], lr=0.1, foreach=False),
    }


def step(given: dict[str, Any]) -> None:
    """A gradient for each element that depends on that element alone: the same, however the ranks share it."""
    for parameter in given["model"].parameters():
        if parameter.requires_grad:
            parameter.grad = parameter.detach() * 0.3 + 0.01
    for optimizer in given.values():
        if isinstance(optimizer, torch.optim.Optimizer):
            optimizer.step()
    given["scheduler"].step()


def objects(kind: str, ranks: int, *, seed: int, width: int = 7, blocks: int = 2, steps: int = STEPS) -> dict[str, Any]:
    """What is given to a checkpointer."""
    torch.manual_seed(seed)
    zoo = Zoo(width=width, blocks=blocks)
    model = laid(kind, zoo, ranks)
    used = optimizers(model)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(used["adamw"], 50)
    given = {**used, "model": model, "scheduler": scheduler}  # an optimizer may come before its model
    for _ in range(steps):
        step(given)
    return given


def facts(given: dict[str, Any]) -> dict[str, Any]:
    """Everything, whole, by names without wrappers. Collective."""
    model, told = given["model"], {}
    names: dict[int, str] = {}
    state = model.state_dict(keep_vars=True)
    for key, value in state.items():
        name = plain(key)
        told[f"model.{name}"] = whole(value) if isinstance(value, Tensor) else value
        if isinstance(value, Tensor):
            names.setdefault(id(value), name)
    for kind, optimizer in given.items():
        if isinstance(optimizer, torch.optim.Optimizer):
            for at, group in enumerate(optimizer.param_groups):
                told[f"{kind}.{at}"] = {key: value for key, value in group.items() if key != "params"}
                for parameter in group["params"]:
                    for key, value in optimizer.state[parameter].items():
                        told[f"{kind}.{names[id(parameter)]}.{key}"] = whole(value)
    told["scheduler"] = given["scheduler"].state_dict()
    return told


def plain(name: str) -> str:
    for part in ("module.", "_orig_mod.", "_checkpoint_wrapped_module."):
        name = name.replace(part, "")
    return name


def whole(value: Any) -> Any:
    if isinstance(value, DTensor):
        return value.full_tensor().detach().clone()
    return value.detach().clone() if isinstance(value, Tensor) else value


def differences(one: dict[str, Any], other: dict[str, Any]) -> Iterator[str]:
    for name in sorted(one.keys() | other.keys()):
        if name not in one or name not in other or not same(one[name], other[name]):
            yield f"{name}: {one.get(name)!r:.120} / {other.get(name)!r:.120}"


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.dtype == other.dtype and one.shape == other.shape and torch.equal(one, other)
    return bool(type(one) is type(other) and one == other)


def needed(given: dict[str, Any]) -> int:
    """Bytes of this rank's parts."""
    tensors = [value for value in given["model"].state_dict().values() if isinstance(value, Tensor)]
    for optimizer in given.values():
        if isinstance(optimizer, torch.optim.Optimizer):
            tensors += [v for entries in optimizer.state.values() for v in entries.values() if isinstance(v, Tensor)]
    parts = [tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in tensors]
    return sum(part.numel() * part.element_size() for part in parts)
