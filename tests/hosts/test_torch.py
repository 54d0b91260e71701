"""Real torch under the harness: the same result whichever way ranks are started, and every framework as it is."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from harness import Ran, local

SCRIPT = Path(__file__).with_name("training.py")
TIMES = int(os.environ.get("TRAINKIT_TEST_LAUNCHES", "1"))
"""`make launches` asks for twenty of each."""

pytestmark = pytest.mark.torch


def digests(ran: Ran) -> list[str]:
    return re.findall(r"weights (\w{64}) of 4 ranks, restarts 0", ran.out)


def test_every_engine_ends_with_the_same_weights_bit_for_bit(tmp_path: Path) -> None:
    found = {}
    for engine in ("fork", "spawn", "torchrun"):
        ran = local(
            SCRIPT, "--hosts", "2", "--procs", "2", "--engine", engine, "--hp", "kind=ddp",
            output=tmp_path / engine, deadline=300,
        )  # fmt: skip
        assert ran.code == 0, ran.out
        assert len(digests(ran)) == 4, ran.out
        assert "spawned, not forked" not in ran.out
        found[engine] = set(digests(ran))
    assert len(set.union(*found.values())) == 1, found


@pytest.mark.parametrize("kind", ["ddp", "fsdp2", "accelerate", "loader"])
def test_it_runs_in_forked_ranks(tmp_path: Path, kind: str) -> None:
    found = set()
    for time in range(TIMES):
        ran = local(
            SCRIPT, "--hosts", "2", "--procs", "2", "--hp", f"kind={kind}", output=tmp_path / str(time), deadline=300
        )
        assert ran.code == 0, ran.out
        assert len(digests(ran)) == 4, ran.out
        assert "spawned, not forked" not in ran.out
        found |= set(digests(ran))
    assert len(found) == 1
