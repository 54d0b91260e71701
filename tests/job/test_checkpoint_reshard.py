"""Saved by some ranks, restored by others, laid out in another way: the same bits. All of them with FAULTS=all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.torch
ALL = os.environ.get("TRAINKIT_TEST_FAULTS") == "all"
EVERY = {str(number): ["ddp", "fsdp", "tp", "hsdp"] for number in (1, 2, 3, 4)}
SOME = {
    "save": {"2": ["ddp", "tp"], "4": ["tp", "fsdp"]},
    "restore": {"1": ["ddp"], "3": ["hsdp"], "4": ["tp"]},
}


def reshard(folder: Path, plan: dict[str, Any], *, deadline: float) -> dict[str, Any]:
    script = Path(__file__).with_name("reshard.py")
    ended = subprocess.run(
        [sys.executable, str(script), str(folder), json.dumps(plan)],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=deadline,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    seen: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return seen


def test_a_checkpoint_comes_back_bit_for_bit_on_any_number_of_ranks_and_any_layout(tmp_path: Path) -> None:
    plan = {"save": EVERY, "restore": EVERY} if ALL else SOME
    seen = reshard(tmp_path, plan, deadline=900)
    ranks = [rank for each in seen["restore"].values() for rank in each]
    assert [one for rank in ranks for one in rank["wrong"]] == []
    assert [one for rank in ranks for one in rank["excess"]] == []
    saved = sum(map(len, plan["save"].values()))
    assert [rank["cases"] for rank in ranks] == [
        saved * len(kinds) for number, kinds in plan["restore"].items() for _ in range(int(number))
    ]


@pytest.mark.skipif(not ALL, reason="TRAINKIT_TEST_FAULTS=all")
def test_ranks_read_what_they_need_of_a_large_checkpoint_and_little_more(tmp_path: Path) -> None:
    plan = {
        "save": {"1": ["ddp"], "3": ["fsdp"], "4": ["tp"]},
        "restore": {"1": ["ddp"], "2": ["fsdp"], "4": ["fsdp", "tp"]},
        "shape": {"width": 1001, "blocks": 28},
    }
    seen = reshard(tmp_path, plan, deadline=900)

    ranks = [rank for each in seen["restore"].values() for rank in each]
    assert [one for rank in ranks for one in rank["wrong"] + rank["excess"]] == []
