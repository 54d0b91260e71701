"""What it takes to plan a save of many tensors on many ranks, on rank 0: python planning.py RANKS TENSORS PEER_RANKS

Nothing is saved, and there is one process. It believes to be rank 0 of RANKS (torch's `fake` process group), and has as
many DTensors, each sharded over all ranks, in ten shapes. Ours is what a first save does about them: how they lie, the
plan, this rank's file, the digest, and the manifest's text and its parsing; and what a further save does. The peer is
DCP's default planner, central on rank 0 as well: what it does with the local plans of PEER_RANKS ranks, and with their
pickles, which is what its gather and its scatter carry.
"""

from __future__ import annotations

import dataclasses
import json
import pickle
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint import DefaultSavePlanner
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard
from torch.testing._internal.distributed.fake_pg import FakeStore

from trainkit.checkpoint import image, manifest, plan
from trainkit.checkpoint.holdings import Holders
from trainkit.checkpoint.manifest import File, Manifest
from trainkit.checkpoint.subjects import Collected

SHAPES = 10
HOSTS_OF = 8  # ranks of a host


def main() -> None:
    ranks, tensors, peers = map(int, sys.argv[1:4])
    print(json.dumps(ours(ranks, tensors) if peers == 0 else peer(peers, tensors)))


def ours(ranks: int, count: int) -> dict[str, float]:
    """CPU seconds of each part."""
    state = tensors(ranks, count)
    host_of = [rank // HOSTS_OF for rank in range(ranks)]
    took: dict[str, float] = {}

    def timed(what: str, work: Callable[[], Any]) -> Any:
        began = time.process_time()
        result = work()
        took[what] = took.get(what, 0.0) + time.process_time() - began
        return result

    holders = Holders(rank=0, ranks=ranks)

    def collect() -> Collected:
        collected = Collected()
        for name, tensor in state.items():
            collected.add(name, tensor, holders)
        return collected

    collected = timed("how they lie", collect)
    made = timed("plan", lambda: plan.make(collected.held, host_of=host_of, copies=False))
    timed("digest", lambda: made.digest)
    timed("own file", lambda: image.of(made, 0))
    blocks = tuple(range(64))
    files = tuple(File(image.file_name(rank), 64 << 20, 1, blocks) for rank in range(ranks))
    hosts = tuple(f"algo-{number}" for number in range(host_of[-1] + 1))
    whole = Manifest(0, "0" * 24, "job", 0.0, hosts, tuple(host_of), made, files, {})
    text = timed("manifest, text", whole.text)
    message = json.dumps({"say": "planned", "plan": made.document})
    timed("a rank's plan, read by the coordinator", lambda: manifest.plan_of(json.loads(message)["plan"], ranks=ranks))
    first = dict(took)
    took.clear()
    again = timed("how they lie", collect)
    assert timed("compare", lambda: again.held == collected.held)
    return {
        **first, **{f"again: {what}": seconds for what, seconds in took.items()},
        "manifest MB": len(text) / 1e6, "a rank's plan MB": len(message) / 1e6,
    }  # fmt: skip


def peer(ranks: int, count: int) -> dict[str, float]:
    """CPU seconds of each part, with as many ranks."""
    state = tensors(ranks, count)
    planner = DefaultSavePlanner()
    planner.set_up_planner(dict(state), is_coordinator=True)
    began = time.process_time()
    local = planner.create_local_plan()
    took = {"local plan": time.process_time() - began}
    began = time.process_time()
    pickled = pickle.dumps(local)
    took["pickle"] = time.process_time() - began
    took["plan MB"] = len(pickled) / 1e6
    plans = []
    began = time.process_time()
    for _ in range(ranks):
        plans.append(pickle.loads(pickled))
    took["unpickle all"] = time.process_time() - began
    for rank, other in enumerate(plans):  # each has other offsets, as the ranks' own plans would
        other.items[:] = [_moved(item, rank) for item in other.items]
    began = time.process_time()
    merged, _ = planner.create_global_plan(plans)
    took["global plan"] = time.process_time() - began
    began = time.process_time()
    for one in merged:
        pickle.dumps(one)
    took["pickle all"] = time.process_time() - began
    return took


def _moved(item: Any, rank: int) -> Any:
    chunk = item.tensor_data.chunk
    offsets = torch.Size([chunk.sizes[0] * rank, *chunk.offsets[1:]])
    data = dataclasses.replace(item.tensor_data, chunk=dataclasses.replace(chunk, offsets=offsets))
    return dataclasses.replace(item, index=dataclasses.replace(item.index, offset=offsets), tensor_data=data)


def tensors(ranks: int, count: int) -> dict[str, Tensor]:
    """Each with as many rows as there are ranks."""
    dist.init_process_group("fake", rank=0, world_size=ranks, store=FakeStore())
    mesh = init_device_mesh("cpu", (ranks,))
    made: dict[str, Tensor] = {}
    for number in range(count):
        width = 1 + number % SHAPES
        made[f"model.layers.{number // 10}.part_{number % 10}.weight"] = DTensor.from_local(
            torch.zeros(1, width),
            mesh,
            [Shard(0)],
            run_check=False,
            shape=torch.Size((ranks, width)),
            stride=(width, 1),
        )
    return made


if __name__ == "__main__":
    main()
