"""One training job as the service would run it, on this machine.

request ─▶ channels linked or fetched ─▶ a root per host with its config ─▶ `train` on each ─▶ wait
                                                                                                 │ stop, MaxRuntime:
describe.json ◀─ failure reason ◀─ model.tar.gz, output.tar.gz, checkpoints ◀────────────────────┘ SIGTERM, SIGKILL
"""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainkit.contract.outcome import shell_code
from trainkit.contract.paths import Paths
from trainkit.launch.loop import Loop
from trainkit.launch.output import Console
from trainkit.local import archive, isolation, layout
from trainkit.local.hosts import Hosts, Running
from trainkit.local.isolation import Host, Isolation
from trainkit.local.request import Request
from trainkit.local.screen import Screen
from trainkit.local.stage import Amount
from trainkit.local.status import Status, failure_reason
from trainkit.storage.commit import write_whole

STOP_GRACE = 120.0
"""Seconds from SIGTERM to SIGKILL, as the service grants them."""
_OTHERS_GRACE = 30.0
"""Seconds that the other hosts get to end by themselves when one has failed."""


@dataclass(frozen=True, slots=True)
class Options:
    """How to run a request here, apart from what the request itself says."""

    output: Path
    environ: Mapping[str, str]
    isolation: str | None = None
    stop_after: float | None = None  # seconds of training
    at_terminal: bool = False
    colour: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    """The end of a local job."""

    exit_code: int
    description: Mapping[str, Any]
    model: Path | None
    failure: str | None
    staged: Mapping[str, Amount]


def run(job: Request, options: Options, console: Console) -> Result:
    """Execute a CreateTrainingJob request. Raises TrainkitError where it cannot be started at all."""
    chosen, why = isolation.choose(options.isolation)
    with contextlib.ExitStack() as stack:
        stack.callback(chosen.close)
        output = layout.clear(options.output)
        if why:
            console.say("local", why)
        status = Status(job)
        status.enter("Starting")
        hosts = layout.hosts(job, chosen, output)
        status.enter("Downloading")
        staged = layout.fill(job, hosts, interface=chosen.interface, output=output)
        service = _Service(job, options, console, status)
        running = service.train(hosts, chosen, output)
        return service.finish(running, output, staged)


class _Service:
    def __init__(self, job: Request, options: Options, console: Console, status: Status) -> None:
        self._job = job
        self._options = options
        self._console = console
        self._status = status
        self._screen = Screen(console, colour=options.colour)
        self._deadlines: dict[str, float] = {}
        self._stopping, self._stopped_at = "", 0.0
        self._hosts: Hosts | None = None

    def train(self, hosts: Sequence[Host], chosen: Isolation, output: Path) -> list[Running]:
        """Start `train` everywhere, and see it through."""
        self._status.enter("Training")
        hosts_file = layout.hosts_file(hosts, output)
        keeps_terminal = self._options.at_terminal and len(hosts) == 1
        addresses = {host.name: host.address for host in hosts}
        with Loop(on_signal=self._signalled) as loop:
            self._hosts = Hosts(chosen, loop, self._screen, logs=output / "logs", hosts_file=hosts_file)
            try:
                for host in hosts:
                    environ = layout.environment(self._job, self._options.environ) | chosen.environment(host, addresses)
                    self._hosts.start(host, environ=environ, own_terminal=keeps_terminal)
                self._set_limits()
                while self._hosts.running:
                    loop.turn(until=min(self._deadlines.values(), default=None))
                    self._pass_deadlines()
            finally:
                self._hosts.close()
                for host in hosts:  # a supervisor that was killed could not remove its scratch
                    shutil.rmtree(host.root / "run", ignore_errors=True)
        return self._hosts.all

    def finish(self, running: Sequence[Running], output: Path, staged: Mapping[str, Amount]) -> Result:
        """Collect what the hosts left, and write down how it ended."""
        self._status.enter("Uploading")
        roots = [Paths(host.host.root) for host in running]
        compress = self._job["OutputDataConfig"].get("CompressionType", "GZIP") == "GZIP"
        model, clashes = archive.collect([p.model for p in roots], into=output / "model", compress=compress)
        _, more = archive.collect([p.output_data for p in roots], into=output / "output", compress=compress)
        for name in [*clashes, *more]:
            self._console.say("local", f"warning: two hosts wrote {name} differently; the first host's stands")
        for paths in roots:
            archive.copy_new(paths.checkpoints, into=output / "checkpoints")
        exit_code, text = self._verdict(running)
        if text:
            write_whole(output / "failure", text)
        reason = failure_reason(text, exit_code) if exit_code else None
        description = self._status.document(model=model, reason=reason, metrics=self._screen.metrics)
        write_whole(output / layout.DESCRIPTION, json.dumps(description, indent=2) + "\n")
        return Result(exit_code, description, model, text, staged)

    def _verdict(self, running: Sequence[Running]) -> tuple[int, str | None]:
        """The exit code of the job, and the text of its failure."""
        failed = sorted((host for host in running if host.exit_status), key=lambda host: host.ended_at)
        stopped = self._stopping not in ("", "failed")
        if not failed or (stopped and failed[0].ended_at > self._stopped_at):
            self._status.enter(self._stopping if stopped else "Completed")
            return 0, None
        self._status.enter("Failed")
        first = failed[0]
        texts = [_read(Paths(host.host.root).failure) for host in failed]
        return shell_code(first.exit_status or 1), next(filter(None, texts), None)

    def _set_limits(self) -> None:
        now = time.monotonic()
        self._deadlines["MaxRuntimeExceeded"] = now + self._job["StoppingCondition"]["MaxRuntimeInSeconds"]
        if self._options.stop_after is not None:
            self._deadlines["Stopped"] = now + self._options.stop_after

    def _pass_deadlines(self) -> None:
        now = time.monotonic()
        for what, when in sorted(self._deadlines.items(), key=lambda item: item[1]):
            if when > now or what not in self._deadlines:
                continue
            del self._deadlines[what]
            if what == "kill":
                self._console.say("local", f"hosts still run {STOP_GRACE:g} s after SIGTERM: SIGKILL")
                if self._hosts:
                    self._hosts.kill()
            else:
                self._stop(what)

    def _stop(self, why: str) -> None:
        """What StopTrainingJob does: SIGTERM now, SIGKILL later."""
        if self._hosts is None or self._stopping:
            return
        self._stopping, self._stopped_at = why, time.monotonic()
        self._deadlines.pop("MaxRuntimeExceeded", None)
        self._deadlines.pop("Stopped", None)
        self._deadlines["kill"] = time.monotonic() + STOP_GRACE
        if why != "failed":
            self._status.enter("Stopping")
        self._console.say("local", f"SIGTERM to every host ({_IN_WORDS[why]}); SIGKILL in {STOP_GRACE:g} s")
        self._hosts.stop(signal.SIGTERM)

    def _signalled(self, number: int) -> None:
        if number == signal.SIGCHLD and self._hosts:
            for ended in self._hosts.poll():
                if ended.exit_status and self._hosts.running and not self._stopping:
                    self._deadlines["failed"] = time.monotonic() + _OTHERS_GRACE
        elif number in (signal.SIGTERM, signal.SIGINT):
            if number == signal.SIGINT and self._hosts and any(host.relay is None for host in self._hosts.running):
                return  # the one rank shares our terminal and has had the signal itself
            if self._stopping and self._hosts:
                self._hosts.kill()
            self._stop("Stopped")


_IN_WORDS = {
    "Stopped": "stopped",
    "MaxRuntimeExceeded": "MaxRuntimeInSeconds is over",
    "failed": "another host has failed",
}


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
