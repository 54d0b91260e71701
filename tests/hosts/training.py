"""A training script for tests: every kind of data parallelism under one roof, with the weights' hash at the end.

training.py --kind ddp|fsdp2|accelerate|loader
"""

from __future__ import annotations

import hashlib
import os
import sys

import torch
import torch.distributed as dist
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset


def data() -> TensorDataset:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(256, 16, generator=generator)
    return TensorDataset(x, x.sum(1, keepdim=True))


def network() -> torch.nn.Module:
    torch.manual_seed(2)
    return torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.ReLU(), torch.nn.Linear(32, 1))


def train(model: torch.nn.Module, *, workers: int) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    loader = DataLoader(data(), batch_size=16, sampler=DistributedSampler(data(), seed=3), num_workers=workers)
    for x, y in loader:
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(model(x), y).backward()
        optimizer.step()


def with_accelerate() -> torch.nn.Module:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    model = network()
    loader = DataLoader(data(), batch_size=16)
    wrapped, optimizer, loader = accelerator.prepare(model, torch.optim.AdamW(model.parameters(), lr=1e-2), loader)
    for x, y in loader:
        optimizer.zero_grad()
        accelerator.backward(torch.nn.functional.mse_loss(wrapped(x), y))
        optimizer.step()
    return model


def main(kind: str) -> None:
    if kind == "accelerate":
        model = with_accelerate()
    else:
        dist.init_process_group("gloo")
        model = network()
        if kind == "fsdp2":
            from torch.distributed.fsdp import fully_shard

            train(fully_shard(model), workers=0)
        else:
            train(torch.nn.parallel.DistributedDataParallel(model), workers=2 if kind == "loader" else 0)
    tensors = [getattr(p, "full_tensor", lambda p=p: p)() for p in model.parameters()]
    digest = hashlib.sha256(b"".join(t.detach().numpy().tobytes() for t in tensors)).hexdigest()
    print(f"weights {digest} of {dist.get_world_size()} ranks, restarts {os.environ['TORCHELASTIC_RESTART_COUNT']}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[2])
