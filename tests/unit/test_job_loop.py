"""Steps, progress and stopping."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from trainkit.contract.board import Board, Row
from trainkit.job import facts
from trainkit.job.context import Context
from trainkit.job.progress import Progress, spell_rate, spell_seconds
from trainkit.job.signals import Stop


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def job(tmp_path: Path) -> Context:
    return Context(facts.read({}, argv=[], cwd=tmp_path), stop=Stop())


def test_steps_count_from_the_start_and_skip_nothing(job, capsys):
    assert list(job.steps("abc", start=7)) == [(7, "a"), (8, "b"), (9, "c")]
    assert re.fullmatch(r"step 10/10 · \d+ steps/s\n", capsys.readouterr().out)


def test_a_generator_has_no_total_unless_it_is_told(job, capsys):
    list(job.steps(iter("ab")))
    list(job.steps(iter("ab"), total=4))
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("step 2 ·") and second.startswith("step 2/4 ·")


class Stream:
    """What a DataLoader over an IterableDataset is: it has __len__, which has no answer."""

    def __init__(self) -> None:
        self.begun = 0

    def __iter__(self):
        self.begun += 1
        return iter("ab")

    def __len__(self) -> int:
        raise TypeError("object of type 'Stream' has no len()")


def test_a_stream_that_does_not_know_its_length_has_no_total(job, capsys):
    assert len(list(job.steps(Stream()))) == 2
    assert capsys.readouterr().out.startswith("step 2 ·")


def test_a_loop_inside_a_step_gives_the_step_back_and_shows_no_progress(job, capsys):
    steps = []
    for step, _ in job.steps("ab", start=5):
        for inner, _ in job.steps(range(100)):
            if inner == 3:
                break
        job.log(loss=step)
    lines = capsys.readouterr().out.splitlines()
    steps = [line.split()[1] for line in lines if line.startswith("trainkit.metric")]
    assert steps == ["step=5", "step=6"]
    assert [line.split(" ·")[0] for line in lines if line.startswith("step")] == ["step 7/7"]


def test_epochs_are_one_count_when_they_say_where_they_start(job, capsys):
    data = "abc"
    for epoch in range(2):
        for _step, _ in job.steps(data, start=epoch * len(data), total=2 * len(data)):
            job.log(loss=1)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines if line.startswith("t")] == [f"step={step}" for step in range(6)]
    assert [line.split(" ·")[0] for line in lines if line.startswith("step")] == ["step 3/6", "step 6/6"]


def test_a_rehearsal_ends_each_loop_after_its_steps_and_says_which_they_were(job, capsys, monkeypatch):
    monkeypatch.setenv("TRAINKIT_REHEARSAL_STEPS", "2")

    assert [step for step, _ in job.steps(range(100), start=5)] == [5, 6]
    assert [step for step, _ in job.steps(range(1), start=7)] == [7]

    assert re.findall(r"rehearsal: steps (\d+) to (\d+)", capsys.readouterr().out) == [("5", "7"), ("7", "8")]


def test_a_job_that_is_to_stop_begins_no_further_epoch(tmp_path, capsys):
    stop, stream = Stop(), Stream()
    stop.signal = signal.SIGTERM
    job = Context(facts.read({}, argv=[], cwd=tmp_path), stop=stop)
    assert list(job.steps(stream)) == []
    assert stream.begun == 0, "a DataLoader's workers take seconds to start"


def test_a_loop_that_the_script_leaves_has_its_last_line_too(job, capsys):
    for step, _ in job.steps(range(100)):
        if step == 41:
            break
    assert capsys.readouterr().out.startswith("step 41/100")


@pytest.mark.parametrize(
    "stdout", ["io.TextIOWrapper(open('out', 'wb'), 'ascii')", "open('/dev/full', 'w')", "None", "CLOSED"]
)
def test_progress_never_ends_a_training(stdout, tmp_path):
    ended = run(
        "import io, os, sys, trainkit\n"
        "CLOSED = io.StringIO(); CLOSED.close()\n"
        "job = trainkit.job()\n"
        f"old, sys.stdout = sys.stdout, {stdout}\n"
        "assert len(list(job.steps('abc'))) == 3\n"
        "old.write('trained'); old.flush(); os._exit(0)\n",
        cwd=tmp_path,
    )
    assert (ended.stdout, ended.returncode) == ("trained", 0), ended.stderr
    if "ascii" in stdout:
        assert (tmp_path / "out").read_text().startswith("step 3/3 ? ")


def test_only_the_first_rank_shows_progress(tmp_path, capsys):
    job = Context(facts.read({"RANK": "1", "WORLD_SIZE": "2"}, argv=[], cwd=tmp_path), stop=Stop())
    assert len(list(job.steps(range(3)))) == 3
    job.log(loss="not even looked at")
    assert capsys.readouterr().out == ""
    assert not list(tmp_path.iterdir())


def test_progress_shows_the_recent_rate_the_time_left_and_what_was_logged():
    clock, lines = Clock(), []
    progress = Progress(0, total=5000, terminal=True, clock=clock, say=lines.append)
    for done in range(1, 1201):
        clock.now += 1.0 if done <= 5 else 1 / 32  # a slow start, which the rate must forget
        progress.after(done, {"loss": 0.34512, "lr": 1e-05})
    progress.end(1200, {"loss": 0.34512})

    assert lines[0] == "step 1/5000 · 1.0 steps/s · 1h23m left · loss=0.3451 · lr=1e-05"
    assert lines[-1] == "step 1200/5000 · 32.0 steps/s · 1m59s left · loss=0.3451"


def test_the_share_of_time_without_data_is_said_where_it_is_worth_a_word() -> None:
    lines: list[str] = []
    now = [0.0]
    progress = Progress(0, total=100, terminal=True, clock=lambda: now[0], say=lines.append)
    for done, waited in ((1, 0.02), (2, 0.5), (3, 0.5)):
        now[0] += 1.0
        progress.after(done, {}, waited=waited)
    assert ["waiting" in line for line in lines] == [False, True, True]
    assert "25% waiting for data" in lines[1]


def test_lines_come_each_second_on_a_terminal_and_ever_slower_in_a_log():
    def moments(*, terminal: bool) -> list[float]:
        clock, spoken = Clock(), []
        progress = Progress(0, total=None, terminal=terminal, clock=clock, say=lambda _: spoken.append(clock.now - 100))
        for done in range(1, 161):
            clock.now += 0.25
            progress.after(done, {})
        return spoken

    assert moments(terminal=True) == [float(second) for second in range(1, 41)]
    assert moments(terminal=False) == [1, 3, 7, 15, 25, 35]


@pytest.mark.parametrize(("rate", "text"), [(1234.5, "1234"), (35.24, "35.2"), (0.0417, "0.042")])
def test_rates_have_the_digits_that_count(rate, text):
    assert spell_rate(rate) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0s"), (59.6, "1m00s"), (108, "1m48s"), (7500, "2h05m"), (273600, "3d04h")]
)
def test_times_are_short(seconds, text):
    assert spell_seconds(seconds) == text


def run(script: str, *, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A script of its own, since handlers belong to a process's main thread."""
    return subprocess.run([sys.executable, "-c", script], cwd=cwd, capture_output=True, text=True, timeout=60)


def test_after_sigterm_the_loop_ends_with_the_step_at_hand(tmp_path):
    ended = run(
        "import os, signal, trainkit\n"
        "job = trainkit.job()\n"
        "assert trainkit.job() is job\n"
        "for step, _ in job.steps(range(10**9)):\n"
        "    if step == 3: os.kill(os.getpid(), signal.SIGTERM)\n"
        "print('after', step, job.should_stop(), list(job.steps('abc')))\n",
        cwd=tmp_path,
    )
    assert ended.returncode == 0, ended.stderr
    first, _, last = ended.stdout.splitlines()
    assert re.fullmatch(r"step 4/1000000000 · \d+ steps/s · stopping: SIGTERM", first)
    assert last == "after 3 True []"


def test_a_scripts_own_handler_is_left_alone(tmp_path):
    ended = run(
        "import os, signal, trainkit\n"
        "signal.signal(signal.SIGTERM, lambda *_: print('mine'))\n"
        "job = trainkit.job()\n"
        "os.kill(os.getpid(), signal.SIGTERM)\n"
        "print(job.should_stop())\n",
        cwd=tmp_path,
    )
    assert (ended.stdout, ended.returncode) == ("mine\nFalse\n", 0), ended.stderr


def test_a_forked_child_dies_of_sigterm_as_it_would_without_us(tmp_path):
    ended = run(
        "import os, signal, trainkit\n"
        "job = trainkit.job()\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    os._exit(0)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), job.should_stop())\n",
        cwd=tmp_path,
    )
    assert ended.stdout == "-15 False\n", ended.stderr


def test_a_step_costs_microseconds(job, capsys):
    start = time.perf_counter()
    for _ in job.steps(range(200_000)):
        pass
    assert (time.perf_counter() - start) / 200_000 < 20e-6, "measured: under one microsecond"


def test_a_question_for_the_stop_within_a_step_does_not_hide_the_step(tmp_path: Path) -> None:
    board = Board.create(tmp_path, 1)
    stop = Stop(board)
    stop.at_boundary(step=1200, waited=2.0)
    stop.at_boundary()
    assert board.rows() == [Row(passed=2, step=1200, waited=2_000_000_000, looping=1)]
    board.close()
