"""Where a rank stands, from the stacks it shows when asked."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import DEADLINE, environment

from trainkit.launch import rank as rank_module
from trainkit.launch import stacks
from trainkit.plan.launch import BOOTSTRAP

WAITS = """Thread 0x00007f1 (most recent call first):
  File "/usr/lib/python3.11/threading.py", line 327 in wait
  File "/code/data.py", line 12 in prefetch

Current thread 0x00007f2 (most recent call first):
  File "/site-packages/torch/distributed/distributed_c10d.py", line 3252 in all_reduce
  File "/site-packages/torch/distributed/c10d_logger.py", line 83 in wrapper
  File "/code/train.py", line 8 in step
  File "/code/train.py", line 20 in <module>
"""
HANGS = """import threading, time
threading.Thread(target=threading.Event().wait, daemon=True).start()
def load():
    print("standing", flush=True); time.sleep(1000)
load()
"""


def test_the_main_thread_counts_with_the_innermost_frame_of_the_scripts_own() -> None:
    shown = stacks.parse(WAITS, home=Path("/code"))
    assert shown.where == "train.py:8 in step"
    assert shown.waits


def test_a_thread_that_waits_for_others_does_not_make_the_rank_wait() -> None:
    shown = stacks.parse(WAITS.replace("all_reduce", "x").replace("torch/distributed/", "lib/"), home=Path("/code"))
    assert not shown.waits


def test_an_asynchronous_collective_is_waited_for_in_the_script_itself(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text("def step(work):\n    work.wait()\n")
    text = f'Current thread 0x1 (most recent call first):\n  File "{script}", line 2 in step\n'
    assert stacks.parse(text, home=tmp_path) == stacks.Stack("train.py:2 in step", True, text.strip())


def test_without_a_frame_of_the_scripts_own_the_innermost_is_told() -> None:
    assert stacks.parse(WAITS, home=Path("/elsewhere")).where == "distributed_c10d.py:3252 in all_reduce"


@pytest.fixture
def rank(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A rank that stands still, started as ours are."""
    script = tmp_path / "train.py"
    script.write_text(HANGS)
    environ = environment(TRAINKIT_RUN_DIR=str(tmp_path), RANK="3")
    command = [sys.executable, str(BOOTSTRAP / "rank.py"), str(script)]
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == "standing\n"
            yield process
        finally:
            process.kill()


def shown(folder: Path, *, deadline: float = DEADLINE) -> stacks.Stack:
    stacks.ask(folder, 3)
    until = time.monotonic() + deadline
    while "in <module>" not in (stack := stacks.read(folder, 3, home=folder)).text and time.monotonic() < until:
        pass
    return stack


def test_a_rank_that_stands_still_shows_where_as_often_as_it_is_asked(
    rank: subprocess.Popen[str], tmp_path: Path
) -> None:
    for _ in range(2):
        stack = shown(tmp_path)
        assert stack.where == "train.py:4 in load"
        assert not stack.waits
        assert stack.text.count("train.py") == 2  # load and the module, once: the earlier dump is gone
        assert "trainkit" not in stack.text
    assert rank.poll() is None


def test_a_rank_that_is_stopped_shows_no_stack_and_is_told_to_be_so(
    rank: subprocess.Popen[str], tmp_path: Path
) -> None:
    rank.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, rank.pid, os.WSTOPPED)
    assert shown(tmp_path, deadline=0.1).where == "stopped by a signal"


def test_a_process_without_the_handler_is_left_alone(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        (tmp_path / "3.stacks").write_text(f"{process.pid}\n")
        assert shown(tmp_path, deadline=0.1).where == "in code that shows no Python stack"
        assert process.poll() is None
        process.kill()
    assert stacks.read(tmp_path, 4, home=tmp_path).where == "a process that is no Python"


def test_torchs_flight_recorder_is_asked_where_there_is_one(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "recorder.3.pipe")
    stacks.ask_recorder(tmp_path, 3, into=tmp_path / "traces")  # nobody listens there: a rank that has gone
    assert not (tmp_path / "traces").exists()
    listening = os.open(tmp_path / "recorder.3.pipe", os.O_RDONLY | os.O_NONBLOCK)
    stacks.ask_recorder(tmp_path, 3, into=tmp_path / "traces")
    stacks.ask_recorder(tmp_path, 4, into=tmp_path / "traces")
    assert os.read(listening, 64) == b"1\n"
    assert (tmp_path / "traces").is_dir()
    os.close(listening)


def test_a_rank_listens_for_the_signal_that_asks() -> None:
    assert rank_module._SHOW == stacks.SHOW
