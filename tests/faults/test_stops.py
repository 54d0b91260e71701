"""SIGTERM at any moment of a job's life: every rank is told at once, nothing is left, and the exit code is right."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest
from harness import DEADLINE, environment, lay_tree, processes_mentioning

from faults.plain import ENTRY, FORKED, Host, hosts, until

ALL = os.environ.get("TRAINKIT_TEST_FAULTS") == "all"
MOMENTS = 50
TOLD = 1.0
"""Seconds within which every rank on every host knows."""
BOUND = 30.0
"""Seconds from the signal to the end of both hosts, on a busy machine; half a second is usual."""
SPAWNED = {"engine": "spawn"}
WORKING = """
import os, signal, sys, time
def told(number, frame):
    os.write(1, f"told at {time.time()}\\n".encode())
    sys.exit(0)
signal.signal(signal.SIGTERM, told)
os.write(1, f"ran at {time.time()}\\n".encode())
dies = os.environ["TORCHELASTIC_RESTART_COUNT"] < os.environ["RESTARTS"] and os.environ["RANK"] == "3"
time.sleep(0.4 if dies else 2.0)
if dies:
    os.write(1, b"dies\\n")
    os.kill(os.getpid(), signal.SIGKILL)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.write(1, f"through at {time.time()}\\n".encode())
"""


def some(number: int) -> list[int]:
    """All moments, or so many of them, spread evenly."""
    return list(range(MOMENTS)) if ALL else [(2 * n + 1) * MOMENTS // (2 * number) for n in range(number)]


def moment(index: int, *, life: float) -> float:
    """Seconds from the start: each moment is drawn from its own fiftieth of a job's life, and a little more."""
    return (index + random.Random(index).random()) / MOMENTS * life * 1.1


def settings(index: int, *, restarts: int) -> dict[str, object]:
    engine = FORKED if index % 2 else SPAWNED
    return {"procs": 2, "peer_wait": BOUND, "max_restarts": restarts, **engine}


@contextmanager
def job(folder: Path, *, index: int, restarts: int) -> Iterator[list[Host]]:
    """Two hosts with two ranks each; rank 3 is killed in as many generations as there are `restarts`."""
    chosen = settings(index, restarts=restarts)
    with hosts(folder, WORKING, number=2, settings=chosen, RESTARTS=str(restarts)) as running:
        yield running


@cache
def life(folder: Path, *, index: int) -> float:
    """Seconds that the job takes when nobody stops it."""
    began = time.monotonic()
    with job(folder, index=index, restarts=0) as running:
        assert [host.end() for host in running] == [0, 0], [host.log for host in running]
        assert len(times(running, "through")) == 4
    return time.monotonic() - began


def stop(running: list[Host], where: int) -> tuple[float, list[int]]:
    """SIGTERM at one host. Returns when that was, seconds since the epoch, and the exit codes."""
    sent = time.time()
    running[where].process.send_signal(signal.SIGTERM)
    running[where].end(deadline=BOUND)
    other = running[1 - where]
    if "ranks on 2 hosts" not in running[0].log:
        # They have not met: nobody can tell the other but the platform, which tells all of them.
        other.process.send_signal(signal.SIGTERM)
    other.end(deadline=BOUND)
    assert time.time() - sent < BOUND
    return sent, [host.process.returncode for host in running]


def times(running: list[Host], word: str) -> list[float]:
    """When ranks said so, seconds since the epoch."""
    return [float(at) for host in running for at in re.findall(rf"\] {word} at ([\d.]+)", host.log)]


@pytest.mark.parametrize("index", some(6))
def test_a_stop_at_any_moment_reaches_every_rank_and_leaves_nothing(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, index: int
) -> None:
    whole = life(tmp_path_factory.getbasetemp() / f"whole-{index % 2}", index=index % 2)
    where = index // 8 % 2
    with job(tmp_path, index=index, restarts=0) as running:
        time.sleep(moment(index, life=whole))
        sent, codes = stop(running, where)
        left = processes_mentioning(str(tmp_path))
    logs = "".join(host.log for host in running)
    assert (codes, left) == ([0, 0], []), logs
    assert [host.failure for host in running] == [None, None]
    ends = times(running, "told") + times(running, "through")
    assert len(ends) == len(times(running, "ran")), logs
    assert all(at - sent < TOLD for at in ends), (sent, logs)


@pytest.mark.parametrize("index", some(4))
def test_a_stop_while_ranks_die_and_start_again_ends_the_last_of_them(tmp_path: Path, index: int) -> None:
    where = index // 8 % 2
    with job(tmp_path, index=index, restarts=2) as running:
        running[1].wait_for("] dies", times=1 + index % 2)
        # The others get a tenth of a second to end, and then there are new ones soon.
        time.sleep(index / MOMENTS * 0.4)
        sent, codes = stop(running, where)
        left = processes_mentioning(str(tmp_path))
    logs = "".join(host.log for host in running)
    assert left == []
    # Whoever still starts is told, and none gets through.
    assert all(at - sent < TOLD for word in ("ran", "told", "through") for at in times(running, word)), (sent, logs)
    # The rank's death counts where it came before the stop: then it is the cause, on both hosts.
    died = "killed by SIGKILL (signal 9): rank 3 on algo-2, exit code 137"
    assert codes in ([0, 0], [137, 137]), logs
    causes = [(host.failure or "").partition("\n")[0] for host in running]
    assert causes == ([died] * 2 if codes[0] else [""] * 2), logs


def test_a_stop_after_the_ranks_ended_well_is_too_late_to_matter(tmp_path: Path) -> None:
    script = """
import os, time
scratch = os.environ["SM_MODEL_DIR"] + "/.trainkit-model.part"
os.mkdir(scratch)
for number in range(20_000): os.mknod(f"{scratch}/{number}")
print("laid", flush=True)
while not os.path.exists(os.environ["SM_OUTPUT_DATA_DIR"] + "/go"): time.sleep(0.01)
"""
    with hosts(tmp_path, script) as (host,):
        host.wait_for("] laid")
        scratch = host.root / "model/.trainkit-model.part"
        laid = scratch.stat().st_mtime_ns
        (host.root / "output/data/go").touch()
        # No rank is left when the supervisor sweeps this away.
        until(lambda: scratch.stat().st_mtime_ns != laid)
        host.process.send_signal(signal.SIGTERM)
        assert host.end() == 0, host.log
    assert not scratch.exists()
    assert (host.root / "output/success").exists()


def peak_memory(pid: int) -> int:
    """The most that it had in memory at once so far, bytes."""
    found = re.search(r"^VmHWM:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found
    return int(found[1]) * 1024


def test_a_flood_of_output_costs_little_memory_and_holds_nobody_up(tmp_path: Path) -> None:
    script = r"""
import os, signal, sys, time
if os.environ["RANK"] == "0":
    while True: sys.stdout.buffer.write((b"x" * 199 + b"\n") * 1000)
if os.environ["RANK"] == "1":
    while True: sys.stdout.buffer.write(b"y" * (1 << 20))
if os.environ["RANK"] == "2":
    while True: sys.stdout.buffer.write(b"step 1\r" * 1000)
def told(number, frame):
    print("told at", time.time(), flush=True)
    sys.exit()
signal.signal(signal.SIGTERM, told)
while True:
    print("line at", time.time(), flush=True)
    time.sleep(0.05)
"""
    root = lay_tree(tmp_path / "host", script)
    environ = environment(SAGEMAKER_BASE_DIR=str(root), TRAINING_JOB_NAME="j", TRAINKIT_RUN_DIR=str(root))
    argv = [*ENTRY, "--procs", "4", "--engine", "spawn"]
    with subprocess.Popen(argv, env=environ, stdout=subprocess.PIPE) as running:
        assert running.stdout
        lags, flood, stalled, sent, told, rest = [], 0, False, 0.0, 0.0, b""
        while data := os.read(running.stdout.fileno(), 1 << 20):
            flood += len(data)
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                if line.startswith(b"[algo-1:3] line at"):
                    lags.append(time.time() - float(line.split()[-1]))
                elif line.startswith(b"[algo-1:3] told at"):
                    told = float(line.split()[-1])
            if len(lags) > 20 and not stalled:
                stalled = True
                time.sleep(2)  # a reader that has other things to do
            if len(lags) > 60 and not sent:
                memory = peak_memory(running.pid)
                sent = time.time()
                running.send_signal(signal.SIGTERM)
        assert running.wait(DEADLINE) == 0
    assert flood > 1 << 20
    assert memory < 45 << 20
    assert told - sent < 1
    assert max(lags) < 5, lags
