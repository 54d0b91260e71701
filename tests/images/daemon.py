"""A Docker daemon: the one that is reachable, or a private one that ends without a trace.

The private one lives in a PID, mount and network namespace of its own. What it starts ends with it, what it mounts is
never seen outside, and its bridges and firewall rules are not this machine's. It has no way out: nothing is pulled.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

DEADLINE = 120
"""Seconds for what a daemon does at once on a quiet machine."""
PRUNING = 600  # seconds
INSTALL = (
    "There is no Docker daemon that answers, and none can be started here. Start yours, or as root:\n"
    "  apt-get install --no-install-recommends docker.io iproute2 mmdebstrap"
)
_CONTROL_GROUPS = Path("/sys/fs/cgroup")
# runc 1.1 takes a machine with both kinds of control groups for one with the new kind alone.
_PRIVATE = """
ip link set lo up
if mountpoint -q /sys/fs/cgroup/unified; then umount /sys/fs/cgroup/unified; fi
exec dockerd --host "unix://$SCRATCH/socket" --data-root "$DATA" --exec-root "$SCRATCH/exec" --pidfile "$SCRATCH/pid" \
    --cgroup-parent "/$GROUP" --exec-opt native.cgroupdriver=cgroupfs --storage-driver overlay2 \
    --default-ulimit nofile=20000:20000
"""


class Unavailable(Exception):
    """No daemon, and what to do about it."""


@dataclass(frozen=True)
class Docker:
    """A daemon, by the client's eyes."""

    host: str | None = None  # where its socket is; None: where the client looks by itself

    @property
    def environment(self) -> dict[str, str]:
        given = {} if self.host is None else {"DOCKER_HOST": self.host, "DOCKER_BUILDKIT": "0"}
        return {**os.environ, **given}

    def ask(self, *arguments: str | Path, deadline: float = DEADLINE) -> subprocess.CompletedProcess[str]:
        """Run the client, whatever comes of it."""
        return subprocess.run(
            ["docker", *map(str, arguments)], env=self.environment, stdin=subprocess.DEVNULL, capture_output=True,
            text=True, errors="replace", timeout=deadline, check=False,
        )  # fmt: skip

    def tell(self, *arguments: str | Path, deadline: float = DEADLINE) -> str:
        """Run the client, which must end well. Returns what it printed."""
        ran = self.ask(*arguments, deadline=deadline)
        assert ran.returncode == 0, f"docker {' '.join(map(str, arguments))}:\n{ran.stdout}{ran.stderr}"
        return ran.stdout.strip()


@contextmanager
def daemon(data: Path) -> Iterator[Docker]:
    """One that runs already, else a private one that keeps its images in `data`. Raises Unavailable."""
    if shutil.which("docker") and Docker().ask("version").returncode == 0:
        yield Docker()
        return
    needed = ("docker", "dockerd", "containerd", "runc", "iptables", "ip", "unshare", "setpriv")
    if os.geteuid() != 0 or not all(map(shutil.which, needed)):
        raise Unavailable(INSTALL)
    with _private(data) as docker:
        yield docker


@contextmanager
def _private(data: Path) -> Iterator[Docker]:
    data.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix="trainkit-docker-"))
    group = scratch.name
    docker = Docker(f"unix://{scratch}/socket")
    # Should this process be killed, unshare dies with it; with unshare dies the namespace's first process, and so all.
    command = ("setpriv", "--pdeathsig", "KILL", "unshare", "--net", "--mount", "--pid", "--mount-proc", "--fork")
    environ = {**os.environ, "SCRATCH": str(scratch), "DATA": str(data.resolve()), "GROUP": group}
    with (scratch / "log").open("wb") as log:
        outer = subprocess.Popen(
            [*command, "--kill-child", "sh", "-e", "-c", _PRIVATE], env=environ, stdin=subprocess.DEVNULL, stdout=log,
            stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        _wait_ready(docker, outer, scratch / "log")
        yield docker
        docker.ask("container", "prune", "--force")
        docker.ask("image", "prune", "--force", deadline=PRUNING)  # what newer ones took the name of, gigabytes
    finally:
        left = _end(outer)
        remove_groups(group)
        shutil.rmtree(scratch)
    assert left == [], "processes of the private daemon that outlive it"


def _wait_ready(docker: Docker, outer: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + DEADLINE
    while docker.ask("version").returncode:
        if outer.poll() is not None or time.monotonic() > deadline:
            raise Unavailable(f"{INSTALL}\n\nA private one did not come up:\n{log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.1)


def _end(outer: subprocess.Popen[bytes]) -> list[str]:
    """End the daemon and all it runs. Returns the command lines of what lives all the same."""
    first = _first_inside(outer)
    namespace = str(Path(f"/proc/{first}/ns/mnt").readlink()) if first else ""
    if first:
        os.kill(first, signal.SIGTERM)
    try:
        outer.wait(DEADLINE)
    except subprocess.TimeoutExpired:
        outer.kill()
        outer.wait()
    deadline = time.monotonic() + DEADLINE
    while (living := _living(namespace)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return living


def _first_inside(outer: subprocess.Popen[bytes]) -> int | None:
    """The daemon, where it came so far."""
    try:
        return int(Path(f"/proc/{outer.pid}/task/{outer.pid}/children").read_text().split()[0])
    except (OSError, IndexError):
        return None


def _living(namespace: str) -> list[str]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str((process / "ns/mnt").readlink()) == namespace:
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue  # it ended meanwhile
    return found


def remove_groups(name: str) -> None:
    """The control groups, innermost first: the one thing of a daemon's that no namespace holds."""
    for place in (_CONTROL_GROUPS / name, *_CONTROL_GROUPS.glob(f"*/{name}")):
        for folder, _, _ in os.walk(place, topdown=False):
            Path(folder).rmdir()
