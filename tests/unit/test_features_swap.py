"""SIGKILL at every step of a swap: what is there afterwards is the old output or the new one, whole."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from harness import environment

from trainkit.processing.features import swap

DRIVER = Path(__file__).with_name("features_killed.py")


def test_a_kill_at_any_step_leaves_the_old_output_or_the_new_one(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, DRIVER, tmp_path], capture_output=True, text=True, timeout=120, env=environment()
    )

    assert ran.returncode == 0, ran.stderr
    seen = [json.loads(line) for line in ran.stdout.splitlines()]
    settled = [one["settled"] for one in seen]
    assert set(settled) == {"old", "new"}, "never a mixture"
    assert settled == sorted(settled, reverse=True), "once decided, it is not taken back"
    assert {one["before"] for one in seen} == {"old", "new", "has no manifest"}
    assert len(seen) > 20
    assert all(one["again"] == "new" for one in seen), "and the next run goes on from there"
    assert all(one["left"] == [] for one in seen)


def test_an_error_while_writing_leaves_the_old_output(tmp_path: Path) -> None:
    (tmp_path / "MANIFEST.json").write_text("{}")

    try:
        with swap.replacing(tmp_path) as scratch:
            (scratch / "train").mkdir()
            raise ValueError("no")
    except ValueError:
        pass

    assert [one.name for one in tmp_path.iterdir()] == ["MANIFEST.json"]
    assert not swap.settle(tmp_path)
