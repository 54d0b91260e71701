"""The state that is saved: a model sharded by FSDP2 and its AdamW, and what the machine can do with as many bytes."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

WIDTH = 722  # divisible by two ranks, and by nothing that would make boundaries of blocks and of shards meet
BLOCKS = 24


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)


def build(*, blocks: int = BLOCKS, sharded: bool = True, seed: int = 7) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A model of four parameters a block, after one step of AdamW: 16 tensors and 25 MB of state a block."""
    torch.manual_seed(seed)
    model = nn.Sequential(*(Block(WIDTH) for _ in range(blocks)))
    if sharded:
        for block in model:
            fully_shard(block)
        fully_shard(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    settle(optimizer)
    return model, optimizer


def settle(optimizer: torch.optim.Optimizer) -> None:
    """One step: only then has it its moments."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for parameter in parameters:
        parameter.grad = torch.full_like(parameter, 1e-3)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """All that the state has."""
    moments = [value for entries in optimizer.state_dict()["state"].values() for value in entries.values()]
    return [tensor.detach() for tensor in (*model.state_dict().values(), *moments)]


def parts(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """What this rank has of every tensor of the state."""
    return [_local(tensor) for tensor in tensors(model, optimizer)]


def size(model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    return sum(part.nbytes for part in parts(model, optimizer))


def checksum(model: nn.Module, optimizer: torch.optim.Optimizer) -> float:
    """This rank's share of one number, which is the same whatever the number of ranks: what all have counts once."""
    ranks = dist.get_world_size()
    return sum(
        float(_local(tensor).double().sum()) / (1 if isinstance(tensor, DTensor) else ranks)
        for tensor in tensors(model, optimizer)
    )


class Machine:
    """As many bytes as the state has on this rank, copied, and written, by all ranks at once."""

    def __init__(self, size: int, folder: Path, *, rank: int) -> None:
        self._from, self._to = (torch.ones(size, dtype=torch.uint8) for _ in range(2))
        self._path = folder / f"raw-{rank}"

    def copy(self) -> float:
        """Seconds of a memcpy into memory that has its pages."""
        meet()
        began = time.perf_counter()
        self._to.copy_(self._from)
        return time.perf_counter() - began

    def write(self) -> float:
        """Seconds of write and fsync, without any checksum."""
        meet()
        began = time.perf_counter()
        with self._path.open("wb", 0) as file:
            rest = memoryview(self._from.numpy())
            while rest:
                rest = rest[file.write(rest) :]
            os.fsync(file.fileno())
        took = time.perf_counter() - began
        self._path.unlink()
        return took


def meet() -> None:
    if dist.is_initialized():
        dist.barrier()


def gathered(value: Any) -> list[Any]:
    """Of all ranks."""
    if not dist.is_initialized():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def _local(tensor: Tensor) -> Tensor:
    part: Any = tensor
    return part.to_local() if hasattr(part, "to_local") else part
