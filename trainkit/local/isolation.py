"""How local hosts are kept apart (docs/decisions/0002).

namespace   own mounts, hostname and processes, `/opt/ml` of their own; the machine's network, hosts on 127.a.b.N
network     that, and links of their own to a switch of the job's: nothing else is reachable
process     plain processes with roots of their own: where user namespaces are not allowed, and on macOS
"""

from __future__ import annotations

import ipaddress
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

from trainkit.contract.environ import RUN_DIR
from trainkit.contract.job import HOST_ADDRESSES
from trainkit.contract.paths import BASE_DIR
from trainkit.errors import IsolationUnavailable

KINDS = ("namespace", "network", "process")
TRAIN = (sys.executable, "-m", "trainkit.cli.train")
_OWN = ("--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc")
_ROOT = ("--user", "--map-root-user")


class Host(NamedTuple):
    """A host to be: its name, its address, the directory that will be its `/opt/ml`, and what its container runs."""

    name: str
    address: str
    root: Path
    argv: tuple[str, ...] = TRAIN
    read_only: tuple[str, ...] = ()
    """Paths, as it sees them, that are mounted so that nothing can be written; where hosts have mounts."""


class Isolation(Protocol):
    """One way to make hosts. Addresses are given first, then each host is started by its command."""

    interface: str
    covers: Path | None  # what of this machine the hosts do not see
    port: Mapping[str, str]  # the setting, unless the job has its own
    has_links: bool  # that can be cut

    def addresses(self, count: int) -> list[str]: ...
    def command(self, host: Host, hosts_file: Path) -> tuple[str, ...]: ...
    def environment(self, host: Host, addresses: Mapping[str, str]) -> dict[str, str]: ...
    def attach(self, host: Host, pid: int) -> None: ...
    def link(self, host: Host, *, up: bool) -> None: ...
    def train_pid(self, pid: int) -> int | None: ...
    def close(self) -> None: ...


def choose(kind: str | None) -> tuple[Isolation, str]:
    """The isolation asked for, or the best there is; and a word on why it is not the default, or "".

    Raises IsolationUnavailable where the one asked for cannot be had.
    """
    if kind == "process":
        return Processes(), ""
    privilege = _privilege()
    if privilege is not None:
        return (Network(privilege) if kind == "network" else Namespaces(privilege)), ""
    reason = (
        "this machine lets you make no namespaces (see `unshare --user --map-root-user --mount true`; on Ubuntu: "
        "sysctl kernel.apparmor_restrict_unprivileged_userns=0)"
    )
    if kind is None:
        return Processes(), f"hosts are plain processes without /opt/ml: {reason}"
    raise IsolationUnavailable(f"{reason}. --isolation process works without them")


class Namespaces:
    """Hosts that share the machine's network, on addresses of the loopback range."""

    interface = "lo"
    covers: Path | None = Path("/opt/ml")
    has_links = False

    def __init__(self, privilege: tuple[str, ...]) -> None:
        self._privilege = privilege
        self.port: Mapping[str, str] = _port()

    def addresses(self, count: int) -> list[str]:
        return _loopback(count)

    def command(self, host: Host, hosts_file: Path) -> tuple[str, ...]:
        return ("unshare", *self._privilege, *_OWN, *_inside(host, hosts_file, network=None))

    def environment(self, host: Host, addresses: Mapping[str, str]) -> dict[str, str]:
        return {RUN_DIR: "/opt/ml/run"}

    def attach(self, host: Host, pid: int) -> None:
        pass

    def link(self, host: Host, *, up: bool) -> None:
        raise IsolationUnavailable("hosts have no links of their own here; use --isolation network")

    def train_pid(self, pid: int) -> int | None:
        """unshare stays outside; its one child is the host's PID 1."""
        return _child(pid)

    def close(self) -> None:
        pass


class Network(Namespaces):
    """Hosts with a network of their own: a switch in a network namespace that this object holds, and a wire to each."""

    interface = "eth0"
    has_links = True

    def __init__(self, privilege: tuple[str, ...]) -> None:
        super().__init__(privilege)
        self.port = {}  # nobody else is on this network
        if not shutil.which("ip"):
            raise IsolationUnavailable("--isolation network needs the `ip` command: apt-get install iproute2")
        # The namespaces live as long as this process. It ends with us, since its stdin then closes, and with nothing
        # else: a Ctrl-C is meant for the job, and the hosts need their network to stop well.
        self._switch = subprocess.Popen(
            ["unshare", *privilege, "--net", "sh", "-c", "echo up; exec cat"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        assert self._switch.stdout
        if not self._switch.stdout.readline():
            raise IsolationUnavailable(
                "this machine lets you make no network namespace; --isolation process needs none"
            )
        self.enter: tuple[str, ...] = ("nsenter", "-t", str(self._switch.pid), "--net")
        if privilege:
            self.enter += ("--user", "--preserve-credentials")
        self._ip("link", "add", "br0", "type", "bridge")
        self._ip("link", "set", "br0", "up")

    def addresses(self, count: int) -> list[str]:
        first = ipaddress.IPv4Address("10.77.0.1")
        return [str(first + number) for number in range(count)]

    def command(self, host: Host, hosts_file: Path) -> tuple[str, ...]:
        network = {"interface": self.interface, "address": host.address}
        return (*self.enter, "unshare", "--net", *_OWN, *_inside(host, hosts_file, network=network))

    def attach(self, host: Host, pid: int) -> None:
        """Plug the host's wire in. Its PID 1 waits for that."""
        deadline = time.monotonic() + 20
        while (inner := self.train_pid(pid)) is None:
            if time.monotonic() > deadline or not Path(f"/proc/{pid}").exists():
                return  # its exit code, or its own deadline, will say why
            time.sleep(0.002)  # between two execs and a fork there is nothing to wait on
        self._ip("link", "add", near(host), "type", "veth", "peer", "name", self.interface, "netns", str(inner))
        self._ip("link", "set", near(host), "master", "br0", "up")

    def link(self, host: Host, *, up: bool) -> None:
        """Take the host's wire out of the switch, or plug it in again."""
        self._ip("link", "set", near(host), *(("master", "br0") if up else ("nomaster",)))

    def close(self) -> None:
        assert self._switch.stdin and self._switch.stdout
        self._switch.stdin.close()
        self._switch.stdout.close()
        self._switch.wait()

    def _ip(self, *arguments: str) -> None:
        done = subprocess.run([*self.enter, "ip", *arguments], capture_output=True, text=True, check=False)
        if done.returncode:
            raise IsolationUnavailable(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


class Processes:
    """Hosts that are processes and nothing else. Their root and their addresses reach them by environment."""

    interface = "lo" if sys.platform == "linux" else "lo0"
    covers: Path | None = None
    has_links = False

    def __init__(self) -> None:
        self.port: Mapping[str, str] = _port()

    def addresses(self, count: int) -> list[str]:
        return _loopback(count)

    def command(self, host: Host, hosts_file: Path) -> tuple[str, ...]:
        return host.argv

    def environment(self, host: Host, addresses: Mapping[str, str]) -> dict[str, str]:
        return {
            BASE_DIR: str(host.root),
            HOST_ADDRESSES: json.dumps(dict(addresses)),
            RUN_DIR: str(host.root / "run"),
        }

    def attach(self, host: Host, pid: int) -> None:
        pass

    def link(self, host: Host, *, up: bool) -> None:
        raise IsolationUnavailable("hosts have no links of their own here; use --isolation network")

    def train_pid(self, pid: int) -> int | None:
        return pid

    def close(self) -> None:
        pass


def near(host: Host) -> str:
    """The name of the switch's end of a host's wire."""
    return f"v{host.address.rsplit('.', 2)[1]}.{host.address.rsplit('.', 1)[1]}"


def _inside(host: Host, hosts_file: Path, *, network: Mapping[str, str] | None) -> tuple[str, ...]:
    spec: dict[str, object] = {
        "host": host.name,
        "root": str(host.root),
        "hosts_file": str(hosts_file),
        "network": network,
    }
    if host.argv != TRAIN:
        spec["argv"] = host.argv
    if host.read_only:
        spec["read_only"] = host.read_only
    return (sys.executable, "-m", "trainkit.local.inside", json.dumps(spec))


def _privilege() -> tuple[str, ...] | None:
    """What `unshare` needs besides to work here: nothing as real root, else a user namespace. None: it does not."""
    if sys.platform != "linux" or not shutil.which("unshare"):
        return None
    for privilege in ((), _ROOT) if os.geteuid() == 0 else (_ROOT,):
        probe = subprocess.run(["unshare", *privilege, *_OWN, "true"], capture_output=True, check=False)
        if probe.returncode == 0:
            return privilege
    return None


def _port() -> Mapping[str, str]:
    """The setting `port`, drawn by lot: several jobs may share the machine, and torch listens on all its addresses."""
    return {"TRAINKIT_PORT": str(random.randrange(20_000, 32_000, 2))}


def _child(pid: int) -> int | None:
    """The one child of a process, or None where it has none (yet, or any more)."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    except OSError:
        return None
    return int(children[0]) if children else None


def _loopback(count: int) -> list[str]:
    """Addresses of a random block of the loopback range, so that jobs side by side do not meet. macOS has but one."""
    if sys.platform != "linux":
        return ["127.0.0.1"] * count
    first = ipaddress.IPv4Address(f"127.{random.randint(1, 254)}.{random.randint(0, 250)}.2")
    return [str(first + number) for number in range(count)]
