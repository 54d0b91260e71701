"""The private daemon: nothing of it is left, however the tests end."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from harness import environment, processes_mentioning

from images.daemon import DEADLINE, Docker, remove_groups

TESTS = Path(__file__).parents[1]
OPEN = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from images.daemon import daemon
with daemon(Path(sys.argv[2])) as docker:
    print(docker.host, flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("ending", ["ends", "is killed"])
def test_a_private_daemon_is_gone_when_its_user_is(tmp_path: Path, docker: Docker, ending: str) -> None:
    if docker.host is None:
        pytest.skip("the daemon here was there before us")
    with subprocess.Popen(
        [sys.executable, "-c", OPEN, TESTS, tmp_path / "data"], env=environment(), stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, text=True,
    ) as user:  # fmt: skip
        assert user.stdin
        assert user.stdout
        scratch = Path(user.stdout.readline().strip().removeprefix("unix://")).parent
        assert scratch.name.startswith("trainkit-docker-")
        assert len(processes_mentioning(scratch.name)) > 2, "dockerd and its containerd"
        if ending == "ends":
            user.stdin.close()
        else:
            user.send_signal(signal.SIGKILL)
        user.wait(DEADLINE)

    deadline = time.monotonic() + DEADLINE
    while ending == "is killed" and processes_mentioning(scratch.name) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert processes_mentioning(scratch.name) == []
    assert scratch.name not in Path("/proc/self/mounts").read_text()
    if ending == "is killed":  # what no process holds is left to whoever finds it
        shutil.rmtree(scratch)
        remove_groups(scratch.name)
    assert not scratch.exists()
    assert list(Path("/sys/fs/cgroup").glob(f"*/{scratch.name}")) == []
