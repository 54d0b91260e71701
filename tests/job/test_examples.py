"""The examples run as their READMEs say, without the harness."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from harness import environment

from trainkit.artifact.manifest import verify
from trainkit.job.metrics import definition

EXAMPLES = Path(__file__).parents[2] / "examples"
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
ours = pytest.mark.parametrize("name", ["flights", "from_s3", "plain_torch"])


def run(*argv: str | Path, cwd: Path, **environ: str) -> list[dict[str, float]]:
    """Run Python and return the records of metrics.jsonl."""
    ended = subprocess.run(
        [sys.executable, *argv],
        cwd=cwd, env={**os.environ, "OMP_NUM_THREADS": "1", **environ}, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert verify(cwd / "trainkit-output/model") == []
    return [json.loads(line) for line in (cwd / "trainkit-output/output/data/metrics.jsonl").read_text().splitlines()]


@ours
def test_an_example_is_short_and_does_nothing_when_imported(name):
    lines = (EXAMPLES / name / "train.py").read_text().splitlines()
    assert len(lines) <= 60
    assert lines[-2:] == ['if __name__ == "__main__":', "    main()"]


@ours
def test_a_request_asks_for_two_hosts_and_the_metrics_that_the_script_logs(name):
    request = json.loads((EXAMPLES / name / "job.json").read_text())
    assert request["ResourceConfig"]["InstanceCount"] == 2
    for shown in request["AlgorithmSpecification"]["MetricDefinitions"]:
        metric = {"train:loss": "loss", "test:rmse": "test_rmse"}[shown["Name"]]
        assert shown == definition(metric, name=shown["Name"])
    script = (EXAMPLES / name / "train.py").read_text()
    assert all(f'hp("{key}"' in script for key in request["HyperParameters"] if key != "seed")


@pytest.mark.torch
def test_plain_torch_learns_alone_and_on_two_ranks(tmp_path):
    script = EXAMPLES / "plain_torch/train.py"
    for launcher in ([], TORCHRUN):
        folder = tmp_path / str(len(launcher))
        folder.mkdir()
        first, *_, last = run(*launcher, script, "--samples", "4096", cwd=folder)
        assert last["final_loss"] < first["loss"] / 20


@pytest.mark.torch
def test_flights_from_raw_tables_to_a_prediction_that_has_the_bits_of_training(tmp_path):
    flights = EXAMPLES / "flights"
    prepare = [sys.executable, flights / "prepare.py", tmp_path / "data"]
    made, again = (subprocess.check_output(prepare, text=True, timeout=120) for _ in range(2))
    assert made.endswith("data: made\n") and again.endswith("data: is there already\n")
    tables = [f"--input={name}={tmp_path / 'data' / name}" for name in ("flights", "weather", "planes", "airports")]
    features = [sys.executable, "-m", "trainkit.processing.features", flights / "features.py", *tables]
    subprocess.run([*features, "--output", tmp_path / "rows"], check=True, timeout=240, env=environment())

    channels = {f"TRAINKIT_CHANNEL_{half.upper()}": str(tmp_path / "rows" / half) for half in ("train", "test")}
    records = run(*TORCHRUN, flights / "train.py", "--epochs=1", "--batch=1024", cwd=tmp_path, **channels)

    seen = {name: value for record in records for name, value in record.items()}
    assert records[0]["loss"] > 3 * seen["loss"]
    assert seen["baseline_rmse"] == pytest.approx(47.53, abs=0.01), "so all rows of the test days were counted once"
    assert seen["test_rmse"] < seen["carried_rmse"] < seen["baseline_rmse"] / 2
    model = tmp_path / "trainkit-output/model"
    rows = json.loads((tmp_path / "rows/MANIFEST.json").read_text())
    assert verify(model) == [] and json.loads((model / "trainkit.json").read_text())["features"] == rows["artifact"]
    alone = tmp_path / "alone"
    alone.mkdir()
    *_, last = run(flights / "train.py", "--epochs=1", "--batch=8192", cwd=alone, **channels)
    assert "carried_rmse" in last, "one rank alone trains, too"
    guessed = run_text(flights / "predict.py", model, "--rows", tmp_path / "rows/test", cwd=tmp_path)
    assert re.search(r"JFK 1950: \d\d\.\d minutes late, by the model", guessed), guessed
    assert "25 features have the bits they had in training; it was 29 minutes late" in guessed


def run_text(script, *arguments, cwd):
    command = [sys.executable, script, *arguments]
    return subprocess.check_output(command, cwd=cwd, env=environment(), text=True, timeout=240)


@pytest.mark.torch
def test_from_s3_learns_on_two_hosts_goes_on_after_a_kill_and_shows_how_long_it_waited_for_data(tmp_path):
    output, cache = ["--output", tmp_path / "out"], ["--hp", f"cache={tmp_path}/kept"]
    demo = [sys.executable, EXAMPLES / "from_s3/demo.py", *output, *cache, "--kill", "rank=3@step=240"]
    environ = environment(TRAINKIT_MAX_RESTARTS="1")
    ended = subprocess.run(demo, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=240)

    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert re.search(r"\[algo-1:0\] step \d+/256 · .*\d+% waiting for data", ended.stdout), ended.stdout
    # Steps take milliseconds: which saves are committed by then depends on the machine.
    assert re.search(r"\[algo-1:0\] checkpoint of step (50|100|150|200) restored", ended.stdout), ended.stdout
    assert "trainkit.metric step=255 " in ended.stdout
    losses = [float(loss) for loss in re.findall(r"step=\d+ (?:final_)?loss=(\S+)", ended.stdout)]
    assert losses[-1] < losses[0] / 20
    assert len(list((tmp_path / "kept").rglob("??/*"))) >= 64, "each row group was kept"
