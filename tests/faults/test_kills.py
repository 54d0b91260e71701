"""Ranks that are killed again and again, at any moment: the job still ends with the result of one that was left alone.

All of them, and those with torch, with TRAINKIT_TEST_FAULTS=all.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest
from harness import DEADLINE, TRAINKIT, Ran, environment, processes_mentioning

ALL = os.environ.get("TRAINKIT_TEST_FAULTS") == "all"
KILLS = 50 if ALL else 6
AHEAD = KILLS + 10
"""More steps than a rank can be ahead of another: one that starts again makes its next step before it waits."""

# Each rank keeps its place and the result so far in one file, written whole. After each step it waits for the others,
# as in a collective: where one is missing, all stand still. Once all kills have happened, the first rank is asked for a
# last step. It tells one that nobody can have reached before it makes its own next step.
IN_STEP = f"""
import json, os, sys, time
from pathlib import Path
folder, rank = Path(sys.argv[sys.argv.index("--folder") + 1]), int(os.environ["RANK"])
places = [folder / f"{{each}}.json" for each in range(int(os.environ["WORLD_SIZE"]))]
def read(place):
    return json.loads(place.read_text()) if place.exists() else [0, 0]
def last():
    return int((folder / "last").read_text()) if (folder / "last").exists() else sys.maxsize
def advance(step, total):
    if rank == 0 and (folder / "enough").exists() and not (folder / "last").exists():
        (folder / "last.part").write_text(str(step + {AHEAD}))
        (folder / "last.part").replace(folder / "last")
    time.sleep(0.005)
    scratch = places[rank].with_suffix(".part")
    scratch.write_text(json.dumps([step + 1, (total * 31 + step + rank) % 1_000_003]))
    scratch.replace(places[rank])
    while min(read(place)[0] for place in places) <= step:
        time.sleep(0.001)
"""
AT_ANY_MOMENT = f"""{IN_STEP}
while read(places[rank])[0] < last():
    advance(*read(places[rank]))
"""
AT_A_STEP = f"""{IN_STEP}
import trainkit
for step, _ in trainkit.job().steps(range(read(places[rank])[0], STEPS), start=read(places[rank])[0]):
    advance(step, read(places[rank])[1])
"""
# A step that is left out or done twice shows in the weights.
WITH_TORCH = """
import os, sys
from pathlib import Path
folder, rank = Path(sys.argv[sys.argv.index("--folder") + 1]), int(os.environ["RANK"])
(folder / f"{rank}.pid").write_text(str(os.getpid()))
import torch, torch.distributed as dist, trainkit
dist.init_process_group("gloo")
saved = folder / "weights"
kept = [torch.load(saved)] if rank == 0 and saved.exists() else [(0, torch.ones(8, dtype=torch.float64))]
dist.broadcast_object_list(kept, 0)
start, weights = kept[0]
for step, _ in trainkit.job().steps(range(start, 60), start=start):
    data = torch.randn(8, dtype=torch.float64, generator=torch.Generator().manual_seed(100 * step + rank))
    gradient = (weights @ data) * data
    dist.all_reduce(gradient)
    weights = weights - 0.01 * gradient
    if rank == 0:
        torch.save((step + 1, weights), folder / "weights.part")
        (folder / "weights.part").replace(saved)
print("weights", weights.numpy().tobytes().hex() if rank == 0 else "")
dist.destroy_process_group()
"""


class Process(NamedTuple):
    """A living process, as /proc has it."""

    pid: int
    parent: int
    began: int
    command: str


class Job:
    """A `trainkit local` that runs."""

    def __init__(self, tmp_path: Path, script: str, *arguments: str) -> None:
        self.folder = tmp_path / "places"
        self.folder.mkdir(parents=True)
        self._output = tmp_path / "out"
        code = tmp_path / "project/train.py"
        code.parent.mkdir()
        code.write_text(script)
        self._log = tmp_path / "log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [*TRAINKIT, "local", str(code), *arguments, "--output", str(self._output),
                 "--hp", f"folder={self.folder}", "--hp", f"trainkit_max_restarts={KILLS + 10}"],
                env=environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def until(self, met: Callable[[], bool], what: str) -> None:
        """Wait for it."""
        deadline = time.monotonic() + DEADLINE
        while not met():
            assert self.process.poll() is None, f"it ended before {what}:\n{self.log}"
            assert time.monotonic() < deadline, f"{what} did not come:\n{self.log}"
            time.sleep(0.001)

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def end(self) -> Ran:
        try:
            code = self.process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            self.close()
            pytest.fail(f"it did not end:\n{self.log}")
        return Ran(code, self.log, self._output)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()

    def ranks(self) -> list[Process]:
        """Its ranks, from the moment that their supervisor is their parent, however little of them there is yet."""
        found = [process for process in descendants(self.process.pid) if "trainkit/launch/" in process.command]
        forked = [process for process in found if "template.py" in process.command]
        templates = {min(family, key=lambda process: (process.began, process.pid)) for family in families(forked)}
        return [process for process in found if process not in templates]

    def places(self) -> list[int]:
        """The step that each rank has reached."""
        return [json.loads(path.read_text())[0] for path in sorted(self.folder.glob("*.json"))]


def families(processes: list[Process]) -> list[list[Process]]:
    return [[child for child in processes if child.parent == parent] for parent in {p.parent for p in processes}]


def descendants(pid: int) -> list[Process]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    found = []
    for child in map(int, children):
        try:
            command = Path(f"/proc/{child}/cmdline").read_bytes().decode(errors="replace")
            state, parent, *rest = Path(f"/proc/{child}/stat").read_text().rpartition(") ")[2].split()
        except OSError:
            continue
        if state != "Z":
            found.append(Process(child, int(parent), int(rest[17]), command))
        found += descendants(child)
    return found


def kill_one_of(ranks: list[Process], dice: random.Random) -> bool:
    """SIGKILL to any of them, and whether there was anyone to get it."""
    try:
        os.kill(dice.choice(ranks).pid, signal.SIGKILL)
    except (IndexError, ProcessLookupError):
        return False
    return True


def result(rank: int, steps: int) -> list[int]:
    """What a rank that nobody disturbs has in its file after so many steps."""
    total = 0
    for step in range(steps):
        total = (total * 31 + step + rank) % 1_000_003
    return [steps, total]


def assert_that_all_went_well(ran: Ran, job: Job, *, last: int, ranks: int) -> None:
    assert ran.code == 0, ran.out
    assert ran.failure is None
    assert {path.name: json.loads(path.read_text()) for path in job.folder.glob("*.json")} == {
        f"{rank}.json": result(rank, last) for rank in range(ranks)
    }
    assert processes_mentioning(str(job.folder)) == []


@pytest.mark.parametrize(
    ("engine", "hosts"), [("fork", 2), ("spawn", 2), ("fork", 1), ("fork", 3)] if ALL else [("fork", 2)]
)
def test_a_job_whose_ranks_are_killed_at_any_moment_ends_with_the_right_result(
    tmp_path: Path, engine: str, hosts: int
) -> None:
    dice = random.Random()
    shape = ("--hosts", str(hosts), "--procs", "2", "--engine", engine)
    job = Job(tmp_path, AT_ANY_MOMENT, *shape, "--hp", "trainkit_preload=json")
    try:
        job.until(lambda: len(job.places()) == 2 * hosts, "the first step")
        for _ in range(KILLS):
            # Half of them while the ranks before are cleared away, or the next ones start; the others while all train.
            time.sleep(dice.choice([dice.uniform(0, 0.05), dice.uniform(0.05, 0.4)]))
            job.until(lambda: kill_one_of(job.ranks(), dice), "a rank")
        (job.folder / "enough").touch()
        ran = job.end()
    finally:
        job.close()
    last = int((job.folder / "last").read_text())
    assert_that_all_went_well(ran, job, last=last, ranks=2 * hosts)
    assert "all ranks start again: restart 1 of" in ran.out
    assert "spawned, not forked" not in ran.out


def test_a_job_whose_ranks_are_killed_at_random_steps_starts_again_once_for_each(tmp_path: Path) -> None:
    dice = random.Random()
    steps = 4 * KILLS
    kills = [f"rank={dice.randrange(4)}@step={step}" for step in dice.sample(range(steps), KILLS)]
    faults = [argument for fault in kills for argument in ("--kill", fault)]
    script = AT_A_STEP.replace("STEPS", str(steps))
    job = Job(tmp_path, script, "--hosts", "2", "--procs", "2", "--hp", "trainkit_preload=json", *faults)
    try:
        ran = job.end()
    finally:
        job.close()
    assert_that_all_went_well(ran, job, last=steps, ranks=4)
    assert f"restart {KILLS} of" in ran.out
    assert f"restart {KILLS + 1} of" not in ran.out
    assert "never happened" not in ran.out


@pytest.mark.torch
@pytest.mark.skipif(not ALL, reason="TRAINKIT_TEST_FAULTS=all")
def test_weights_are_those_of_a_run_that_was_left_alone(tmp_path: Path) -> None:
    dice = random.Random()
    shape = ("--hosts", "2", "--procs", "2", "--isolation", "process")
    alone = Job(tmp_path / "alone", WITH_TORCH, *shape).end()
    assert alone.code == 0, alone.out
    faults = ("--kill", "rank=3@step=11", "--kill", "rank=0@step=30", "--kill", "rank=1@step=52")
    job = Job(tmp_path / "killed", WITH_TORCH, *shape, *faults)
    try:
        for _ in range(5):
            pid = job.folder / f"{dice.randrange(4)}.pid"
            job.until(pid.exists, "a rank")
            time.sleep(dice.uniform(0, 0.1))  # in its imports, while the ranks meet, or in the first steps
            with suppress(ProcessLookupError):
                os.kill(int(pid.read_text()), signal.SIGKILL)
            pid.unlink()
        ran = job.end()
    finally:
        job.close()
    assert ran.code == 0, ran.out
    assert processes_mentioning(str(job.folder)) == []
    assert re.findall(r"weights (\w+)", ran.out)[-1:] == re.findall(r"weights (\w+)", alone.out)
