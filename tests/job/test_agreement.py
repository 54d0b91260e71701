"""Ranks without the harness agree on the step to stop at: in one process, and under two torchruns."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.torch

TRAIN = """
import ctypes, torch, torch.distributed as dist, trainkit

ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG: no rank outlives its agent, and so the test
job = trainkit.job()
dist.init_process_group("gloo")
for step, _ in job.steps(range(10**9)):
    if step % 8 == 0:  # in between, nothing keeps the ranks at the same step
        dist.all_reduce(torch.ones(1))
    if step == 80:
        print(f"rank {job.rank} is moving", flush=True)
print(f"rank {job.rank} stopped after step {step}", flush=True)
"""


@pytest.fixture(scope="module")
def seen() -> dict[str, Any]:
    script = Path(__file__).with_name("agree_in_threads.py")
    ended = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=240)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return json.loads(ended.stdout)


def test_all_stop_at_one_count_whoever_asked_and_however_far_apart_they_were(seen):
    for stopped_at in seen["freely"]:
        assert len(set(stopped_at)) == 1, stopped_at
    assert seen["freely"][1][0] > 200


def test_ranks_that_wait_at_the_boundary_are_sent_on_to_the_collective_of_the_others(seen):
    assert len(set(seen["in step"])) == 1, seen["in step"]
    assert seen["in step"][0] > 50


def test_where_one_does_not_answer_all_stop_at_their_own_boundary_and_so_does_it_later(seen):
    assert seen["one never asks"] == [True] * 4


def test_without_the_store_each_rank_stops_at_its_own_boundary_after_its_own_signal(seen):
    assert seen["without a store"] == {"gone": [True, True], "never there": [None, True]}


def test_the_agreement_follows_the_process_group(seen):
    following = seen["following"]
    assert following["no group"] and following["alone"]
    assert following["place"] == [True, 0, 2, "trainkit.stop/0"]
    assert following["kept without a group"] and following["the next group's"]
    assert following["child"] == 0


def test_a_boundary_costs_the_loop_microseconds(seen):
    assert seen["following"]["seconds"] < 20e-6, "measured: under one microsecond"


@pytest.fixture
def agents(tmp_path: Path) -> Iterator[list[subprocess.Popen[str]]]:
    """Two nodes of one rank each, on this machine."""
    (tmp_path / "train.py").write_text(TRAIN)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    started = []
    for node in (0, 1):
        argv = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--node-rank", str(node)]
        argv += ["--master-addr", "127.0.0.1", "--master-port", str(port), "train.py"]
        environ = {**os.environ, "OMP_NUM_THREADS": "1"}
        started.append(
            subprocess.Popen(
                argv, cwd=tmp_path, env=environ, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
        )
    deadline = threading.Timer(120, lambda: [agent.kill() for agent in started])
    deadline.start()
    yield started
    deadline.cancel()
    for agent in started:
        # An agent whose ranks are done waits five minutes for one that was told to stop, deaf to SIGTERM.
        agent.kill()
        agent.communicate()


def line_with(agent: subprocess.Popen[str], word: str) -> str:
    assert agent.stdout
    line = next((line for line in agent.stdout if word in line), None)
    assert line, f"no rank of this agent said {word!r} in time"
    return line.strip()


@pytest.mark.parametrize("told", [(1,), (0, 1)], ids=["one node", "both nodes"])
def test_under_torchrun_every_rank_of_every_node_stops_after_the_same_step(told, agents):
    assert [line_with(agent, "moving") for agent in agents] == ["rank 0 is moving", "rank 1 is moving"]
    for node in told:
        agents[node].terminate()
    stopped = [line_with(agent, "stopped") for agent in agents]
    assert [line.split()[1] for line in stopped] == ["0", "1"]
    assert len({line.split()[-1] for line in stopped}) == 1, stopped
