"""A real training loop in which one thing goes wrong: what, on which rank and at which step are hyperparameters.

    planted.py --fault raise --rank 3 --step 5 [--steps 1000000] [--loop job | range]

`--loop job` drives it by trainkit's steps, `range` by nothing: that is for launchers which know no trainkit. The line
`planted SECONDS` says when the fault was, `reached step N` that this host's first rank is there.
"""

from __future__ import annotations

import argparse
import ctypes
import mmap
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path

MOST_MEMORY = 4 << 30  # bytes: what limits us is a control group; without one we stop here
RANK = int(os.environ["RANK"])


def hyperparameters() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--fault", default="none")
    parser.add_argument("--rank", type=int, default=-1)
    parser.add_argument("--step", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--loop", default="job")
    return parser.parse_known_args()[0]


HP = hyperparameters()


def announce() -> None:
    print(f"planted {time.time()}", flush=True)


if HP.fault == "import" and HP.rank == RANK:
    announce()
    import module_of_the_other_ranks  # type: ignore[import-not-found]  # noqa: F401

import torch  # noqa: E402
import torch.distributed as dist  # noqa: E402


def stuck() -> None:
    threading.Event().wait()


def hoard() -> None:
    kept = []
    while len(kept) << 26 < MOST_MEMORY:
        kept.append(bytearray(b"\1") * (1 << 26))


def write_beyond_shared_memory() -> None:
    file = os.open("/dev/shm/planted", os.O_RDWR | os.O_CREAT)
    os.unlink("/dev/shm/planted")  # noqa: PTH108
    os.ftruncate(file, 64 << 20)  # which promises nothing: the pages are not there
    with mmap.mmap(file, 64 << 20) as shared:
        for page in range(0, 64 << 20, mmap.PAGESIZE):
            shared[page] = 1


def save(step: int) -> None:
    model = Path("/opt/ml/model")
    for number in range(64):
        (model / f"step-{step}-{number}").write_bytes(bytes(1 << 20))


def go_wrong(step: int) -> None:
    announce()
    if HP.fault == "raise":
        raise ValueError(f"planted at step {step}")
    if HP.fault == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if HP.fault == "crash":
        ctypes.string_at(0)
    if HP.fault == "exit":
        sys.exit(3)
    if HP.fault == "memory":
        hoard()
    if HP.fault == "bus":
        write_beyond_shared_memory()
    if HP.fault == "disk":
        save(step)
    if HP.fault in ("hang", "hang-all"):
        stuck()


def batches(count: int) -> Iterable[tuple[int, int]]:
    if HP.loop == "range":
        return ((step, step) for step in range(count))
    import trainkit

    return trainkit.job().steps(range(count))


def train() -> None:
    torch.manual_seed(1)
    model = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.ReLU(), torch.nn.Linear(32, 1))
    rows = [float(line) for line in Path("/opt/ml/input/data/train/rows.txt").read_text().split()]
    x = torch.tensor(rows).reshape(-1, 16)
    for step, _ in batches(HP.steps):
        if step == HP.step and os.environ["LOCAL_RANK"] == "0":
            print(f"reached step {step}", flush=True)
        if step == HP.step and (HP.rank == RANK or HP.fault == "hang-all"):
            if HP.fault == "early":
                announce()
                return
            go_wrong(step)
        time.sleep(0.02)  # the rest of a step's work
        model.zero_grad()
        torch.nn.functional.mse_loss(model(x), x.sum(1, keepdim=True)).backward()
        for parameter in model.parameters():
            assert parameter.grad is not None
            dist.all_reduce(parameter.grad)
            parameter.data -= 1e-4 * parameter.grad / dist.get_world_size()
    print(f"trained {HP.steps} steps", flush=True)


if __name__ == "__main__":
    if HP.fault == "missing" and not Path("/opt/ml/input/data/train/rows.txt").exists():
        announce()
    dist.init_process_group("gloo")
    train()
