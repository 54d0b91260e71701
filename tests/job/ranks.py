"""Ranks with torch, forked from one process that has imported it: many worlds, one after the other, for one import.

ranks.run(4, work, folder)      # work(rank, ranks) in each of four processes with a gloo group; their results
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

PATIENCE = timedelta(seconds=120)


def run(ranks: int, work: Callable[[int, int], Any], *, group: bool = True) -> list[Any]:
    """What `work` returned on each rank; AssertionError with the tracebacks where it raised."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        children = [_fork(rank, ranks, work, place, group=group) for rank in range(ranks)]
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        wrong = [(place / f"{rank}.error") for rank in range(ranks)]
        told = "\n".join(path.read_text() for path in wrong if path.exists())
        if any(codes):
            raise AssertionError(f"exit codes {codes}\n{told}")
        return [json.loads((place / f"{rank}.json").read_text()) for rank in range(ranks)]


def _fork(rank: int, ranks: int, work: Callable[[int, int], Any], place: Path, *, group: bool) -> int:
    sys.stdout.flush()
    if child := os.fork():
        return child
    try:
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(ranks), LOCAL_WORLD_SIZE=str(ranks))
        torch.set_num_threads(1)
        if group:
            dist.init_process_group(
                "gloo", init_method=f"file://{place}/store", rank=rank, world_size=ranks, timeout=PATIENCE
            )
        result = work(rank, ranks)
        (place / f"{rank}.json").write_text(json.dumps(result))
        if group:
            dist.barrier()  # who leaves first takes the others' connections away
        code = 0
    except BaseException:  # noqa: BLE001 - told by the parent, whatever it is
        (place / f"{rank}.error").write_text(f"rank {rank} of {ranks}: {traceback.format_exc()}")
        code = 1
    sys.stdout.flush()
    os._exit(code)
