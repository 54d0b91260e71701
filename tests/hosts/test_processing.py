"""A processing job on several hosts: one command each, one outcome for all, one message, nothing left behind."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from harness import DEADLINE, environment, processes_mentioning

HOSTS = ("algo-1", "algo-2", "algo-3")
PROCESS = (sys.executable, "-m", "trainkit.cli.process")
LOST_WITHIN = 15.0  # seconds
SCRIPT = """
import os, signal, sys, time
how, who = sys.argv[1:3]
host = os.environ["SM_CURRENT_HOST"]
def say(text): open(os.environ["SM_OUTPUT_MESSAGE"], "w").write(text)
print("ready", flush=True)
if host == who:
    if how == "raise": raise ValueError("bad row")
    if how == "kill": os.kill(os.getpid(), 9)
    if how == "exit": say("my own words"); sys.exit(3)
    if how == "early": sys.exit(0)
if how == "early": time.sleep(0.5); raise ConnectionRefusedError("connection refused by the database")
if how == "talk": say(f"{host} is done"); sys.exit(0)
while True: time.sleep(1)
"""


def lay(root: Path, host: str, hosts: Sequence[str] = HOSTS, *, script: str = SCRIPT, name: str = "prep.py") -> Path:
    """A root as the service lays it, with `script` where ScriptProcessor puts it."""
    (root / "config").mkdir(parents=True)
    (root / "config/resourceconfig.json").write_text(json.dumps({"current_host": host, "hosts": list(hosts)}))
    (root / "config/processingjobconfig.json").write_text(json.dumps({"ProcessingJobName": "j"}))
    (root / "processing/input/code").mkdir(parents=True)
    (root / "processing/input/code" / name).write_text(script)
    return root


@contextmanager
def cluster(tmp_path: Path, *arguments: str, **environ: str) -> Iterator[list[subprocess.Popen[str]]]:
    """Three hosts as plain processes, each with its own root, as three containers would be."""
    block = random.randrange(1, 250)
    addresses = json.dumps({name: f"127.79.{block}.{number}" for number, name in enumerate(HOSTS, 2)})
    running = []
    for name in HOSTS:
        root = tmp_path / name
        if not root.exists():
            lay(root, name)
        given = environment(
            SAGEMAKER_BASE_DIR=str(root), TRAINKIT_HOST_ADDRESSES=addresses, TRAINKIT_RUN_DIR=str(root),
            TRAINKIT_PORT=str(20000 + os.getpid() % 10000), **environ,
        )  # fmt: skip
        running.append(
            subprocess.Popen(
                [*PROCESS, *arguments], env=given, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, text=True, cwd=root,
            )
        )  # fmt: skip
    try:
        yield running
    finally:
        for process in running:
            process.kill()
            process.communicate()


def wait_ready(processes: Sequence[subprocess.Popen[str]]) -> None:
    for process in processes:
        assert process.stdout
        while "ready" not in (line := process.stdout.readline()):
            assert line


def ends(processes: Sequence[subprocess.Popen[str]]) -> list[tuple[int, str]]:
    logs = [process.communicate(timeout=DEADLINE)[0] for process in processes]
    return [(process.returncode, log) for process, log in zip(processes, logs, strict=True)]


def messages(tmp_path: Path) -> list[str | None]:
    paths = [tmp_path / name / "output/message" for name in HOSTS]
    return [path.read_text() if path.exists() else None for path in paths]


@pytest.mark.parametrize(
    ("how", "code", "begins"),
    [
        ("raise", 1, "ValueError: bad row\nthe script on algo-2, prep.py:8 in <module>, exit code 1"),
        ("kill", 137, "killed by SIGKILL (signal 9): the script on algo-2, exit code 137"),
        ("exit", 3, "my own words\nexit code 3\nthe script on algo-2"),
    ],
)
def test_the_first_hosts_message_has_the_cause_and_every_host_its_code(
    tmp_path: Path, how: str, code: int, begins: str
) -> None:
    with cluster(tmp_path, "prep.py", how, "algo-2") as running:
        ended = ends(running)
    assert [end[0] for end in ended] == [code] * 3, ended
    first, *others = messages(tmp_path)
    assert first is not None
    assert first.startswith(begins)
    assert others == [None, None]
    failures = [(tmp_path / name / "output/failure").read_text() for name in HOSTS]
    assert all(first.startswith("\n".join(text.splitlines()[:2])) for text in failures)
    if how == "exit":
        assert "the script's message:\n[algo-2] my own words" in ended[1][1]
    assert processes_mentioning(str(tmp_path)) == []


def test_on_success_the_first_hosts_own_message_stays_and_the_others_are_logged(tmp_path: Path) -> None:
    with cluster(tmp_path, "prep.py", "talk", "all") as running:
        ended = ends(running)
    assert [end[0] for end in ended] == [0, 0, 0], ended
    assert messages(tmp_path) == ["algo-1 is done", None, None]
    assert "[algo-3] algo-3 is done" in ended[2][1]


def test_a_host_that_is_done_early_is_not_blamed_for_what_happens_to_the_others(tmp_path: Path) -> None:
    with cluster(tmp_path, "prep.py", "early", "algo-1") as running:
        assert [end[0] for end in ends(running)] == [1, 1, 1]
    first = messages(tmp_path)[0]
    assert first is not None
    assert first.startswith("ConnectionRefusedError: connection refused by the database")


def test_a_script_that_one_host_lacks_ends_all_at_once_with_that_cause(tmp_path: Path) -> None:
    for name in HOSTS:
        lay(tmp_path / name, name)
    (tmp_path / "algo-3/processing/input/code/prep.py").unlink()
    began = time.monotonic()
    with cluster(tmp_path, "prep.py", "wait", "-") as running:
        assert [end[0] for end in ends(running)] == [66, 66, 66]
    assert time.monotonic() - began < LOST_WITHIN * 2
    first = messages(tmp_path)[0]
    assert first is not None
    assert first.startswith("there is no script prep.py")


@pytest.mark.parametrize("who", range(3))
def test_a_host_that_is_killed_at_any_moment_ends_all_within_fifteen_seconds(tmp_path: Path, who: int) -> None:
    """From the first instant on: an interpreter that starts, hosts that meet, scripts that run."""
    delay = random.Random().uniform(0.0, 2.0)
    with cluster(tmp_path, "prep.py", "wait", "-", TRAINKIT_PEER_WAIT="5") as running:
        try:
            running[who].wait(timeout=delay)
        except subprocess.TimeoutExpired:
            pass
        began = time.monotonic()
        running[who].kill()
        others = [process for number, process in enumerate(running) if number != who]
        ended = ends(others)
        took = time.monotonic() - began
    assert [end[0] for end in ended] == [75, 75], (delay, ended)
    assert took < LOST_WITHIN, (delay, took)
    said = [text for text in messages(tmp_path) if text is not None]
    assert len(said) == 1, (delay, said)
    assert HOSTS[who] in said[0].splitlines()[0], (delay, said)
    deadline = time.monotonic() + DEADLINE
    while left := processes_mentioning(str(tmp_path)):
        assert time.monotonic() < deadline, left
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_at_one_host_stops_the_scripts_of_all_without_a_failure(tmp_path: Path, number: int) -> None:
    with cluster(tmp_path, "prep.py", "wait", "-") as running:
        wait_ready(running)
        running[1].send_signal(number)
        ended = ends(running)
    assert [end[0] for end in ended] == [0, 0, 0], ended
    assert messages(tmp_path) == [None, None, None]
    assert processes_mentioning(str(tmp_path)) == []


RUNPROC = f"""
set -e
{sys.executable} {{script}} "$@"
"""
HEEDING = """
import os, signal, sys, time
def stop(*_):
    time.sleep(0.5)
    print("saved what there was", flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
print("ready", flush=True)
while True: time.sleep(1)
"""


def test_what_a_shell_runs_hears_the_stop_and_gets_its_time_to_heed_it(tmp_path: Path) -> None:
    root = lay(tmp_path / "r", "algo-1", ("algo-1",), script=HEEDING)
    code = root / "processing/input/code"
    (code / "runproc.sh").write_text(RUNPROC.format(script=code / "prep.py"))
    given = environment(SAGEMAKER_BASE_DIR=str(root))
    with subprocess.Popen(
        [*PROCESS, "bash", str(code / "runproc.sh")], env=given, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    ) as running:  # fmt: skip
        wait_ready([running])
        running.send_signal(signal.SIGTERM)
        log = running.communicate(timeout=DEADLINE)[0]
    assert running.returncode == 0, log
    assert "saved what there was" in log
    assert processes_mentioning(str(tmp_path)) == []


def test_what_python_raised_under_a_shell_is_the_cause(tmp_path: Path) -> None:
    root = lay(tmp_path / "r", "algo-1", ("algo-1",), script="raise KeyError('fare')")
    code = root / "processing/input/code"
    (code / "runproc.sh").write_text(RUNPROC.format(script=code / "prep.py"))
    ran = subprocess.run(
        [sys.executable, "-m", "trainkit.cli.train", "bash", str(code / "runproc.sh")], check=False, text=True,
        env=environment(SAGEMAKER_BASE_DIR=str(root)), stdin=subprocess.DEVNULL, capture_output=True, timeout=DEADLINE,
    )  # fmt: skip
    assert ran.returncode == 1
    assert (root / "output/message").read_text().startswith("KeyError: 'fare'\nthe script on algo-1, exit code 1")


@pytest.mark.parametrize(
    ("writes", "stays"),
    [
        ("b'fine \\xc3\\xa9'", b"fine \xc3\xa9"),
        ("b'\\xff\\xfe'", "\N{REPLACEMENT CHARACTER}".encode() * 2),
        ("'é'.encode() * 900", "é".encode() * 500),
    ],
)
def test_a_scripts_own_message_is_kept_or_made_fit(tmp_path: Path, writes: str, stays: bytes) -> None:
    script = f"import os; open(os.environ['SM_OUTPUT_MESSAGE'], 'wb').write({writes})"
    root = lay(tmp_path / "r", "algo-1", ("algo-1",), script=script)
    ran = subprocess.run(
        [*PROCESS, "python3", "prep.py"], env=environment(SAGEMAKER_BASE_DIR=str(root)), check=False,
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=DEADLINE,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout
    assert (root / "output/message").read_bytes() == stays


def test_a_config_full_of_mistakes_is_the_message_and_nothing_starts(tmp_path: Path) -> None:
    root = lay(tmp_path / "r", "algo-1", ("algo-1",), script="print('never')")
    (root / "config/processingjobconfig.json").write_text('{"Environment": [], "ProcessingInputs": 7}')
    ran = subprocess.run(
        [*PROCESS, "prep.py"], env=environment(SAGEMAKER_BASE_DIR=str(root)), check=False,
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=DEADLINE,
    )  # fmt: skip
    assert ran.returncode == 78
    assert "never" not in ran.stdout
    text = (root / "output/message").read_text()
    assert "Environment is []: must be an object" in text
    assert "ProcessingInputs is 7: must be an array" in text


def test_by_hand_without_a_job_a_script_runs_as_one_host_and_leaves_no_files(tmp_path: Path) -> None:
    (tmp_path / "prep.py").write_text("import trainkit.processing as p; print('on', p.job().hosts)")
    ran = subprocess.run(
        [sys.executable, "-m", "trainkit.cli.main", "process", "prep.py"], cwd=tmp_path, check=False,
        env=environment(SAGEMAKER_BASE_DIR=str(tmp_path / "none")), stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=DEADLINE,
    )  # fmt: skip
    assert (ran.returncode, "on ('algo-1',)" in ran.stdout) == (0, True), ran.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["prep.py"]
