"""One host's failure is every host's, at once and with its cause; a stop at one host is a stop at all."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from harness import DEADLINE, TRAIN, environment, lay_tree, local, stopped

HOSTS = ("algo-1", "algo-2", "algo-3")
WAITING = """
import os, signal, sys, threading, time
how, who = sys.argv[2], sys.argv[4]
recorded = os.environ.get("FOLDER", "") + "/recorded"
def linger():
    threading.main_thread().join()  # by then the error has its record
    open(recorded, "w").close()
    time.sleep(5)
print("ready", flush=True)
if os.environ["SM_CURRENT_HOST"] == who:
    time.sleep(0.2)
    if how == "raise": raise ValueError("bad batch")
    if how == "kill": os.kill(os.getpid(), 9)
    if how == "exit": sys.exit(3)
    if how == "own":
        with open(os.environ["SM_OUTPUT_FAILURE"], "w") as out: out.write("my own words")
        sys.exit(4)
    if how == "end": sys.exit(0)
    if how == "echo":  # slow to leave, while the others are quick to meet its absence
        threading.Thread(target=linger).start()
        raise ValueError("bad batch")
elif how == "echo":
    while not os.path.exists(recorded): time.sleep(0.01)
    raise ConnectionResetError("Connection reset by peer")
if how == "end": time.sleep(1)
while how != "end": time.sleep(1)
"""


@contextmanager
def cluster(tmp_path: Path, how: str, who: str = "algo-2", **environ: str) -> Iterator[list[subprocess.Popen[str]]]:
    """Three hosts as plain processes, each with its own root, as three containers would be."""
    addresses = json.dumps({name: f"127.77.0.{number}" for number, name in enumerate(HOSTS, 2)})
    running = []
    for name in HOSTS:
        root = lay_tree(tmp_path / name, WAITING, hyperparameters={"how": how, "who": who}, hosts=HOSTS, current=name)
        given = environment(
            SAGEMAKER_BASE_DIR=str(root), TRAINKIT_HOST_ADDRESSES=addresses, TRAINING_JOB_NAME="j",
            TRAINKIT_PORT=str(20000 + os.getpid() % 10000), TRAINKIT_RUN_DIR=str(root),
            FOLDER=str(tmp_path), **environ,
        )  # fmt: skip
        running.append(
            subprocess.Popen([*TRAIN], env=given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        )
    try:
        yield running
    finally:
        for process in running:
            process.kill()
            process.communicate()


def wait_ready(processes: list[subprocess.Popen[str]]) -> None:
    for process in processes:
        assert process.stdout
        while "ready" not in (line := process.stdout.readline()):
            assert line


def ends(processes: list[subprocess.Popen[str]]) -> list[int]:
    for process in processes:
        process.communicate(timeout=DEADLINE)
    return [process.returncode for process in processes]


@pytest.mark.parametrize(
    ("how", "code", "cause"),
    [
        ("raise", 1, "ValueError: bad batch"),
        ("echo", 1, "ValueError: bad batch"),
        ("kill", 137, "killed by SIGKILL (signal 9): rank 1 on algo-2, exit code 137"),
        ("exit", 3, "exit code 3"),
        ("own", 4, "my own words"),
    ],
)
def test_the_cause_is_the_first_line_on_every_host(tmp_path: Path, how: str, code: int, cause: str) -> None:
    with cluster(tmp_path, how) as running:
        assert ends(running) == [code] * 3
    texts = [(tmp_path / name / "output/failure").read_text() for name in HOSTS]
    assert [text.splitlines()[0] for text in texts] == [cause] * 3


@pytest.mark.parametrize("who", HOSTS)
def test_a_host_that_is_killed_is_named_by_the_others(tmp_path: Path, who: str) -> None:
    with cluster(tmp_path, "wait", who) as running:
        wait_ready(running)
        running[HOSTS.index(who)].kill()
        others = [process for name, process in zip(HOSTS, running, strict=True) if name != who]
        assert ends(others) == [75, 75]
    for name in HOSTS:
        if name != who:
            assert (tmp_path / name / "output/failure").read_text().startswith(f"lost {who}: its connection broke")


def test_a_host_that_falls_silent_is_lost_after_the_timeout(tmp_path: Path) -> None:
    with cluster(tmp_path, "wait", TRAINKIT_PEER_TIMEOUT="11") as running:
        wait_ready(running)
        running[1].send_signal(signal.SIGSTOP)
        began = time.monotonic()
        assert ends([running[0], running[2]]) == [75, 75]
        assert time.monotonic() - began > 10
    assert (tmp_path / "algo-3/output/failure").read_text().startswith("lost algo-2: nothing was heard from it for 1")


@pytest.mark.parametrize("where", range(3))
def test_sigterm_at_one_host_stops_all(tmp_path: Path, where: int) -> None:
    with cluster(tmp_path, "wait") as running:
        wait_ready(running)
        running[where].send_signal(signal.SIGTERM)
        assert ends(running) == [0, 0, 0]
    assert not any((tmp_path / name / "output/failure").exists() for name in HOSTS)


def test_all_ranks_of_all_hosts_stop_at_one_step_however_far_apart_they_are(tmp_path: Path) -> None:
    script = tmp_path / "p/train.py"
    script.parent.mkdir()
    script.write_text(
        "import itertools, os, time, trainkit\n"
        "job = trainkit.job()\n"
        "for step, _ in job.steps(itertools.count()):\n"
        "    time.sleep(0.02 + 0.01 * (job.rank % 3))\n"
        "    if step == 6: print('moving', flush=True)\n"
        "assert job.should_stop()\n"
        "print('ended after step', step, flush=True)\n"
    )
    for engine in ("spawn", "fork"):
        extra = ("--hp", "trainkit_preload=json") if engine == "fork" else ()
        ran = stopped(
            script, "--hosts", "2", "--procs", "2", "--engine", engine, *extra, output=tmp_path / engine, at="moving",
            times=4,
        )  # fmt: skip
        ended = [line.rsplit(" ", 1)[1] for line in ran.out.splitlines() if "ended after step" in line]
        assert len(ended) == 4, ran.out
        assert len(set(ended)) == 1, ran.out
        assert int(ended[0]) > 5
        assert ran.code == 0


def test_a_host_whose_ranks_end_early_does_not_pull_the_others_down(tmp_path: Path) -> None:
    with cluster(tmp_path, "end") as running:
        assert ends(running) == [0, 0, 0]


def test_a_host_that_cannot_start_is_the_cause_on_all(tmp_path: Path) -> None:
    with cluster(tmp_path, "wait", TRAINKIT_PEER_WAIT="120") as running:
        pass
    (tmp_path / "algo-3/code/train.py").unlink()
    addresses = json.dumps({name: f"127.77.2.{number}" for number, name in enumerate(HOSTS, 2)})
    again = []
    for name in HOSTS:
        given = environment(
            SAGEMAKER_BASE_DIR=str(tmp_path / name), TRAINKIT_HOST_ADDRESSES=addresses, TRAINKIT_PEER_WAIT="10",
            TRAINKIT_PORT=str(20000 + os.getpid() % 10000),
        )  # fmt: skip
        again.append(subprocess.Popen([*TRAIN], env=given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
    assert running
    assert ends(again) == [75, 75, 66]
    assert (tmp_path / "algo-1/output/failure").read_text().startswith("algo-3 did not come")
    assert (tmp_path / "algo-2/output/failure").read_text().startswith("algo-3 did not come")


def test_a_failure_under_local_ends_all_hosts_with_its_cause(tmp_path: Path) -> None:
    script = tmp_path / "p/train.py"
    script.parent.mkdir()
    script.write_text(WAITING)
    ran = local(script, "--hosts", "3", "--hp", "how=raise", "--hp", "who=algo-3", output=tmp_path / "out")
    assert (ran.code, (ran.failure or "").splitlines()[0]) == (1, "ValueError: bad batch")
    assert "SIGTERM to every host" not in ran.out
