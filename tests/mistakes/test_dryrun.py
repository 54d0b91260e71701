"""The dry run: two steps on two ranks, a stop, a second start, and what is said of scripts that cannot do that."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from trainkit.check import dryrun, slices
from trainkit.check.dryrun import Ran
from trainkit.check.gather import Asked, gather
from trainkit.cli import check
from trainkit.errors import StorageError

TRAINS = """\
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import trainkit

job = trainkit.job()
dist.init_process_group("gloo")
torch.manual_seed(0)
model = DistributedDataParallel(torch.nn.Linear(4, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=job.hp("lr", 0.1))
ckpt = job.checkpointer(model=model, optimizer=optimizer)
(file,) = job.channel("train").iterdir()
print("lines", len(file.read_text().splitlines()))
start = ckpt.restore()
for step, batch in job.steps([torch.randn(8, 4) for _ in range(100 - start)], start=start):
    loss = model(batch).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    ckpt.step(step, loss=loss)
    job.log(loss=loss)
job.save_model(model)
dist.destroy_process_group()
"""
BARE = """\
import os
import pathlib
import trainkit

job = trainkit.job()
for step, item in job.steps(range(1000)):
    job.log(loss=item)
{more}
"""
SAVES = "pathlib.Path(os.environ['SM_MODEL_DIR'], 'model.safetensors').write_bytes(bytes([2] + [0] * 7) + b'{}')"


def rehearsed(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch, *, patience: int = 25) -> dict[str, str]:
    """Code → severity of what the dry run of a script says."""
    (folder / "train.py").write_text(script)
    monkeypatch.setattr(dryrun, "PATIENCE", patience)
    found = dryrun.run(gather(Asked(folder / "train.py")), say=lambda text: None)
    return {finding.code: finding.severity for finding in found}


@pytest.mark.torch
def test_a_job_is_rehearsed_to_its_model_and_begins_again_where_it_was(tmp_path, capsys):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/a.csv").write_text("".join(f"{number}\n" for number in range(1_000_000)))
    (tmp_path / "train.py").write_text(TRAINS)
    (tmp_path / "job.json").write_text(json.dumps(_request(tmp_path)))
    began = time.monotonic()

    exit_code = check.main([str(tmp_path / "job.json"), "--json", "--channel", f"train={tmp_path}/data", "--dry-run"])

    assert time.monotonic() - began < 60
    found = {finding["code"]: finding for finding in json.loads(capsys.readouterr().out)}
    assert {code for code in found if code.startswith("dry-run")} == {"dry-run-metric"}, found
    assert found["dry-run-metric"]["where"] == "AlgorithmSpecification.MetricDefinitions[1].Regex"
    assert exit_code == 0


def _request(folder: Path) -> dict[str, object]:
    from mistakes import base

    made = base.request("training", {"HyperParameters": {"lr": "0.2"}})
    made["AlgorithmSpecification"]["MetricDefinitions"].append({"Name": "lines", "Regex": "lines (\\S+) of all"})
    return made


def test_a_checkpointer_whose_step_is_not_where_the_loop_begins_is_an_error(tmp_path):
    (tmp_path / "train.py").write_text(TRAINS)
    facts = gather(Asked(tmp_path / "train.py"))
    ran = [Ran(0, "Completed", f"[algo-1:0] rehearsal: steps {first} to {first + 2}\n", "") for first in (0, 2, 0)]

    assert [*dryrun.resumed(facts, ran[0], ran[1])] == []
    (found,) = dryrun.resumed(facts, ran[0], ran[2])
    assert (found.code, found.severity) == ("dry-run-resume", "error")


def test_a_script_that_fails_is_told_with_its_cause(tmp_path, monkeypatch):
    (tmp_path / "train.py").write_text(BARE.format(more="raise KeyError('lr')"))

    (found,) = dryrun.run(gather(Asked(tmp_path / "train.py")), say=lambda text: None)

    assert (found.code, found.severity) == ("dry-run-failed", "error")
    assert "KeyError: 'lr'" in found.what


def test_a_script_that_begins_again_at_nothing_and_one_that_leaves_no_model_are_told(tmp_path, monkeypatch):
    assert rehearsed(tmp_path, BARE.format(more=SAVES), monkeypatch) == {"dry-run-no-resume": "warning"}
    assert rehearsed(tmp_path, BARE.format(more=""), monkeypatch) == {
        "dry-run-no-resume": "warning",
        "dry-run-no-model": "error",
    }


def test_a_loop_that_cannot_be_ended_is_a_note(tmp_path, monkeypatch):
    endless = "import time\nwhile True:\n    time.sleep(0.1)\n"

    assert rehearsed(tmp_path, endless, monkeypatch, patience=2) == {"dry-run-unended": "note"}


def test_a_slice_keeps_classes_and_cuts_lines_and_row_groups(tmp_path):
    source = tmp_path / "source"
    for name in ("cat", "dog"):
        (source / name).mkdir(parents=True)
        for number in range(5):
            (source / name / f"{number}.jpg").write_bytes(b"x")
    (source / "rows.jsonl").write_text("".join(f'{{"n": {1_000_000 + number}}}\n' for number in range(400_000)))
    pq.write_table(pa.table({"x": list(range(1_000_000))}), source / "rows.parquet", row_group_size=1000)

    cut = slices.cut(source, into=tmp_path / "slice")

    assert sorted(path.relative_to(cut).as_posix() for path in cut.rglob("*.jpg")) == [
        "cat/0.jpg", "cat/1.jpg", "dog/0.jpg", "dog/1.jpg",
    ]  # fmt: skip
    lines = (cut / "rows.jsonl").read_text().splitlines()
    assert 1000 < len(lines) < 400_000
    assert [json.loads(line)["n"] for line in lines[:2]] == [1_000_000, 1_000_001]
    assert json.loads(lines[-1])["n"] == 1_000_000 + len(lines) - 1
    assert pq.read_metadata(cut / "rows.parquet").num_rows == 1000
    assert (source / "rows.jsonl").stat().st_size > 4 << 20, "the slice is no link to it"


def test_a_single_file_is_a_channel_and_what_is_too_large_to_link_is_refused(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"x")
    assert [path.name for path in slices.cut(tmp_path / "a.bin", into=tmp_path / "one").iterdir()] == ["a.bin"]

    with (tmp_path / "large.bin").open("wb") as file:
        file.truncate(300 << 20)
    with pytest.raises(StorageError, match="300 MB"):
        slices.cut(tmp_path / "large.bin", into=tmp_path / "two")
