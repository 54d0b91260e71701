"""One host's part of a cluster: its engine's daemons, and on the first host the wait until the engine counts all hosts.

every host    prepare ─▶ daemons ────────────────────────────────────────────────────────────────────▶ closed
                  head first ┐  ▲ up: the others too
first host                   └▶ "joined" is asked until it names every host ─▶ ready: the command ─▶ released, or failed
"""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import tempfile
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from trainkit.contract.outcome import LIMIT, Outcome, shell_code
from trainkit.contract.secrets import scrub
from trainkit.errors import PeerLost, TrainkitError
from trainkit.launch import guard, limits
from trainkit.launch.engines.base import Setting, free_port
from trainkit.launch.peers import Hub, Spoke
from trainkit.launch.peers.address import own_address
from trainkit.launch.peers.resolving import resolve
from trainkit.launch.processes import Ended, kill_group
from trainkit.plan.clusters.base import Daemon, Parts, Place
from trainkit.plan.launch import LaunchPlan

_SHORT = 50  # characters of a folder for sockets: their paths have 107 at most, and an engine adds its own


@dataclass(frozen=True, slots=True)
class Hooks:
    """Whom a cluster calls: `failed` on any host, the others on the first one."""

    up: Callable[[], None]
    ready: Callable[[], None]
    failed: Callable[[], None]
    absent: Callable[[list[str], str], None]


class Cluster:
    """The daemons of this host in one generation."""

    def __init__(self, plan: LaunchPlan, setting: Setting, hooks: Hooks, *, link: Hub | Spoke | None) -> None:
        """Raises TrainkitError where this host's address, or room for a folder, is not to be had."""
        assert plan.cluster
        self._plan = plan
        self._setting = setting
        self._hooks = hooks
        self._title = plan.cluster.title
        short = _SHORT if plan.cluster.has_sockets else math.inf
        self._folder = _make_folder(setting.folder(plan) / "cluster", plan.host, most=short)
        secret = link.secret if link else os.urandom(32)
        self._secret = secret.hex()
        environ = {**setting.environ, **plan.environment}
        place = _place(plan, link, folder=self._folder, secret=self._secret)
        self._parts: Parts = plan.cluster.parts(place, environ)
        self._environ = {**environ, **self._parts.environment}
        self._running: dict[int, Daemon] = {}
        self._asking: _Asking | None = None
        self._joined: set[str] = set()
        self._prepared = self._up = False
        self._began = time.monotonic()
        self._deadline = self._began + plan.job.settings.peer_wait
        self._ending = False
        self.ready = False
        """On the first host: whether the engine counts all hosts."""
        self.released = False
        """On the other hosts: whether the one command has ended well."""
        self.verdict: Outcome | None = None
        """What the job failed with, where it was this host's part of the cluster."""
        self.failed_at: float | None = None
        """When, seconds since the epoch."""

    @property
    def driver(self) -> Mapping[str, str]:
        """What the one command gets beside its own environment."""
        return self._parts.driver

    @property
    def pids(self) -> frozenset[int]:
        """The processes of the cluster here, of which each has a family."""
        return frozenset(self._running) | ({self._asking.pid} if self._asking else set())

    @property
    def next_look(self) -> float:
        """The monotonic time at which `tick` wants to be called."""
        return self._deadline if self._asking else math.inf

    def start(self) -> None:
        """Begin. Raises TrainkitError where a process cannot be started."""
        for name, text in self._parts.files.items():
            _write(self._folder / name, text)
        for name, target in self._parts.links.items():
            (self._folder / name).symlink_to(target)
        if self._parts.prepare:
            self._spawn(Daemon("prepare", self._parts.prepare))
        else:
            self._start_daemons()

    def up(self) -> None:
        """The head answers: whoever waits for that may start."""
        if not self._up:
            self._up = True
            if self._prepared and self._parts.head:
                self._start_others()

    def reap(self, ended: Ended) -> bool:
        """Hear of a process that has ended. Returns whether it was one of these."""
        if self._asking and ended.pid == self._asking.pid:
            said = self._asking.said
            self._stop_asking()
            if not self._ending:
                self._fail(f"what asks {self._title} for its hosts {_how(ended)}", shell_code(ended.status), said)
            return True
        daemon = self._running.pop(ended.pid, None)
        if daemon is None:
            return False
        if daemon.name == "prepare" and ended.status == 0:
            if not self._ending:
                self._start_daemons()
        elif not self._ending:
            said = self._setting.relay.tail(daemon.name) if self._setting.relay else ()
            what = f"{self._title}'s {daemon.name} on {self._plan.host} {_how(ended)}"
            self._fail(what, shell_code(ended.status), said)
        return True

    def tick(self) -> None:
        """Time has passed."""
        if not self._asking or time.monotonic() < self._deadline:
            return
        absent = [host for host in self._plan.world.hosts if host not in self._joined]
        patience = self._plan.job.settings.peer_wait
        why = f"has not joined {self._title}'s cluster within {patience:g} s (TRAINKIT_PEER_WAIT)"
        nobody = "" if self._joined else "".join(f"\n{line}" for line in self._asking.said[-1:])
        self._stop_asking()
        if not self._joined or self._plan.host in absent:
            self.blame(why + nobody)
        else:
            self._hooks.absent(absent, why)

    def blame(self, why: str) -> None:
        """The engine does not count this host, which `why` says: fail with what its daemon said last."""
        said = self._setting.relay.tail(self._parts.daemons[-1].name) if self._setting.relay else ()
        self._fail(f"{self._plan.host} {why}", PeerLost.exit_code, said)

    def leave(self) -> None:
        """The job is over, or this host's part in it: a daemon that ends from now on is no failure."""
        self._ending = True
        self._stop_asking()

    def close(self) -> None:
        """End what runs here. What its families leave falls to the supervisor, which ends that, too."""
        self.leave()
        for pid in self._running:
            kill_group(pid, signal.SIGKILL)
        if self._folder.parent != self._setting.folder(self._plan):
            shutil.rmtree(self._folder, ignore_errors=True)

    def _start_daemons(self) -> None:
        self._prepared = True
        for daemon in self._parts.daemons:
            if daemon.name == self._parts.head:
                self._spawn(daemon)
        if self._up or not self._parts.head:
            self._start_others()
        if self._plan.leads:
            reader, writer = os.pipe()
            try:
                pid = self._start(self._parts.joined, writer, environ={**self._environ, **self._parts.driver})
            finally:
                os.close(writer)
            self._asking = _Asking(pid, reader, self._setting, self._counted)

    def _start_others(self) -> None:
        for daemon in self._parts.daemons:
            if daemon.name != self._parts.head:
                self._spawn(daemon)

    def _spawn(self, daemon: Daemon) -> None:
        relay = self._setting.relay
        output = relay.pipe(daemon.name) if relay else os.dup(2)
        try:
            self._running[self._start(daemon.argv, output, environ=self._environ)] = daemon
        finally:
            os.close(output)

    def _start(self, argv: tuple[str, ...], output: int, *, environ: Mapping[str, str]) -> int:
        try:
            return guard.start(argv, environ=environ, cwd=self._plan.script.folder, output=output, whole_session=False)
        except OSError as error:
            advice = limits.remedy(error) or "Look at the limits of this host: ulimit -a"
            raise TrainkitError(f"{self._plan.host} cannot start {argv[0]}: {error.strerror}. {advice}") from None

    def _counted(self, hosts: list[str]) -> None:
        self._joined = set(hosts)
        if not self._up:
            self._hooks.up()
            self.up()
        if self._joined >= set(self._plan.world.hosts) and not self.ready:
            self._stop_asking()
            self.ready = True
            took = time.monotonic() - self._began
            self._setting.say(f"{self._title} counts {', '.join(self._plan.world.hosts)} after {took:.1f} s")
            self._hooks.ready()

    def _stop_asking(self) -> None:
        if self._asking:
            self._asking.close()
            self._asking = None

    def _fail(self, what: str, code: int, said: tuple[str, ...]) -> None:
        if self.verdict:
            return
        head = scrub(what, {"SECRET": self._secret})[:LIMIT]
        tail = scrub("\n".join(said), {"SECRET": self._secret})
        room = LIMIT - len(head) - 2
        self.verdict = Outcome(code or 1, f"{head}\n\n{tail[-room:]}" if tail and room > 0 else head)
        self.failed_at = time.time()
        self._hooks.failed()


class _Asking:
    """The process that tells whom the engine counts."""

    def __init__(self, pid: int, reader: int, setting: Setting, counted: Callable[[list[str]], None]) -> None:
        self.pid = pid
        self._reader = reader
        self._loop = setting.loop
        self._counted = counted
        self._rest = b""
        self._said: deque[str] = deque(maxlen=20)
        self._open = True
        os.set_blocking(reader, False)
        self._loop.watch(reader, self._read)

    @property
    def said(self) -> tuple[str, ...]:
        """What else it wrote, last."""
        self._read()
        return tuple(self._said)

    def close(self) -> None:
        if self._open:
            self._open = False
            self._loop.unwatch(self._reader)
            os.close(self._reader)
            kill_group(self.pid, signal.SIGKILL)

    def _read(self) -> None:
        data = b""
        with suppress(BlockingIOError, OSError):
            data = os.read(self._reader, 65536) if self._open else b""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            try:
                hosts = json.loads(line)
            except ValueError:
                hosts = None
            if isinstance(hosts, list):
                self._counted([str(host) for host in hosts])
            elif text := line.decode("utf-8", "replace").strip():
                self._said.append(text)


def _how(ended: Ended) -> str:
    if ended.status < 0:
        return f"was killed by signal {-ended.status} ({signal.strsignal(-ended.status)})"
    return f"ended by itself, exit code {ended.status}"


def _make_folder(preferred: Path, host: str, *, most: float) -> Path:
    """`preferred` where its name has at `most` so many characters; else another, which `Cluster.close` removes."""
    try:
        if len(str(preferred)) <= most:
            preferred.mkdir()
            return preferred
        return Path(tempfile.mkdtemp(prefix="trainkit-"))
    except OSError as error:
        raise limits.cannot_write(host, preferred, error) from None


def _place(plan: LaunchPlan, link: Hub | Spoke | None, *, folder: Path, secret: str) -> Place:
    try:
        own = (own_address(plan) or resolve(plan.host)) if link else "127.0.0.1"
        first = link.first_address if isinstance(link, Spoke) else own
    except OSError as error:
        raise TrainkitError(f"{plan.host} cannot find its own address, or the first host's: {error.strerror}") from None
    port = plan.meeting.port
    other = free_port(0) if plan.leads else 0
    return Place(plan.host, own, first, plan.leads, (port, other), folder, secret)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as out:
        out.write(text)
