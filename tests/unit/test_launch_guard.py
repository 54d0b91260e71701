"""The guard: a command's whole family ends with its supervisor, and its end is passed on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from harness import DEADLINE, environment, processes_mentioning

STARTER = """
import os, sys
from pathlib import Path
from trainkit.launch import guard
whole, *argv = sys.argv[1:]
pid = guard.start(argv, environ=os.environ, cwd=Path("/"), output=1, whole_session=whole == "True")
print(pid, file=sys.stderr, flush=True)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), file=sys.stderr, flush=True)
"""


def guarded(*argv: str, whole: bool = False) -> subprocess.Popen[bytes]:
    """A supervisor that starts a command under a guard. Its stderr tells the guard's pid, then how that has ended.

    A process of its own, as `train` is: the libraries that tests have loaded bear no fork whose descriptors are closed.
    """
    command = [sys.executable, "-c", STARTER, str(whole), *argv]
    return subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.mark.parametrize(
    ("script", "status"), [("exit 0", 0), ("exit 3", 3), ("kill -9 $$", -9), ("kill -TERM $$", -15), ("kill -2 $$", -2)]
)
def test_it_ends_as_the_command_ends(script: str, status: int) -> None:
    with guarded("sh", "-c", script) as supervisor:
        _, told = supervisor.communicate(timeout=DEADLINE)
    assert int(told.split()[1]) == status


PAIR = """
import os, signal, sys, time
told = []
def heard(*_): os.write(1, b"command " if child else b"child "); told.append(1)
signal.signal(signal.SIGTERM, heard)
child = os.fork()
if child == 0: os.write(1, b"ready\\n")
while not told: time.sleep(0.01)
if child == 0: os._exit(0)
if sys.argv[1] == "False": os.kill(child, 9)
os.wait()
"""


@pytest.mark.parametrize("whole", [False, True])
def test_signals_are_passed_on_to_the_command_or_to_all_of_its_session(whole: bool) -> None:
    with guarded(sys.executable, "-S", "-c", PAIR, str(whole), whole=whole) as supervisor:
        assert supervisor.stdout and supervisor.stderr
        pid = int(supervisor.stderr.readline())
        assert supervisor.stdout.readline() == b"ready\n"
        os.kill(pid, signal.SIGTERM)
        said = set(supervisor.stdout.read().split())
    assert said == ({b"command", b"child"} if whole else {b"command"})


def test_what_cannot_be_executed_is_an_error_of_the_one_who_asked() -> None:
    with guarded("nonesuch") as supervisor:
        _, told = supervisor.communicate(timeout=DEADLINE)
    assert told.rstrip().endswith(b"FileNotFoundError: [Errno 2] No such file or directory: 'nonesuch'"), told


SUPERVISOR = """
import os, time
from pathlib import Path
from trainkit.launch import guard
family = "setsid sleep 1000 & (setsid setsid sleep 1000 &) ; echo ready; sleep 1000"
guard.start(("sh", "-c", family), environ=os.environ, cwd=Path("/"), output=1, whole_session=False)
time.sleep(1000)
"""


def test_a_supervisor_that_is_killed_takes_the_whole_family_with_it(tmp_path: Path) -> None:
    given = environment(MARK=str(tmp_path))
    with subprocess.Popen([sys.executable, "-c", SUPERVISOR], env=given, stdout=subprocess.PIPE) as supervisor:
        assert supervisor.stdout
        assert supervisor.stdout.readline() == b"ready\n"
        supervisor.kill()
    deadline = time.monotonic() + 20
    while processes_mentioning(str(tmp_path)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert processes_mentioning(str(tmp_path)) == []
