"""`docker run IMAGE train`: how a job ends in a real container, as the service sees it."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pytest

from images.container import LABEL, lay, running
from images.daemon import Docker

TRAINING = (Path(__file__).parent / "training.py").read_text(encoding="utf-8")
STRANGER = os.geteuid() + 1000
"""A user that none of the job's files belongs to."""
GRACE = 30
"""Seconds that `docker stop` waits before it kills."""
FAILING = """
import os, sys, time
if os.environ["RANK"] == "1":
    {how}
time.sleep(600)
"""
GROWING = "held = b''\n    while True: held += b'x' * 2**20"
ORPHANS = """
import os, time
from pathlib import Path

gate, opener = os.pipe()
for _ in range(20):
    if os.fork() == 0:
        if os.fork() == 0:
            os.read(gate, 1)
        os._exit(0)
    os.wait()

def orphans():
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue  # it ended meanwhile
        if parent == "1" and int(stat.parent.name) != os.getpid():
            found.append(state)
    return found

before = len(orphans())
os.write(opener, b"x" * 20)
deadline = time.monotonic() + 20
while len(orphans()) > before - 20 and time.monotonic() < deadline:
    time.sleep(0.01)
print("orphans", before - len(orphans()), "zombies", orphans().count("Z"))
print("first", Path("/proc/1/cmdline").read_text().split(chr(0))[1])
"""


def left(log: str) -> set[tuple[str, ...]]:
    """(step, ranks, weights) as the ranks tell them; one where all agree."""
    return set(re.findall(r"left after step (\d+) of (\d+) ranks with weights (\w+)", log))


@pytest.mark.parametrize("which", ["cpu", "gpu"])
def test_ranks_train_and_leave_a_model(
    request: pytest.FixtureRequest, tmp_path: Path, docker: Docker, which: str
) -> None:
    root = lay(tmp_path / "ml", TRAINING, trainkit_procs=2)

    with running(docker, request.getfixturevalue(which), root) as job:
        code = job.end()

    assert (code, job.failure) == (0, None), job.log
    assert [(step, ranks) for step, ranks, _ in left(job.log)] == [("19", "2")]
    assert job.log.count("left after") == 2
    assert (root / "output/success").exists()
    assert list((root / "model").glob("*.safetensors"))


@pytest.mark.parametrize(
    ("how", "code", "cause"),
    [
        ("sys.exit(7)", 7, "exit code 7"),
        ("sys.exit('the table is empty')", 1, "the table is empty"),
        ("{}['lr']", 1, "KeyError: 'lr'"),
        ("os.kill(os.getpid(), 11)", 139, "killed by SIGSEGV (signal 11): rank 1 on algo-1, exit code 139"),
    ],
    ids=["7", "words", "raised", "signal"],
)
def test_the_scripts_exit_code_is_the_containers_and_the_failure_begins_with_the_cause(
    tmp_path: Path, docker: Docker, cpu: str, how: str, code: int, cause: str
) -> None:
    root = lay(tmp_path / "ml", FAILING.format(how=how), trainkit_procs=2)

    with running(docker, cpu, root) as job:
        ended = job.end()

    assert ended == code, job.log
    assert job.failure
    first, second, *_ = job.failure.splitlines()
    assert first == cause
    assert "rank 1 on algo-1" in first + second


def test_docker_stop_is_heard_and_all_ranks_end_at_one_step_with_a_checkpoint(
    tmp_path: Path, docker: Docker, cpu: str
) -> None:
    root = lay(tmp_path / "ml", TRAINING, trainkit_procs=2, steps=10**9)

    with running(docker, cpu, root) as job:
        job.wait_for("under way")
        began = time.monotonic()
        docker.tell("stop", "-t", str(GRACE), job.name)
        took = time.monotonic() - began
        code, state = job.end(), job.state

    assert (code, state["ExitCode"], job.failure) == (0, 0, None), job.log
    assert took < GRACE, "it was killed"
    assert "SIGTERM: told the ranks" in job.log
    assert job.log.count("left after") == 2
    ((step, _, _),) = left(job.log)
    (checkpoint,) = (root / "checkpoints").glob("**/MANIFEST.json")
    assert checkpoint.parent.name.startswith(f"step-{int(step) + 1:09}.")
    assert list((root / "model").glob("*.safetensors"))


def test_a_rank_that_outgrows_the_containers_memory_is_named_and_so_is_its_killer(
    tmp_path: Path, docker: Docker, cpu: str
) -> None:
    root = lay(tmp_path / "ml", FAILING.format(how=GROWING), trainkit_procs=2)

    with running(docker, cpu, root, "--memory", "128m", "--memory-swap", "128m") as job:
        code = job.end()

    assert code == 137, job.log
    assert job.failure
    assert job.failure.startswith("out of memory: the kernel killed rank 1 on algo-1, exit code 137\n")


def test_a_user_that_may_not_read_the_config_is_told_who_may(tmp_path: Path, docker: Docker, cpu: str) -> None:
    root = lay(tmp_path / "ml", "")
    (root / "input/config").chmod(0o700)

    with running(docker, cpu, root, "--user", str(STRANGER)) as job:
        code = job.end()

    assert code == 78, job.log
    assert f"cannot be read by uid {STRANGER}" in job.log
    assert "run the image as root" in job.log
    assert "Traceback" not in job.log
    assert "cannot write into /opt/ml/output: Permission denied" in job.log


def test_a_user_without_a_name_trains_on_a_read_only_file_system(tmp_path: Path, docker: Docker, cpu: str) -> None:
    root = lay(tmp_path / "ml", TRAINING, trainkit_procs=2)
    for folder in ("model", "output", "checkpoints"):
        (root / folder).chmod(0o777)

    with running(docker, cpu, root, "--user", str(STRANGER), "--read-only", "--tmpfs", "/tmp") as job:
        code = job.end()

    assert code == 0, job.log
    assert len(left(job.log)) == 1
    assert {path.stat().st_uid for path in (root / "model").iterdir()} == {STRANGER}


def test_where_nothing_can_be_written_that_is_the_cause(tmp_path: Path, docker: Docker, cpu: str) -> None:
    root = lay(tmp_path / "ml", "")

    with running(docker, cpu, root, "--read-only") as job:
        code = job.end()

    assert code != 0
    assert job.failure
    assert "cannot write into any of the usual places" in job.failure.splitlines()[0]


def test_train_is_the_first_process_and_no_zombie_stays(tmp_path: Path, docker: Docker, cpu: str) -> None:
    with running(docker, cpu, lay(tmp_path / "ml", ORPHANS)) as job:
        assert job.end() == 0, job.log

    assert "orphans 20 zombies 0" in job.log
    assert re.search(r"first /\S+/bin/train$", job.log, re.MULTILINE)


def test_containers_of_one_network_find_each_other_by_name(tmp_path: Path, docker: Docker, cpu: str) -> None:
    hosts = ("algo-1", "algo-2")
    network = f"{LABEL}-{tmp_path.name}".replace("_", "-")
    docker.ask("network", "rm", network)  # of a run that was killed
    docker.tell("network", "create", network)
    try:
        roots = {host: lay(tmp_path / host, TRAINING, hosts=hosts, current=host, trainkit_procs=1) for host in hosts}
        begin = {
            host: running(docker, cpu, root, "--network", network, "--network-alias", host, "--hostname", host)
            for host, root in roots.items()
        }
        # The second first: for a moment the name of the other one means nothing.
        with begin["algo-2"] as second, begin["algo-1"] as first:
            codes = [first.end(), second.end()]
    finally:
        docker.tell("network", "rm", network)

    logs = first.log + second.log
    assert codes == [0, 0], logs
    assert "train.py as 2 ranks on 2 hosts" in first.log
    assert "GLOO_SOCKET_IFNAME=eth0" in first.log
    assert [(step, ranks) for step, ranks, _ in left(logs)] == [("19", "2")]
    assert logs.count("left after") == 2
    assert list((roots["algo-1"] / "model").glob("*.safetensors"))
