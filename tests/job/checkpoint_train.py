"""A training that shows in its weights and losses whatever is lost, done twice, or drawn anew. Under any launcher.

--kind ddp|fsdp|accelerate   --steps 60   --epochs N   --every 3   --pace 0.0 (seconds of each step)
--by_hand: the script has its own loop, and saves at a stop
Each rank appends {"step", "epoch", "ids", "loss"} of each step to <folder>/rank-<rank>.jsonl, and at the end its
weights' hash.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

import trainkit

job = trainkit.job()
folder = Path(job.hp("folder"))
kind, steps, pace = job.hp("kind", "ddp"), job.hp("steps", 60), job.hp("pace", 0.0)
(folder / f"{job.rank}.pid").write_text(str(os.getpid()))
if not kind.startswith("accelerate") and int(os.environ.get("WORLD_SIZE", 1)) >= 1 and "RANK" in os.environ:
    dist.init_process_group("gloo")
torch.manual_seed(100 + job.rank)
network = nn.Sequential(nn.Linear(8, 33), nn.BatchNorm1d(33), nn.ReLU(), nn.Dropout(0.2), nn.Linear(33, 1))
optimizer: Any
model: nn.Module = network
extra: dict[str, Any] = {}
accelerator: Any = None


def adamw(of: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW([{"params": of[0].parameters(), "lr": 0.02}, {"params": [*of.parameters()][2:]}], lr=0.01)


def schedule(of: Any) -> Any:
    return torch.optim.lr_scheduler.CosineAnnealingLR(of, 100)


if kind == "ddp":
    model = nn.parallel.DistributedDataParallel(network) if job.world_size > 1 else network
    optimizer = adamw(network)
    scheduler = schedule(optimizer)
    extra = {"scaler": torch.amp.GradScaler("cpu")}
elif kind == "fsdp":
    from torch.distributed.fsdp import fully_shard

    for parameter in network.parameters():
        dist.broadcast(parameter.data, 0)
    model = fully_shard(network)
    optimizer = adamw(network)
    scheduler = schedule(optimizer)
else:
    import accelerate

    plugin = None
    if kind == "accelerate-fsdp":
        plugin = accelerate.FullyShardedDataParallelPlugin(fsdp_version=2, auto_wrap_policy="no_wrap")
    accelerator = accelerate.Accelerator(cpu=True, fsdp_plugin=plugin)
    plain = adamw(network)
    model, optimizer, scheduler = accelerator.prepare(network, plain, schedule(plain))

stream = job.stream("train", batch_size=4, shuffle=True, seed=5) if job.channels else None
ckpt = job.checkpointer(
    every=job.hp("every", 3), optimizer=optimizer, model=model, scheduler=scheduler, stream=stream, **extra
)
start = ckpt.restore()
print(f"rank {job.rank} starts at {start} in generation {os.environ.get('TORCHELASTIC_RESTART_COUNT')}", flush=True)
log = (folder / f"rank-{job.rank}.jsonl").open("a", buffering=1)


def batches() -> Any:
    """Epoch after epoch, or so many of all starts together."""
    while stream.state_dict()["epoch"] < job.hp("epochs", 10**9):
        yield from stream


def loss_of(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    loss = nn.functional.mse_loss(model(x), y)
    scaler = extra.get("scaler")
    if accelerator:
        accelerator.backward(loss)
    else:
        (scaler.scale(loss) if scaler else loss).backward()
    if scaler:
        scaler.step(optimizer)
        scaler.update()
    else:
        optimizer.step()
    scheduler.step()
    optimizer.zero_grad()
    return loss


done = start
items = zip(range(start, steps), batches(), strict=False)
loop = items if job.hp("by_hand", False) else ((step, batch) for step, (_, batch) in job.steps(items, start=start))
for step, batch in loop:
    ids = batch["id"]
    x = ids[:, None] / 64.0 + torch.arange(8) / 8.0
    loss = loss_of(x.float(), (ids[:, None] % 7).float())
    behind = stream.state_dict()
    epoch = behind["epoch"] - (behind["position"] == 0)
    log.write(json.dumps({"step": step, "epoch": epoch, "ids": ids.tolist(), "loss": loss.item().hex()}) + "\n")
    if job.hp("by_hand", False):
        if job.should_stop():
            print(f"rank {job.rank} saved by hand: {ckpt.save(step)}", flush=True)
            break
    else:
        ckpt.step(step, loss=loss.detach())
    done = step + 1
    time.sleep(pace)
states = [*model.state_dict().values()]
for group in optimizer.param_groups:
    for parameter in group["params"]:
        states += [value for _, value in sorted(optimizer.state[parameter].items())]
whole = [value.full_tensor() if hasattr(value, "full_tensor") else value for value in states]
digest = hashlib.sha256(b"".join(value.detach().contiguous().numpy().tobytes() for value in whole)).hexdigest()
if done == steps:
    epoch = (scheduler.scheduler if accelerator else scheduler).last_epoch
    log.write(json.dumps({"digest": digest, "random": torch.rand(()).item().hex(), "epoch": epoch}) + "\n")
print(f"rank {job.rank} ended after {done}", flush=True)
ckpt.close()
if dist.is_initialized():
    dist.barrier()
    dist.destroy_process_group()
