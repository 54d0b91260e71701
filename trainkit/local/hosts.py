"""The running hosts of a local job: started, signalled, waited for."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from trainkit.launch.loop import Loop
from trainkit.launch.processes import kill_group, send, spawn
from trainkit.launch.relay import Relay
from trainkit.local.isolation import Host, Isolation
from trainkit.local.screen import HostLog, Screen


@dataclass(slots=True)
class Running:
    """One host: `pid` is its outermost process, here on the machine."""

    host: Host
    pid: int
    relay: Relay | None
    log: HostLog | None
    exit_status: int | None = None
    ended_at: float = 0.0  # monotonic
    told: bool = False  # it has had its stop


class Hosts:
    """Start hosts one by one, then `poll` whenever a child may have ended."""

    def __init__(self, isolation: Isolation, loop: Loop, screen: Screen, *, logs: Path, hosts_file: Path) -> None:
        self._isolation = isolation
        self._loop = loop
        self._screen = screen
        self._logs = logs
        self._hosts_file = hosts_file
        self.all: list[Running] = []

    @property
    def running(self) -> list[Running]:
        return [host for host in self.all if host.exit_status is None]

    def start(self, host: Host, *, environ: Mapping[str, str], own_terminal: bool) -> None:
        """Start `train` on `host`. With `own_terminal` it shares ours, else its log goes to the screen and a file."""
        relay = log = output = None
        if not own_terminal:
            log = self._screen.host(self._logs / f"{host.name}.log")
            relay = Relay(self._loop, log, label=lambda _: "")
            output = relay.pipe(host.name)
        try:
            command = self._isolation.command(host, self._hosts_file)
            pid = spawn(command, environ=environ, cwd=host.root, output=output)
        finally:
            if output is not None:
                os.close(output)
        self.all.append(Running(host, pid, relay, log))
        self._isolation.attach(host, pid)

    def poll(self) -> list[Running]:
        """The hosts that have ended since the last call."""
        ended = []
        for running in self.running:
            pid, status = os.waitpid(running.pid, os.WNOHANG)
            if pid:
                running.exit_status = os.waitstatus_to_exitcode(status)
                running.ended_at = time.monotonic()
                self._close(running)
                ended.append(running)
        return ended

    def stop(self) -> bool:
        """SIGTERM to `train` on every host, as `docker stop` would its PID 1.

        Returns whether all have had it; call again soon for those that still start and would not hear it.
        """
        for running in self.running:
            pid = self._isolation.train_pid(running.pid)
            if pid and not running.told and _hears(pid, signal.SIGTERM):
                send(pid, signal.SIGTERM)
                running.told = True
        return all(running.told for running in self.running)

    def kill(self) -> None:
        """End every process of every host, now."""
        for running in self.running:
            self._kill(running)

    def kill_one(self, running: Running) -> None:
        """End every process of one host, as when its machine fails."""
        self._kill(running)

    def close(self) -> None:
        """Leave nothing behind."""
        for running in self.running:
            self._kill(running)
            os.waitpid(running.pid, 0)
            self._close(running)
        self._isolation.close()

    def _kill(self, running: Running) -> None:
        # In a namespace, the death of PID 1 takes all others with it; elsewhere ranks die with their supervisor.
        if pid := self._isolation.train_pid(running.pid):
            send(pid, signal.SIGKILL)
        if running.relay:
            kill_group(running.pid, signal.SIGKILL)
        else:
            send(running.pid, signal.SIGKILL)

    def _close(self, running: Running) -> None:
        if running.relay and running.log:
            running.relay.close()
            running.log.close()


def _hears(pid: int, number: int) -> bool:
    """Whether a signal would be handled, or wait: PID 1 of a namespace never gets one that it has no handler for."""
    if sys.platform != "linux":
        return True
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    facts = dict(line.split(":\t", 1) for line in status.splitlines())
    heard = int(facts["SigBlk"], 16) | int(facts["SigCgt"], 16)
    return facts["Name"] != "unshare" and bool(heard >> (number - 1) & 1)  # that one blocks, and then forgets it
