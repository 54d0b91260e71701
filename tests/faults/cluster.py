"""Two hosts with a launcher on each, and all that can happen to a host and its link.

    with Cluster(folder, launcher, hyperparameters={…}) as cluster:
        cluster.start()
        cluster.wait_for("reached step")      # on every host's log
        cluster["algo-2"].cut()               # …or deafen, throttle, freeze, kill
        cluster.wait(until=time.monotonic() + 40)
        cluster["algo-1"].code, .failure, .ended_at

The hosts are those of `trainkit local --isolation network`: own mounts, processes, hostname and network, so that their
links can be cut, and the launcher is PID 1, as in a container. Any launcher can be started on them. What is bound to
happen to a host before its start (little shared memory, a full disk, a limit on memory) is in its `Outfit`.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from harness import TRAIN, environment, processes_mentioning

from trainkit.local import isolation
from trainkit.local.isolation import Network

HERE = Path(__file__).parent
HOSTS = ("algo-1", "algo-2")
MEMORY_GROUPS = Path("/sys/fs/cgroup/memory")
MARK = "FAULTS_CASE"
"""In the environment of every process of a case, with its folder: whoever still carries it was left behind."""


@dataclass(frozen=True, slots=True)
class Outfit:
    """What a host has less of than it should: its own sizes of file systems, memory in bytes, and names."""

    tmpfs: Mapping[str, str] = field(default_factory=dict)
    memory: int | None = None
    without_data: bool = False
    names: Mapping[str, str] = field(default_factory=dict)  # host → address, in the place of the true one
    lists: tuple[str, ...] = HOSTS  # the hosts in its resourceconfig.json
    absent: bool = False


@dataclass(frozen=True, slots=True)
class Launcher:
    """Any way to start the script on a host. `argv` and `lay` get the host's number, from 0, and its root."""

    name: str
    argv: Callable[[int, Mapping[str, str]], Sequence[str]]
    environ: Mapping[str, str] = field(default_factory=dict)
    hyperparameters: Mapping[str, str] = field(default_factory=dict)
    lay: Callable[[Path], None] = lambda root: None
    """Adds to the root what this launcher wants beside script and config."""


def trainkit(**settings: str) -> Launcher:
    """Our own `train`, two ranks a host."""
    chosen = {f"TRAINKIT_{name.upper()}": value for name, value in settings.items()}
    return Launcher(
        "trainkit", lambda number, hps: TRAIN, hyperparameters={"loop": "job"},
        environ={"TRAINKIT_PROCS": "2", "TRAINKIT_SCRIPT": "planted.py", "TRAINKIT_RUN_DIR": "/opt/ml/run", **chosen},
    )  # fmt: skip


class Host:
    """One host, started or not. Times are monotonic."""

    def __init__(self, name: str, address: str, root: Path, network: Network) -> None:
        self.name = name
        self.root = root
        self._network = network
        self.address = address
        self.as_given = isolation.Host(name, address, root)
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None
        self._frozen: list[int] = []
        self.lines: list[str] = []
        self.ended_at: float | None = None
        self.killed = False

    @property
    def code(self) -> int | None:
        """The launcher's exit code; None while it runs, if it never did, or if its host was killed."""
        return self._process.returncode if self._process and not self.killed else None

    @property
    def failure(self) -> str:
        """What the failure file says; "" where there is none."""
        try:
            return (self.root / "output/failure").read_text(errors="replace")
        except OSError:
            return ""

    @property
    def log(self) -> str:
        return "".join(self.lines)

    def start(self, command: Sequence[str], *, environ: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            command, env=environ, cwd=self.root, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True,
        )  # fmt: skip
        self._network.attach(self.as_given, self._process.pid)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process and self._process.stdout
        with self._process.stdout as stdout:
            for line in stdout:
                self.lines.append(line)
        self._process.wait()
        self.ended_at = time.monotonic()

    def kill(self) -> None:
        """As when an instance is taken away: all processes end at once."""
        self.killed = True
        pid = self._first_process()
        assert pid
        os.kill(pid, signal.SIGKILL)

    def cut(self) -> None:
        """Unplug the wire at the switch: nothing comes or goes, and nobody is told."""
        self._network.link(self.as_given, up=False)

    def deafen(self) -> None:
        """What is sent to this host vanishes; what it sends arrives."""
        self._queue("pfifo", "limit", "0")

    def throttle(self) -> None:
        """256 kbit/s, and up to 200 ms in the queue, on the way here."""
        self._queue("tbf", "rate", "256kbit", "burst", "4kb", "latency", "200ms")

    def _queue(self, *discipline: str) -> None:
        near = isolation.near(self.as_given)
        subprocess.run([*self._network.enter, "tc", "qdisc", "replace", "dev", near, "root", *discipline], check=True)

    def freeze(self) -> None:
        """Stop every process: its connections stay open, and nobody answers."""
        first = self._first_process()
        assert first
        space = os.readlink(f"/proc/{first}/ns/pid")  # noqa: PTH115
        os.kill(first, signal.SIGSTOP)  # first: it must not look on while the others stop
        self._frozen = [first]
        while found := [pid for pid in _processes_in(space) if pid not in self._frozen]:  # until nobody new is born
            for pid in found:
                os.kill(pid, signal.SIGSTOP)
                self._frozen.append(pid)

    def thaw(self) -> None:
        frozen, self._frozen = self._frozen, []
        for pid in frozen:
            os.kill(pid, signal.SIGCONT)

    def wait(self, until: float) -> bool:
        """Whether it ended by then."""
        if self._reader:
            self._reader.join(max(0.0, until - time.monotonic()))
        return self._reader is None or not self._reader.is_alive()

    def close(self) -> None:
        if not self._process:
            return
        if self._process.poll() is None:
            # What is outside the host ends when all inside have ended; killed at once, it would not wait for them.
            if pid := self._first_process():
                os.kill(pid, signal.SIGKILL)
            else:
                self._process.kill()
        if self._reader:
            self._reader.join()
        else:  # it could not be attached
            self._process.communicate()

    def _first_process(self) -> int | None:
        return self._network.train_pid(self._process.pid) if self._process else None


class Cluster:
    """A case: its hosts, and at its end a look at what they left."""

    def __init__(
        self,
        folder: Path,
        launcher: Launcher,
        *,
        hyperparameters: Mapping[str, str],
        outfits: Mapping[str, Outfit] | None = None,
        broken_script: bool = False,
    ) -> None:
        self._folder = folder
        self._launcher = launcher
        self._hyperparameters = {**hyperparameters, **launcher.hyperparameters}
        self._outfits = {name: (outfits or {}).get(name, Outfit()) for name in HOSTS}
        self._broken_script = broken_script
        chosen, _ = isolation.choose("network")  # raises IsolationUnavailable
        assert isinstance(chosen, Network)
        self._network = chosen
        addresses = self._network.addresses(len(HOSTS) + 1)
        self.hosts = {
            name: Host(name, address, folder / name, self._network)
            for name, address in zip(HOSTS, addresses, strict=False)
        }
        self.started_at = 0.0

    def __getitem__(self, name: str) -> Host:
        return self.hosts[name]

    def __enter__(self) -> Cluster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for host in self.hosts.values():
            host.close()
        self._network.close()
        for group in self._memory_groups():
            group.rmdir()

    def start(self) -> None:
        self.started_at = time.monotonic()
        for number, name in enumerate(HOSTS):
            outfit = self._outfits[name]
            if outfit.absent:
                continue
            self._lay(name, outfit)
            hps = self._hyperparameters
            command = self._command(name, outfit, self._launcher.argv(number, hps))
            self.hosts[name].start(command, environ=environment(**{MARK: str(self._folder)}))

    def wait_for(self, text: str, *, within: float) -> None:
        """Until every host's log has the text. Raises AssertionError where a host ended before, or time is over."""
        deadline = time.monotonic() + within
        for host in self.hosts.values():
            while text not in host.log:
                over = host.ended_at is not None or time.monotonic() > deadline
                assert not over, f"{host.name} never said {text!r}:\n{host.log[-3000:]}"
                time.sleep(0.01)  # lines come by a thread that has nobody to call

    def wait(self, *, until: float, hosts: Sequence[str] = HOSTS) -> bool:
        """Until these hosts have ended, or that time (monotonic); whether they all have."""
        return all(self.hosts[name].wait(until) for name in hosts)

    def planted_at(self, *, within: float) -> float:
        """When the script let the fault happen (monotonic). Raises AssertionError where it never did."""
        deadline = time.monotonic() + within
        while True:
            over = [host.ended_at is not None for host in self.hosts.values()]
            logs = "\n".join(host.log for host in self.hosts.values())
            if said := [float(at) for at in re.findall(r"planted (\d+\.\d+)$", logs, re.MULTILINE)]:
                return min(said) - time.time() + time.monotonic()
            assert not all(over) and time.monotonic() < deadline, f"nothing was planted:\n{logs[-5000:]}"
            time.sleep(0.01)  # as above

    def left_behind(self) -> list[str]:
        """Processes, mounts and control groups of this case, after its end; and what a `train` forgot in its folder."""
        mounts = [line for line in Path("/proc/self/mounts").read_text().splitlines() if str(self._folder) in line]
        forgotten = [
            str(path)
            for host in self.hosts.values()
            if host.code is not None  # one that was killed could not tidy up
            for path in (host.root / "run").glob("*")
        ]
        return [
            *processes_mentioning(f"{MARK}={self._folder}"), *mounts, *map(str, self._memory_groups()), *forgotten
        ]  # fmt: skip

    def _memory_groups(self) -> list[Path]:
        return [group for group in map(self._memory_group, HOSTS) if group.is_dir()]

    def _memory_group(self, name: str) -> Path:
        return MEMORY_GROUPS / f"faults-{os.getpid()}-{self._launcher.name.replace(' ', '-')}-{name}"

    def _lay(self, name: str, outfit: Outfit) -> None:
        root = self.hosts[name].root
        for folder in ("input/config", "input/data/train", "code", "model", "output", "run", "tmp"):
            (root / folder).mkdir(parents=True)
        script = (HERE / "planted.py").read_text()
        (root / "code/planted.py").write_text(script + "\nbroken = (\n" * self._broken_script)
        if not outfit.without_data:
            (root / "input/data/train/rows.txt").write_text("\n".join(str(n % 7 / 7) for n in range(16 * 64)))
        group = {
            "instance_group_name": "homogeneousCluster", "instance_type": "ml.c5.xlarge", "hosts": list(outfit.lists)
        }  # fmt: skip
        resources = {
            "current_host": name, "current_instance_type": "ml.c5.xlarge", "current_group_name": "homogeneousCluster",
            "hosts": list(outfit.lists), "instance_groups": [group], "network_interface_name": "eth0",
        }  # fmt: skip
        channel = {"TrainingInputMode": "File", "S3DistributionType": "FullyReplicated", "RecordWrapperType": "None"}
        config = {
            "resourceconfig": resources, "inputdataconfig": {"train": channel}, "hyperparameters": self._hyperparameters
        }  # fmt: skip
        for kind, content in config.items():
            (root / f"input/config/{kind}.json").write_text(json.dumps(content))
        names = {host.name: host.address for host in self.hosts.values()} | dict(outfit.names)
        lines = ["127.0.0.1 localhost", *(f"{address} {host}" for host, address in names.items())]
        (self._folder / f"{name}.hosts").write_text("\n".join(lines) + "\n")
        self._launcher.lay(root)

    def _command(self, name: str, outfit: Outfit, argv: Sequence[str]) -> list[str]:
        host = self.hosts[name]
        environ = environment(
            TRAINING_JOB_NAME="faults", TMPDIR="/opt/ml/tmp", **{MARK: str(self._folder)}, **self._launcher.environ
        )
        spec = {
            "host": name, "root": str(host.root), "hosts_file": str(self._folder / f"{name}.hosts"),
            "network": {"interface": Network.interface, "address": host.address}, "tmpfs": dict(outfit.tmpfs),
            "environ": environ,
        }  # fmt: skip
        plain = self._network.command(host.as_given, Path(spec["hosts_file"]))
        made = plain.index("unshare")  # before it the way to the switch, behind it how a host is made, then its `train`
        enter, unshare = plain[:made], plain[made : plain.index(sys.executable)]
        # Whoever kills us takes the hosts along: else they would only end with `with`.
        mortal = ("setpriv", "--pdeathsig", "KILL")
        command = [*enter, *mortal, *unshare, sys.executable, str(HERE / "host.py"), json.dumps(spec), *argv]
        if outfit.memory is None:
            return command
        group = self._memory_group(name)
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(outfit.memory))
        return ["sh", "-c", 'echo $$ > "$0" && exec "$@"', str(group / "cgroup.procs"), *command]


def can_limit_memory() -> bool:
    """Whether we may make control groups here (version 1), which needs root."""
    return os.access(MEMORY_GROUPS, os.W_OK) and (MEMORY_GROUPS / "cgroup.procs").exists()


def _processes_in(space: str) -> list[int]:
    found = []
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdigit() and os.readlink(process / "ns/pid") == space:  # noqa: PTH115
                found.append(int(process.name))
        except OSError:
            continue  # it ended meanwhile
    return found
