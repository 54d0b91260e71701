"""What trainkit.data.order promises, from the order alone: no bytes are read. Prints JSON.

python benchmarks/streams/order.py quality | scale RANKS
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np

from trainkit.data.order import Integers, Order
from trainkit.data.share import Share


def quality(*, batches: int) -> dict[str, dict[str, float]]:
    """Class-sorted data: 1,000,000 samples of 25 KB in 2,500 shards of 400, 100 classes; 8 ranks take 64 each.

    How many pairs of a batch come from one shard, and how far its classes are from even, both to what chance would
    give (1). Blocks are tenths of a shard, 1 MiB; a rank's window is its lanes, one block each.
    """
    total, ranks, batch = 1_000_000, 8, 64
    rows = np.full(total // 40, 40, dtype=np.int64)
    share = Share(0, 1, ranks * batch, "drop", strided=True)
    measured = {}
    for name, window in (("64 MB", 61), ("128 MB", 122)):
        order = Order.of(rows, seed=0, epoch=0, lanes=ranks * window)
        at = np.random.default_rng(1).choice(share.steps(total, 0), batches, replace=False)
        measured[name] = _spread([_rows(order, share.samples(total, int(step) * share.whole)) for step in at], total)
    chance = np.random.default_rng(2)
    uniform = [chance.choice(total, share.whole, replace=False).astype(np.int64) for _ in range(batches)]
    return {**measured, "chance": _spread(uniform, total)}


def _rows(order: Order, samples: Integers) -> Integers:
    places = order.places(samples)
    mixed = {block: order.mixed(block, 40) for block in set(places.blocks.tolist())}
    turns = zip(places.blocks.tolist(), places.turns.tolist(), strict=True)
    return np.array([block * 40 + int(mixed[block][turn]) for block, turn in turns])  # type: ignore[index]


def _spread(batches: list[Integers], total: int) -> dict[str, float]:
    size = len(batches[0])
    expected = size * (size - 1) / 2 * 399 / (total - 1)
    pairs, chi = [], []
    for rows in batches:
        counts = np.unique(rows // 400, return_counts=True)[1]
        pairs.append((counts * (counts - 1)).sum() / 2)
        classes = np.bincount(rows * 100 // total, minlength=100)
        chi.append(((classes - size / 100) ** 2 / (size / 100)).sum() / 99)
    return {"pairs": float(np.mean(pairs)) / expected, "chi2": float(np.mean(chi))}


def scale(ranks: int) -> dict[str, float]:
    """10^6 blocks of 1,000 rows: what one rank pays to plan an epoch, and to find its next step at 90 % of it."""
    rows = np.full(1_000_000, 1000, dtype=np.int64)
    Order.of(rows[:1000], seed=0, epoch=0, lanes=64).places(np.arange(64))  # what numpy does once
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before, spent = _status("VmRSS"), time.process_time()
    order = Order.of(rows, seed=0, epoch=0, lanes=ranks * 128)
    plan, peak, held = time.process_time() - spent, _status("VmHWM") - before, _status("VmRSS") - before
    share = Share(ranks - 1, ranks, 64, "drop", strided=True)
    position = int(order.total * 0.9) // share.whole * share.whole
    spent = time.process_time()
    order.places(share.samples(order.total, position))
    seek = time.process_time() - spent
    return {"plan": plan, "seek_ms": seek * 1e3, "peak": peak / 1e6, "held": held / 1e6}


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) * 1024


if __name__ == "__main__":
    told = quality(batches=100) if sys.argv[1] == "quality" else scale(int(sys.argv[2]))
    print(json.dumps(told))
