"""Hosts with disks of their own: each goes on from what it has; what it lacks comes from the URL, or not at all."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from faults.plain import Host, hosts

pytestmark = pytest.mark.torch
SCRIPT = """
import hashlib, os, torch, torch.distributed as dist, trainkit
from torch.distributed.fsdp import fully_shard
job = trainkit.job()
dist.init_process_group("gloo")
torch.manual_seed(job.rank)
model = torch.nn.Sequential(torch.nn.Linear(300, 5), torch.nn.BatchNorm1d(5), torch.nn.Linear(5, 301))
for part in (model[0], model[2], model): fully_shard(part)
optimizer = torch.optim.AdamW(model.parameters(), foreach=False)
ckpt = job.checkpointer(every=2, model=model, optimizer=optimizer)
def digest():
    tensors = [*model.state_dict().values()]
    for parameter in model.parameters():
        tensors += [value for _, value in sorted(optimizer.state[parameter].items())]
    whole = [getattr(tensor, "full_tensor", lambda t=tensor: t)() for tensor in tensors]
    return hashlib.sha256(b"".join(tensor.detach().numpy().tobytes() for tensor in whole)).hexdigest()
start = ckpt.restore()
print(f"rank {job.rank} starts at {start} with {digest()}", flush=True)
for step, _ in job.steps(range(start, int(os.environ["STEPS"])), start=start):
    model(torch.randn(4, 300)).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    for buffer in model.buffers():
        dist.broadcast(buffer, 0)
    ckpt.step(step)
    ckpt.wait()
print(f"rank {job.rank} ends with {digest()}", flush=True)
dist.barrier()
dist.destroy_process_group()
"""
BRING = (
    "sh",
    "-c",
    'had="$KEPT/$(basename "$ROOT")"; test ! -d "$had" || cp -r "$had" "$ROOT/checkpoints"; exec "$@"',
    "",
)


def run(folder: Path, kept: Path, *, number: int, steps: int, **settings: Any) -> list[Host]:
    """Run the job on hosts that begin with what `kept` has for each; at the end `kept` has what they have."""
    given = {"procs": 1, **settings}
    with hosts(
        folder, SCRIPT, number=number, settings=given, before=BRING, ROOT="{root}", KEPT=str(kept), STEPS=str(steps)
    ) as running:
        for host in running:
            host.end()
    shutil.rmtree(kept, ignore_errors=True)
    for host in running:
        shutil.copytree(host.root / "checkpoints", kept / host.name)
    return running


def digests(running: list[Host], text: str) -> set[str]:
    return {line.split(text)[1].split()[0] for host in running for line in host.log.splitlines() if text in line}


def test_each_host_goes_on_from_its_own_disk_and_another_topology_needs_the_url(tmp_path: Path) -> None:
    kept, url = tmp_path / "kept", f"file://{tmp_path}/url"
    first = run(tmp_path / "first", kept, number=2, steps=4)
    assert [host.process.returncode for host in first] == [0, 0], [host.log for host in first]
    ends = digests(first, "ends with ")
    assert len(ends) == 1
    newest = [sorted(path.name for path in sorted((kept / host.name).glob("step-*"))[-1].iterdir()) for host in first]
    assert newest == [
        ["MANIFEST.json", "r00000.safetensors", "r00000.state"],  # what both hold, it has written itself
        ["r00001.replica.safetensors", "r00001.safetensors", "r00001.state"],
    ]

    shutil.copytree(kept, tmp_path / "for one")
    second = run(tmp_path / "second", kept, number=2, steps=6, checkpoint_url=url)
    assert [host.process.returncode for host in second] == [0, 0], [host.log for host in second]
    assert digests(second, "starts at 4 with ") == ends
    ends = digests(second, "ends with ")

    (alone,) = run(tmp_path / "alone", tmp_path / "for one", number=1, steps=6)
    assert alone.process.returncode != 0
    assert "there are checkpoints, and none can be used" in (alone.failure or ""), alone.failure
    assert "r00001.safetensors is in none of" in (alone.failure or ""), alone.failure

    shutil.rmtree(kept / "algo-2")  # a host that was replaced
    third = run(tmp_path / "third", kept, number=2, steps=6, checkpoint_url=url)
    assert [host.process.returncode for host in third] == [0, 0], [host.log for host in third]
    assert digests(third, "starts at 6 with ") == ends

    (moved,) = run(tmp_path / "moved", tmp_path / "nothing", number=1, steps=6, checkpoint_url=url)
    assert moved.process.returncode == 0, moved.log
    assert digests([moved], "starts at 6 with ") == ends
