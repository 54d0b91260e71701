"""A failure that is no end: all ranks start again, on all hosts, and go on from what they saved."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from harness import Ran, lay_tree, local, processes_mentioning, stopped, train

from trainkit.errors import IsolationUnavailable
from trainkit.local import isolation

COUNTING = """
import json, os, signal, subprocess, sys, time, trainkit
from pathlib import Path
job = trainkit.job()
def write(place, step):
    place.with_suffix(".part").write_text(str(step))
    place.with_suffix(".part").replace(place)
def read(place):
    return json.loads(place.read_text()) if place.exists() else 0
def meet(folder, step):  # as in a collective: where one is missing, all stand still
    places = [Path(folder) / f"{rank}.json" for rank in range(job.world_size)]
    write(places[job.rank], step)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # else who waits here could only be killed
    while min(map(read, places)) < step: time.sleep(0.001)
generation = os.environ["TORCHELASTIC_RESTART_COUNT"]
print("generation", generation, "meets at", os.environ["MASTER_PORT"], flush=True)
saved = job.checkpoint_dir / f"{job.rank}.json"
start = read(saved)
if job.hp("leaves", "") == generation:
    subprocess.Popen(["sleep", "4321"], start_new_session=True)
for step, _ in job.steps(range(start, 30), start=start):
    if job.hp("fails", "") == f"{job.rank}@{step}":
        raise ValueError(f"bad batch, seen at {id(job):#x}")
    if job.hp("own", "") == f"{job.rank}@{step}" and generation == "0":
        with open(os.environ["SM_OUTPUT_FAILURE"], "w") as out: out.write("my own words")
        sys.exit(4)
    if job.hp("stands", "") == f"{job.rank}@{step}" and generation in job.hp("in", "0"):
        time.sleep(4321)
    time.sleep(0.02)
    write(saved, step + 1)
    if job.hp("together", ""): meet(job.hp("together"), step + 1)
print("through", flush=True)
"""


def run(tmp_path: Path, *arguments: str, restarts: int = 3, hosts: int = 2, stop_at: str = "") -> Ran:
    """With `stop_at`, it is told to stop when it has said so."""
    script = tmp_path / "project/train.py"
    script.parent.mkdir(parents=True, exist_ok=True)
    script.write_text(COUNTING)
    given = ("--hosts", str(hosts), "--procs", "2", "--hp", "trainkit_preload=json")
    given += ("--hp", f"trainkit_max_restarts={restarts}", *arguments)
    if stop_at:
        return stopped(script, *given, output=tmp_path / "out", at=stop_at)
    return local(script, *given, output=tmp_path / "out")


def together(tmp_path: Path) -> tuple[str, ...]:
    """Arguments with which no rank gets ahead of another: what is to happen at a later step happens later."""
    places = tmp_path / "places"
    places.mkdir(parents=True)
    return "--hp", f"together={places}"


def generations(ran: Ran) -> dict[str, set[str]]:
    """Generation → the ports at which its ranks meet, as they say."""
    found: dict[str, set[str]] = {}
    for generation, port in re.findall(r"generation (\d+) meets at (\d+)", ran.out):
        found.setdefault(generation, set()).add(port)
    return found


def has_links() -> bool:
    try:
        isolation.choose("network")[0].close()
    except IsolationUnavailable:
        return False
    return True


@pytest.mark.parametrize("engine", ["fork", "spawn"])
def test_ranks_that_are_killed_start_again_on_all_hosts_with_a_new_store(tmp_path: Path, engine: str) -> None:
    kills = ("--kill", "rank=3@step=20", "--kill", "rank=0@step=9")
    ran = run(tmp_path, "--engine", engine, *kills, *together(tmp_path))
    assert ran.code == 0, ran.out
    assert ran.out.count("through") >= 4, ran.out
    found = generations(ran)
    assert list(found) == ["0", "1", "2"]
    assert all(len(ports) == 1 for ports in found.values()), found
    assert len(set.union(*found.values())) == 3
    assert "[algo-2] killed by SIGKILL (signal 9): rank 0 on algo-1, step 9, exit code 137" in ran.out
    assert "[algo-1] killed by SIGKILL (signal 9): rank 3 on algo-2, step 20, exit code 137" in ran.out
    assert "[algo-2] all ranks start again: restart 2 of 3" in ran.out
    assert "never happened" not in ran.out
    assert ran.failure is None


def test_the_same_failure_at_the_same_step_ends_the_job_with_its_cause(tmp_path: Path) -> None:
    ran = run(tmp_path, "--hp", "fails=3@7", restarts=5)
    assert ran.code == 1
    assert ran.failure is not None
    assert ran.failure.startswith("ValueError: bad batch, seen at 0x")
    assert "\nrank 3 on algo-2, step 7, train.py:" in ran.failure
    assert list(generations(ran)) == ["0", "1"]
    assert "no restart: rank 3 has failed in the same way at step 7 twice in a row" in ran.out


def test_without_restarts_left_the_last_failure_is_the_jobs(tmp_path: Path) -> None:
    ran = run(tmp_path, "--kill", "rank=1@step=3", "--kill", "rank=2@step=9", restarts=1, hosts=1)
    assert ran.code == 0, "rank 2 is on a second host that this job has not"
    assert "warning: --kill rank=2@step=9 never happened" in ran.out
    ran = run(tmp_path, "--kill", "rank=1@step=3", "--kill", "rank=0@step=9", restarts=1, hosts=1)
    assert ran.code == 0, "it goes on from where it was"
    fresh, kills = tmp_path / "fresh", ("--kill", "rank=1@step=3", "--kill", "rank=0@step=9")
    ran = run(fresh, *kills, *together(fresh), restarts=1, hosts=1)
    assert ran.code == 137
    assert ran.failure is not None
    assert ran.failure.startswith("killed by SIGKILL (signal 9): rank 0 on algo-1, step 9")
    assert "no restart: all 1 (max_restarts) are used up" in ran.out


def test_what_an_earlier_generation_wrote_and_left_running_is_not_the_next_ones(tmp_path: Path) -> None:
    root = lay_tree(
        tmp_path / "opt", COUNTING,
        hyperparameters={"own": "0@5", "leaves": "0", "trainkit_max_restarts": "1", "trainkit_procs": "2"},
    )  # fmt: skip
    ran = train(root)
    assert ran.code == 0, ran.out
    assert "my own words" in ran.out
    assert "restart 1 of 1" in ran.out
    assert ran.failure is None
    assert (root / "output/success").exists()
    assert processes_mentioning("sleep\x004321") == []


def test_a_host_that_is_killed_ends_the_job_since_nobody_replaces_it(tmp_path: Path) -> None:
    ran = run(tmp_path, "--kill", "host=2@step=4")
    assert ran.code == 75
    assert ran.failure is not None
    assert ran.failure.startswith("lost algo-2: its connection broke")
    assert "host=2@step=4: SIGKILL to algo-2" in ran.out
    assert list(generations(ran)) == ["0"]


@pytest.mark.skipif(not has_links(), reason="no network namespaces here")
def test_a_link_that_is_cut_loses_the_host_and_one_that_heals_does_not(tmp_path: Path) -> None:
    short = ("--hp", "trainkit_peer_timeout=3")
    ran = run(tmp_path, "--kill", "link=2@step=2+1s", "--hp", "trainkit_peer_timeout=20")
    assert ran.code == 0, ran.out
    assert "the link of algo-2 is whole again" in ran.out
    ran = run(tmp_path / "cut", "--kill", "link=2@step=2", *short)
    assert ran.code == 75
    assert ran.failure is not None
    assert re.match(r"lost algo-[12]: nothing was heard from it for", ran.failure), "each side names the other"


@pytest.mark.parametrize("wrong", ["rank=3", "rank=1@2s", "host=0@2s", "host=3@2s", "disk=1@2s", "host=1@2s+5s"])
def test_a_fault_that_cannot_be_is_refused_before_anything_starts(tmp_path: Path, wrong: str) -> None:
    ran = run(tmp_path, "--kill", wrong)
    assert ran.code == 64
    assert "generation" not in ran.out
    assert "--kill" in ran.out


def test_ranks_that_stand_still_are_named_with_their_stacks_and_started_again(tmp_path: Path) -> None:
    ran = run(
        tmp_path, "--hp", "stands=2@5", "--hp", "trainkit_stall_timeout=3", "--hp", "trainkit_stall_action=act"
    )  # fmt: skip
    assert ran.code == 0, ran.out
    assert "no progress for 3 s: rank 2 on algo-2, step 5, stands in train.py:" in ran.out
    assert re.search(r'\[algo-2\]   File ".*train\.py", line \d+ in <module>', ran.out)
    assert list(generations(ran)) == ["0", "1"]


def test_ranks_that_stand_still_again_end_the_job_with_that_cause(tmp_path: Path) -> None:
    ran = run(
        tmp_path, "--hp", "stands=2@5", "--hp", "in=01", "--hp", "trainkit_stall_timeout=2",
        "--hp", "trainkit_stall_action=act",
    )  # fmt: skip
    assert ran.code == 124
    assert ran.failure is not None
    assert ran.failure.startswith("no progress for 2 s: rank 2 on algo-2, step 5, stands in train.py:")
    assert "twice in a row" in ran.out


def test_by_default_ranks_that_stand_still_are_named_and_left_alone(tmp_path: Path) -> None:
    settings = ("--hp", "trainkit_stall_timeout=2", "--hp", "trainkit_stop_grace=1")
    ran = run(tmp_path, "--hp", "stands=1@5", *settings, hosts=1, stop_at="no progress for 2 s")
    assert "no progress for 2 s: rank 1 on algo-1, step 5, stands in train.py:" in ran.out
    assert "did not stop within 1 s after SIGTERM: killed rank 1" in ran.out
