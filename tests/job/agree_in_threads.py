"""Run by test_agreement: ranks that are threads, each with a connection of its own to a real store. Prints JSON."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta

import torch.distributed as dist

from trainkit.job import agreement
from trainkit.job.agreement import Place, Talk
from trainkit.job.signals import Stop

RANKS = 4
SERVER = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)


def place(rank: int, prefix: str, *, port: int = SERVER.port, ranks: int = RANKS) -> Place:
    return Place("127.0.0.1", port, prefix, rank, ranks)


def together(run: Callable[[int], object]) -> None:
    threads = [threading.Thread(target=run, args=(rank,), daemon=True) for rank in range(RANKS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads), "a rank hangs"


def freely(attempt: int, wanting: set[int]) -> list[int]:
    """The count at which each rank stopped, where nothing holds them together and each has its own pace."""
    stopped_at = [0] * RANKS

    def run(rank: int) -> None:
        talk, count = Talk(place(rank, f"freely {attempt}")), 1
        while not talk.beyond(count, wanted=rank in wanting and count > 100 * attempt):
            for _ in range(10 * rank):
                pass
            count += 1
        stopped_at[rank] = count

    together(run)
    return stopped_at


def in_step() -> list[int]:
    """The same with a collective in each second step, which none leaves before all are there."""
    stopped_at, meeting = [0] * RANKS, threading.Barrier(RANKS)

    def run(rank: int) -> None:
        talk, count = Talk(place(rank, "in step")), 1
        while not talk.beyond(count, wanted=rank == 2 and count > 50):
            if count % 2:
                meeting.wait(50)
            count += 1
        stopped_at[rank] = count

    together(run)
    return stopped_at


def one_never_asks() -> list[bool | None]:
    """Of four, rank 3 comes only after the others have given up waiting for it."""
    answers: list[bool | None] = [None] * RANKS

    def run(rank: int) -> None:
        if rank < 3:
            answers[rank] = Talk(place(rank, "silent")).beyond(7 + rank, wanted=True)

    together(run)
    late = Talk(place(3, "silent"))
    late._settled.wait(60)
    answers[3] = late.beyond(1, wanted=False)
    return answers


def without_a_store() -> dict[str, list[bool | None]]:
    """One that goes while two of three ranks have told their counts, and one that is not there."""
    server = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    port, counts = server.port, dist.PrefixStore("gone", server)
    talks = [Talk(place(rank, "gone", port=port, ranks=3)) for rank in (0, 1)]
    talks[0]._wanted = True
    counts.wait(["0", "1"], timedelta(seconds=60))
    del counts, server
    answers = [talk.beyond(2, wanted=False) for talk in talks]
    never = Talk(place(0, "never", port=port))
    return {"gone": answers, "never there": [never.beyond(1, wanted=False), never.beyond(2, wanted=True)]}


def following_the_group() -> dict[str, object]:
    """What Stop does as process groups come and go; no peer is needed to make one of the "fake" backend."""
    from torch.testing._internal.distributed import fake_pg  # noqa: F401

    stop, seen = Stop(), {}
    stop.at_boundary()
    seen["no group"] = stop._agreement._talk is None
    dist.init_process_group("fake", store=SERVER, rank=0, world_size=1)
    stop.at_boundary()
    seen["alone"] = stop._agreement._talk is None
    dist.destroy_process_group()
    dist.init_process_group("fake", store=dist.PrefixStore("first", SERVER), rank=0, world_size=2)
    stop.at_boundary()
    first = stop._agreement._talk
    assert first
    seen["place"] = [first._place.port == SERVER.port, first._place.rank, first._place.ranks, first._place.prefix]
    dist.destroy_process_group()
    stop.at_boundary()
    seen["kept without a group"] = stop._agreement._talk is first
    dist.init_process_group("fake", store=dist.PrefixStore("second", SERVER), rank=0, world_size=2)
    stop.at_boundary()
    first._thread.join(60)
    seen["the next group's"] = stop._agreement._talk is not first and not first._thread.is_alive()
    start = time.thread_time()
    for _ in range(200_000):
        stop.at_boundary()
    seen["seconds"] = (time.thread_time() - start) / 200_000
    if not (child := os.fork()):
        sys.exit(0)  # with atexit's callbacks
    seen["child"] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return seen


def main() -> None:
    seen = {
        "freely": [freely(1, {0}), freely(2, {3}), freely(3, {0, 1, 2, 3})],
        "in step": in_step(),
        "following": following_the_group(),
        "without a store": without_a_store(),
    }
    agreement._PATIENCE = 1.0
    seen["one never asks"] = one_never_asks()
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
