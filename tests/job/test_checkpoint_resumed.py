"""Real trainings that are killed, stopped, and started again on other ranks: nothing lost, nothing twice, same bits."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from harness import TRAIN, environment, lay_tree, living, processes_mentioning

pytestmark = pytest.mark.torch
ALL = os.environ.get("TRAINKIT_TEST_FAULTS") == "all"
SCRIPT = Path(__file__).with_name("checkpoint_train.py")
DEADLINE = 240
ROWS = 240


class Start:
    """One start of the script, under `train` or under torchrun. `folder` is what is kept from start to start."""

    def __init__(self, folder: Path, *, ranks: int, torchrun: bool = False, **given: Any) -> None:
        self.folder, self._log = folder, folder / "log"
        given = {"folder": str(folder), **given}
        root = folder / "root"
        if not root.exists():
            lay_tree(root, SCRIPT.read_text())
            (root / "input/config/inputdataconfig.json").write_text('{"train": {"TrainingInputMode": "File"}}')
            data = root / "input/data/train"
            data.mkdir(parents=True)
            for part in range(3):
                ids = np.arange(part * ROWS // 3, (part + 1) * ROWS // 3)
                pq.write_table(pa.table({"id": ids}), data / f"{part}.parquet", row_group_size=16)
        if torchrun:
            named = [text for name, value in given.items() for text in (f"--{name}", str(value))]
            run = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
            argv = [sys.executable, *run, str(root / "code/train.py"), *named]
            environ = {"TRAINKIT_CHANNEL_TRAIN": str(root / "input/data/train"), "OMP_NUM_THREADS": "1"}
        else:
            given |= {"trainkit_procs": ranks}
            (root / "input/config/hyperparameters.json").write_text(json.dumps({k: str(v) for k, v in given.items()}))
            argv, environ = [*TRAIN], {"SAGEMAKER_BASE_DIR": str(root), "TRAINING_JOB_NAME": "j"}
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                argv, cwd=folder, env=environment(TRAINKIT_RUN_DIR=str(folder), **environ), stdin=subprocess.DEVNULL,
                stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def until(self, met: Any, what: str) -> None:
        deadline = time.monotonic() + DEADLINE
        while not met():
            assert self.process.poll() is None, f"it ended before {what}:\n{self.log}"
            assert time.monotonic() < deadline, f"no {what}:\n{self.log}"
            time.sleep(0.002)

    def end(self) -> int:
        return self.process.wait(DEADLINE)


@contextmanager
def started(folder: Path, **options: Any) -> Iterator[Start]:
    folder.mkdir(exist_ok=True)
    start = Start(folder, **options)
    try:
        yield start
    finally:
        if start.process.poll() is None:
            start.process.kill()
        start.process.wait()
        deadline = time.monotonic() + DEADLINE
        while processes_mentioning(str(folder)):
            assert time.monotonic() < deadline, processes_mentioning(str(folder))
            time.sleep(0.05)


def lines(folder: Path, rank: int) -> list[dict[str, Any]]:
    path = folder / f"rank-{rank}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def manifests(folder: Path) -> set[Path]:
    return {*(folder / "root/checkpoints").rglob("MANIFEST.json")}


def kill(what: str, start: Start, *, rank: int) -> None:
    """SIGKILL to one rank, to the supervisor, or to everything of the job at once, its writers too."""
    if what == "supervisor":
        start.process.kill()
        return
    wanted = [int((start.folder / f"{rank}.pid").read_text())]
    if what == "everything":
        wanted = [*living(str(start.folder))]
    for pid in wanted:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def run(folder: Path, **options: Any) -> None:
    with started(folder, **options) as start:
        assert start.end() == 0, start.log


@pytest.mark.parametrize("kind", ["ddp", "fsdp", "accelerate"] if ALL else ["ddp"])
def test_a_run_that_is_killed_again_and_again_is_bit_for_bit_the_run_that_was_left_alone(
    tmp_path: Path, kind: str
) -> None:
    kills, dice = (50 if ALL else 3), random.Random()
    steps = 100 + 12 * kills
    options: dict[str, Any] = {"ranks": 2, "kind": kind, "steps": steps, "pace": 0.01}
    run(tmp_path / "alone", **options)
    with started(tmp_path / "killed", trainkit_max_restarts=2 * kills, **options) as start:
        for kill in range(kills):
            rank = dice.randrange(2)
            pid, reached = start.folder / f"{rank}.pid", len(lines(start.folder, rank))
            start.until(pid.exists, "a rank")
            if kill % 4:  # each fourth falls on its imports, on restoring, or on the first step
                start.until(lambda path=pid, n=reached: len(lines(path.parent, int(path.stem))) > n, "a step")
            if kill == 1:  # from here on, each start has something to restore
                start.until(lambda: manifests(start.folder), "a checkpoint")
            time.sleep(dice.uniform(0, 0.3))
            with suppress(ProcessLookupError, FileNotFoundError):
                os.kill(int(pid.read_text()), signal.SIGKILL)
                pid.unlink()
        assert start.end() == 0, start.log
        log = start.log
    assert log.count("all ranks start again") >= 0.8 * kills, log
    assert log.count(" restored (") >= kills // 2, log
    for rank in range(2):
        whole = {line["step"]: line for line in lines(tmp_path / "alone", rank) if "step" in line}
        seen = lines(tmp_path / "killed", rank)
        steps_seen = [line for line in seen if "step" in line]
        assert [line for line in steps_seen if line != whole[line["step"]]] == []
        assert {line["step"] for line in steps_seen} == set(range(steps))
        if rank == 0 or kind != "fsdp":  # batch statistics are rank 0's, and DDP alone gives them to all
            assert seen[-1] == lines(tmp_path / "alone", rank)[-1]


def test_a_run_that_is_killed_and_goes_on_on_other_ranks_trains_on_each_sample_once(tmp_path: Path) -> None:
    lives, dice, folder = (51 if ALL else 2), random.Random(), tmp_path / "job"
    options: dict[str, Any] = {"epochs": lives if ALL else 2, "steps": 10**6, "pace": 0.01, "every": 5}
    begins: list[int] = []
    done: list[list[list[dict[str, Any]]]] = []
    for life in range(lives):
        ranks = dice.choice([one for one in (1, 2, 3) if not done or one != len(done[-1])])
        with started(folder, ranks=ranks, **options) as start:
            if life < lives - 1:
                there = manifests(folder)
                start.until(lambda there=there: manifests(folder) - there, "a checkpoint")
                time.sleep(dice.uniform(0, 0.3))
                kill(dice.choice(["rank", "supervisor", "everything"]), start, rank=dice.randrange(ranks))
            else:
                assert start.end() == 0, start.log
            start.end()
        begins.append(int(re.findall(r"rank 0 starts at (\d+)", start.log)[0]))
        done.append([lines(folder, rank) for rank in range(ranks)])
        for rank in range(ranks):
            (folder / f"rank-{rank}.jsonl").unlink()
    assert begins == sorted(begins), begins
    assert begins[0] == 0 < begins[1]
    trained: dict[int, list[int]] = {}
    for life, of_ranks in enumerate(done):
        for of_rank in of_ranks:
            steps = [line for line in of_rank if "step" in line]
            end = begins[life + 1] if life < lives - 1 else steps[-1]["step"] + 1
            kept = [line for line in steps if line["step"] < end]  # what came after the last checkpoint is undone
            assert [line["step"] for line in kept] == [*range(begins[life], end)]
            for line in kept:
                trained.setdefault(line["epoch"], []).extend(line["ids"])
    assert sorted(trained) == [*range(options["epochs"])]
    for ids in trained.values():
        assert len(ids) == len(set(ids)), "no sample twice in an epoch"
        assert len(ids) > ROWS - 3 * 4, "none left out, but what does not fill the last batch"


@pytest.mark.parametrize(("torchrun", "after"), [(False, 1), (True, 7)])
def test_a_stopped_job_goes_on_at_that_step_on_other_ranks_with_the_samples_that_are_left(
    tmp_path: Path, torchrun: bool, after: int
) -> None:
    folder = tmp_path / "job"
    options: dict[str, Any] = {"torchrun": torchrun, "epochs": 1, "steps": 999, "pace": 0.2, "every": 5}
    with started(folder, ranks=2, **options) as start:
        start.until(lambda: len(lines(folder, 0)) >= after, "steps")
        start.process.send_signal(signal.SIGTERM)
        code = start.end()
        stopped = start.log
    assert code == (1 if torchrun else 0), stopped
    first = [lines(folder, rank) for rank in range(2)]
    done = len(first[0])
    assert [line["step"] for line in first[0]] == [line["step"] for line in first[1]] == list(range(done))
    assert f"checkpoint of step {done} in " in stopped
    with started(folder, ranks=3, **{**options, "pace": 0.0}) as start:
        assert start.end() == 0, start.log
        resumed = start.log
    assert all(f"rank {rank} starts at {done} in generation" in resumed for rank in range(3)), resumed
    ids = [one for rank in range(3) for line in lines(folder, rank) for one in line.get("ids", [])]
    assert len(ids) == len(set(ids)), "no sample twice"
    assert len(ids) > ROWS - 3 * 4, "none left out, but what does not fill the last batch"


def test_a_script_with_its_own_loop_saves_at_the_step_that_all_ranks_agreed_on(tmp_path: Path) -> None:
    folder = tmp_path / "job"
    options: dict[str, Any] = {"ranks": 2, "by_hand": True, "steps": 999, "pace": 0.1}
    with started(folder, **options) as start:
        start.until(lambda: len(lines(folder, 0)) >= 2, "two steps")
        start.process.send_signal(signal.SIGTERM)
        code, log = start.end(), start.log
    assert code == 0, log
    done = len(lines(folder, 0))
    assert log.count("saved by hand: True") == 2, log
    with started(folder, **{**options, "steps": done + 1}) as start:
        assert start.end() == 0, start.log
        assert start.log.count(f"starts at {done} in generation") == 2, start.log
