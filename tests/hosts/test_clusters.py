"""An engine on the hosts of a processing job: started by the supervisors, used by one command, ended with it.

The engine is a small one of real processes (engines/small_spark.py): what is tested is all that is ours.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from engines import small_spark
from harness import DEADLINE, processes_mentioning
from hosts import test_processing as processing

HOSTS = processing.HOSTS
APP = """
import os, signal, sys, time
from pathlib import Path
how = sys.argv[1]
home = Path(os.environ["SPARK_HOME"])
lines = (Path(os.environ["SPARK_CONF_DIR"]) / "spark-defaults.conf").read_text().splitlines()
conf = dict(line.split(maxsplit=1) for line in lines)
pid = lambda name: int((home / f"{name}.pid").read_text())
alive = lambda name: Path(f"/proc/{pid(name)}").exists()
daemons = ["algo-1.master", *(f"algo-{n}.worker" for n in (1, 2, 3))]
def everywhere(secret):
    for process in Path("/proc").glob("[0-9]*"):
        try: yield secret in (process / "cmdline").read_text(errors="replace")
        except OSError: pass
if how == "look":
    shown = any(everywhere(conf["spark.authenticate.secret"]))
    print("on", os.environ["SM_CURRENT_HOST"], os.environ["WORLD_SIZE"], "all up:", all(map(alive, daemons)))
    print("memory", conf["spark.executor.memory"], "name", conf["spark.app.name"], "secret shown:", shown)
if how == "fail": raise ValueError("bad row")
if how == "once" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0": sys.exit(5)
if how == "kill": os.kill(pid(sys.argv[2]), 9)
def stop(*_):
    time.sleep(0.3)
    print("stopping, all up:", all(map(alive, daemons)), flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
print("ready", flush=True)
while how in ("kill", "wait"): time.sleep(0.1)
"""


@contextmanager
def cluster(tmp_path: Path, *arguments: str, **environ: str) -> Iterator[list[subprocess.Popen[str]]]:
    """Three hosts that have a Spark, and `arguments` for the application."""
    home = small_spark.install(tmp_path / "spark")
    (home / "conf").mkdir()
    (home / "conf/spark-defaults.conf").write_text("spark.executor.memory 777m\nspark.app.name  mine\n")
    for name in HOSTS:
        processing.lay(tmp_path / name, name, script=APP, name="app.py")
    given = {"SPARK_HOME": str(home), "PATH": f"{home / 'bin'}:{os.environ['PATH']}", **environ}
    words = ("app.py", *arguments) if "TRAINKIT_CLUSTER" in environ else ("smspark-submit", "app.py", *arguments)
    with processing.cluster(tmp_path, *words, **given) as running:
        yield running


def none_left(tmp_path: Path) -> bool:
    """Whether no process of the job is left, or will be soon."""
    deadline = time.monotonic() + DEADLINE
    while processes_mentioning(str(tmp_path)) and time.monotonic() < deadline:
        time.sleep(0.01)
    return processes_mentioning(str(tmp_path)) == []


def codes(ended: Sequence[tuple[int, str]]) -> list[int]:
    return [code for code, _ in ended]


def test_a_command_runs_once_on_the_first_host_when_the_engine_counts_all(tmp_path: Path) -> None:
    with cluster(tmp_path, "look") as running:
        ended = processing.ends(running)
    assert codes(ended) == [0, 0, 0], ended
    first, *others = (log for _, log in ended)
    assert "on algo-1 1 all up: True" in first
    assert "memory 777m name mine secret shown: False" in first
    assert "Spark counts algo-1, algo-2, algo-3 after" in first
    assert not any("ready" in log for log in others)
    assert none_left(tmp_path)


def test_a_script_of_its_own_finds_the_cluster_that_the_setting_asks_for_and_starts_again_with_a_new_one(
    tmp_path: Path,
) -> None:
    with cluster(tmp_path, "once", TRAINKIT_CLUSTER="spark", TRAINKIT_MAX_RESTARTS="1") as running:
        ended = processing.ends(running)
    assert codes(ended) == [0, 0, 0], ended
    assert ended[0][1].count("Spark counts algo-1, algo-2, algo-3") == 2
    assert none_left(tmp_path)


def test_the_command_that_fails_is_the_cause_on_every_host(tmp_path: Path) -> None:
    with cluster(tmp_path, "fail") as running:
        assert codes(processing.ends(running)) == [1, 1, 1]
    first, *others = processing.messages(tmp_path)
    assert first is not None
    assert first.startswith("ValueError: bad row\n")
    assert others == [None, None]
    assert none_left(tmp_path)


@pytest.mark.parametrize("who", ["algo-1.master", "algo-1.worker", "algo-3.worker"])
def test_a_daemon_that_dies_ends_the_job_on_all_hosts_with_its_name(tmp_path: Path, who: str) -> None:
    with cluster(tmp_path, "kill", who) as running:
        assert codes(processing.ends(running)) == [137, 137, 137]
    host, name = who.split(".")
    first = processing.messages(tmp_path)[0]
    assert first is not None
    assert first.startswith(f"Spark's {name} on {host} was killed by signal 9")
    assert none_left(tmp_path)


@pytest.mark.parametrize(
    ("fault", "code", "says", "shows"),
    [
        ("algo-2 refuses", 1, "Spark's worker on algo-2 ended by itself, exit code 1", "no disk for the shuffle"),
        ("algo-3 sulks", 75, "algo-3 has not joined Spark's cluster within 8 s", "means nothing to me"),
        ("algo-1 sulks", 75, "algo-1 has not joined Spark's cluster within 8 s", "means nothing to me"),
    ],
)
def test_a_host_that_does_not_join_is_named_with_what_its_daemon_said(
    tmp_path: Path, fault: str, code: int, says: str, shows: str
) -> None:
    # The other hosts and their daemons have to come in that time, too.
    with cluster(tmp_path, "wait", FAULT=fault, TRAINKIT_PEER_WAIT="8") as running:
        ended = processing.ends(running)
    assert codes(ended) == [code] * 3, ended
    first = processing.messages(tmp_path)[0]
    assert first is not None
    assert first.startswith(says)
    assert shows in first
    assert "ready" not in ended[0][1]
    assert none_left(tmp_path)


@pytest.mark.parametrize("who", range(3))
def test_a_host_that_is_killed_takes_its_daemons_with_it_and_ends_all(tmp_path: Path, who: int) -> None:
    delay = random.Random().uniform(0.0, 2.0)
    with cluster(tmp_path, "wait", TRAINKIT_PEER_WAIT="5") as running:
        try:
            running[who].wait(timeout=delay)
        except subprocess.TimeoutExpired:
            pass
        began = time.monotonic()
        running[who].kill()
        ended = processing.ends([process for number, process in enumerate(running) if number != who])
        took = time.monotonic() - began
    assert all(codes(ended)), (delay, ended)
    assert took < processing.LOST_WITHIN, (delay, took)
    said = [text for text in processing.messages(tmp_path) if text is not None]
    assert len(said) == 1, (delay, said)
    assert HOSTS[who] in said[0].splitlines()[0], (delay, said)
    assert none_left(tmp_path), delay


def test_a_stop_at_any_host_reaches_the_command_which_has_its_cluster_until_it_is_done(tmp_path: Path) -> None:
    with cluster(tmp_path, "wait") as running:
        processing.wait_ready(running[:1])
        running[2].send_signal(signal.SIGTERM)
        ended = processing.ends(running)
    assert codes(ended) == [0, 0, 0], ended
    assert "stopping, all up: True" in ended[0][1]
    assert none_left(tmp_path)


def test_a_stop_before_the_hosts_have_joined_ends_all_well(tmp_path: Path) -> None:
    with cluster(tmp_path, "wait", FAULT="algo-3 sulks") as running:
        assert running[2].stdout
        while "means nothing" not in (line := running[2].stdout.readline()):
            assert line
        running[1].send_signal(signal.SIGTERM)
        ended = processing.ends(running)
    assert codes(ended) == [0, 0, 0], ended
    assert none_left(tmp_path)


def test_none_runs_a_submission_on_each_host_by_itself(tmp_path: Path) -> None:
    home = small_spark.install(tmp_path / "spark")
    script = "import os; print('alone on', os.environ['SM_CURRENT_HOST'])"
    for name in HOSTS:
        processing.lay(tmp_path / name, name, script=script, name="app.py")
    given = {"SPARK_HOME": str(home), "PATH": f"{home / 'bin'}:{os.environ['PATH']}", "TRAINKIT_CLUSTER": "none"}
    with processing.cluster(tmp_path, "smspark-submit", "app.py", **given) as running:
        ended = processing.ends(running)
    assert codes(ended) == [0, 0, 0], ended
    assert all(f"alone on {name}" in log for name, (_, log) in zip(HOSTS, ended, strict=True))


def test_an_engine_that_is_not_installed_ends_all_hosts_before_anything_starts(tmp_path: Path) -> None:
    for name in HOSTS:
        processing.lay(tmp_path / name, name, script="print('never')")
    with processing.cluster(tmp_path, "prep.py", TRAINKIT_CLUSTER="spark", PATH="/nowhere") as running:
        ended = processing.ends(running)
    assert codes(ended) == [70, 70, 70], ended
    first = processing.messages(tmp_path)[0]
    assert first is not None
    assert first.startswith("TRAINKIT_CLUSTER=spark needs Spark, which this image has not: install trainkit[spark]")
    assert not any("never" in log for _, log in ended)
