"""What happens on one host while another has not yet heard of the restart: messages cross, and none is lost."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from faults.test_kills import Job, descendants

# Every rank says who it is, in every generation. The first rank of the second one dies at once if it is asked to.
SCRIPT = """
import os, signal, sys, time
from pathlib import Path
folder, generation = Path(sys.argv[sys.argv.index("--folder") + 1]), os.environ["TORCHELASTIC_RESTART_COUNT"]
note = folder / f"{os.environ['RANK']}-{generation}"
note.with_suffix(".part").write_text(f"{os.getpid()} {os.getppid()}")
note.with_suffix(".part").replace(note)
if note.name == "0-1" and "--dies" in sys.argv:
    os.kill(os.getpid(), signal.SIGKILL)
if generation == "2":
    sys.exit()
time.sleep(4321)
"""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Job]]:
    jobs = []

    def begin(*arguments: str) -> Job:
        shape = ("--hosts", "2", "--isolation", "process")
        jobs.append(Job(tmp_path, SCRIPT, *shape, *arguments))
        return jobs[0]

    yield begin
    for job in jobs:
        for note in job.folder.glob("?-?"):  # and not what one was killed over
            send(int(note.read_text().split()[1]), signal.SIGCONT)
        job.close()


def send(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def noted(job: Job, name: str) -> tuple[int, int]:
    """The pids of a rank and of its supervisor, once it runs."""
    job.until((job.folder / name).exists, f"rank {name}")
    rank, supervisor = map(int, (job.folder / name).read_text().split())
    return rank, supervisor


def until_heard(job: Job, rank: int, supervisor: int) -> None:
    """Wait until a supervisor has reaped a rank, told the other host, and has nothing more to do."""
    job.until(lambda: not Path(f"/proc/{rank}").exists(), "the end of a rank")
    calm = 0
    while calm < 20:
        time.sleep(0.005)
        calm = calm + 1 if state(supervisor) == "S" else 0


def state(pid: int) -> str:
    """One letter, as ps shows it; X where there is no such process any more."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
    except OSError:
        return "X"


def freeze_before_the_restart(job: Job) -> tuple[int, int]:
    """Let the second host's rank fail, and freeze that host before it can hear that all start again."""
    _, first = noted(job, "0-0")
    rank, second = noted(job, "1-0")
    send(first, signal.SIGSTOP)
    send(rank, signal.SIGKILL)
    until_heard(job, rank, second)
    send(second, signal.SIGSTOP)
    send(first, signal.SIGCONT)
    return first, second


def test_a_failure_that_comes_before_a_host_has_heard_of_the_restart_ends_its_ranks_too(
    start: Callable[..., Job],
) -> None:
    job = start("--hp", "trainkit_preload=json", "--hp", "dies=1")
    first, second = freeze_before_the_restart(job)
    rank, _ = noted(job, "0-1")
    until_heard(job, rank, first)
    send(second, signal.SIGCONT)
    noted(job, "1-2")
    ran = job.end()
    assert ran.code == 0, ran.out


@pytest.mark.torch
def test_a_stop_that_a_host_has_heard_before_the_restart_stops_the_job(start: Callable[..., Job]) -> None:
    job = start("--hp", "trainkit_preload=torch")
    _, first = noted(job, "0-0")
    rank, second = noted(job, "1-0")
    store, template = sorted((p for p in descendants(first) if p.parent == first), key=lambda p: p.began)[1::-1]
    send(template.pid, signal.SIGSTOP)  # the first host decides to start again, and waits for the next store
    send(rank, signal.SIGKILL)
    job.until(lambda: not Path(f"/proc/{store.pid}").exists(), "the end of the first store")
    send(second, signal.SIGTERM)
    job.until(lambda: "[algo-2] SIGTERM: told the ranks" in job.log, "the stop")
    send(template.pid, signal.SIGCONT)
    ran = job.end()
    assert ran.code == 0, ran.out
    assert "lost algo" not in ran.out


def test_where_a_host_is_lost_before_the_restart_there_is_none(start: Callable[..., Job]) -> None:
    job = start("--hp", "trainkit_preload=json")
    _, first = noted(job, "0-0")
    rank, second = noted(job, "1-0")
    send(first, signal.SIGSTOP)
    send(rank, signal.SIGKILL)
    until_heard(job, rank, second)
    send(second, signal.SIGKILL)
    job.until(lambda: state(second) in "ZX", "the end of a supervisor, and of its connections")
    send(first, signal.SIGCONT)
    ran = job.end()
    assert ran.code == 137, ran.out  # what failed first; nobody could start again
    assert "rank 1 on algo-2" in (ran.failure or "")
    assert not (job.folder / "0-1").exists()
