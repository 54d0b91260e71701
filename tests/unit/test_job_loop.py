"""Steps, progress and stopping."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

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


def test_only_the_first_rank_shows_progress(tmp_path, capsys):
    job = Context(facts.read({"RANK": "1", "WORLD_SIZE": "2"}, argv=[], cwd=tmp_path), stop=Stop())
    assert len(list(job.steps(range(3)))) == 3
    job.log(loss="not even looked at")
    assert capsys.readouterr().out == ""
    assert not list(tmp_path.iterdir())


def test_progress_shows_the_recent_rate_the_time_left_and_what_was_logged():
    clock, lines = Clock(), []
    progress = Progress(done=0, total=5000, terminal=True, clock=clock, say=lines.append)
    for done in range(1, 1201):
        clock.now += 1.0 if done <= 5 else 1 / 32  # a slow start, which the rate must forget
        progress.after(done, {"loss": 0.34512, "lr": 1e-05})
    progress.end(1200, {"loss": 0.34512})

    assert lines[0] == "step 1/5000 · 1.0 steps/s · 1h23m left · loss=0.3451 · lr=1e-05"
    assert lines[-1] == "step 1200/5000 · 32.0 steps/s · 1m59s left · loss=0.3451"


def test_lines_come_each_second_on_a_terminal_and_ever_slower_in_a_log():
    def moments(*, terminal: bool) -> list[float]:
        clock, spoken = Clock(), []
        progress = Progress(
            done=0, total=None, terminal=terminal, clock=clock, say=lambda _: spoken.append(clock.now - 100)
        )
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
