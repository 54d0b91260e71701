"""The plain start runs for real."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = """
import json, os, sys
from pathlib import Path
names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
facts = {name: os.environ[name] for name in names} | {"argv": sys.argv[1:]}
Path(f"rank-{facts['RANK']}.json").write_text(json.dumps(facts))
sys.exit(0 if sys.argv[2] == "it's" else 1)
"""


def torchrun(*arguments: str | Path, cwd: Path, procs: int) -> subprocess.CompletedProcess[str]:
    # Only the interpreter is named: torchrun's own command need not be on the PATH.
    environ = {**os.environ, "PYTHON": sys.executable, "PROCS": str(procs), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [ROOT / "launchers/torchrun.sh", *arguments],
        cwd=cwd, env=environ, capture_output=True, text=True, timeout=240,
    )  # fmt: skip


@pytest.mark.torch
def test_every_rank_starts_with_the_arguments_as_they_were_given(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(SCRIPT)

    ran = torchrun("train.py", "--name", "it's", "--text", '$(date); "a  b"', cwd=tmp_path, procs=3)

    assert ran.returncode == 0, ran.stderr
    facts = [json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in range(3)]
    assert [fact["RANK"] for fact in facts] == [fact["LOCAL_RANK"] for fact in facts] == ["0", "1", "2"]
    assert {(fact["WORLD_SIZE"], fact["LOCAL_WORLD_SIZE"]) for fact in facts} == {("3", "3")}
    assert all(fact["argv"] == ["--name", "it's", "--text", '$(date); "a  b"'] for fact in facts)


@pytest.mark.torch
def test_an_example_trains_without_the_harness_and_keeps_its_model(tmp_path: Path) -> None:
    ran = torchrun(ROOT / "examples/plain_torch/train.py", "--samples", "1024", cwd=tmp_path, procs=2)

    assert ran.returncode == 0, ran.stderr
    assert "final_loss=" in ran.stdout
    assert any(file.suffix == ".safetensors" for file in (tmp_path / "trainkit-output/model").iterdir())


@pytest.mark.torch
def test_a_script_that_fails_fails_the_start(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(SCRIPT)

    assert torchrun("train.py", "--name", "another", cwd=tmp_path, procs=1).returncode != 0
