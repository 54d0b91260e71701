"""The supervisor: PID 1 of a host's container, owner of its ranks.

read, plan  →  import torch in the template ┐
               meet the other hosts         ┴→  start ranks  →  wait for their ends  →  leave together  →  judge
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from trainkit.contract.job import Job
from trainkit.contract.outcome import Outcome
from trainkit.errors import PeerLost
from trainkit.launch.course import Course, Signal
from trainkit.launch.engines import Engine, Setting, engine_for
from trainkit.launch.engines.base import Started
from trainkit.launch.loop import Loop
from trainkit.launch.output import Console
from trainkit.launch.peers import Hub, Spoke
from trainkit.launch.processes import FORWARDED, become_reaper, kill_group, reap, send
from trainkit.launch.relay import Relay
from trainkit.plan import launch
from trainkit.plan.launch import LaunchPlan, Meeting
from trainkit.plan.machine import Machine
from trainkit.plan.script import Script
from trainkit.plan.world import World


def run(job: Job, *, machine: Machine, script: Script, environ: Mapping[str, str], console: Console) -> Outcome:
    """Run the job's part on this host, from the first plan to the verdict.

    Raises TrainkitError where the ranks could not be started. Whatever happens, no process of the job is left.
    """
    at_terminal = os.isatty(0) and os.isatty(1)
    plan = launch.make(job, machine=machine, script=script, environ=environ, at_terminal=at_terminal)
    become_reaper()
    run_dir = Path(tempfile.mkdtemp(prefix="trainkit-", dir=environ.get(launch.RUN_DIR)))
    try:
        outcome = _Supervisor(plan, machine=machine, environ=environ, console=console, run_dir=run_dir).run()
        report(outcome, speaker=plan.host, console=console)
        return outcome
    finally:
        shutil.rmtree(run_dir, ignore_errors=True)


class _Supervisor:
    def __init__(
        self, plan: LaunchPlan, *, machine: Machine, environ: Mapping[str, str], console: Console, run_dir: Path
    ) -> None:
        self._plan = plan
        self._machine = machine
        self._environ = environ
        self._console = console
        self._loop = Loop(on_signal=self._signalled)
        self._relay = None if plan.keeps_terminal else Relay(self._loop, console, label=_label(plan.host))
        self._course = Course(host=plan.host, stop_grace=plan.job.settings.stop_grace)
        self._started: dict[int, Started] = {}
        self._ready = False
        setting = Setting(environ=environ, run_dir=run_dir, relay=self._relay, loop=self._loop, say=self._say)
        self._engine: Engine = engine_for(plan.engine, setting)

    def run(self) -> Outcome:
        with self._loop:
            link = self._link()
            try:
                self._announce()
                self._engine.prepare(self._plan, self._engine_ready)
                meeting = self._meet(link)
                if meeting:
                    self._start(meeting)
                    self._wait()
                    self._leave_together(link)
                return self._course.outcome(stopped_code=self._stopped_code())
            finally:
                self._end_everything()
                if link:
                    link.close()

    def _announce(self) -> None:
        plan, world = self._plan, self._plan.world
        if plan.leads and not plan.keeps_terminal:
            shape = f"{_count(world.size, 'rank')} on {_count(len(world.hosts), 'host')}"
            self._say(f"{plan.script.path.name} as {shape}, {plan.engine} engine")
            if plan.defaults:
                self._say("set " + " ".join(f"{default.name}={default.value}" for default in plan.defaults))
        for warning in plan.warnings:
            self._say(f"warning: {warning}")

    def _link(self) -> Hub | Spoke | None:
        if len(self._plan.world.hosts) == 1:
            return None
        return Hub(self._loop, self._plan) if self._plan.leads else Spoke(self._loop, self._plan)

    def _meet(self, link: Hub | Spoke | None) -> Meeting | None:
        """Wait until every host is here and this one's engine is ready. None if told to stop before."""
        patience = self._plan.job.settings.peer_wait
        deadline = time.monotonic() + patience
        while not (self._ready and (link is None or link.complete)):
            if self._course.stop_signal is not None:
                return None
            if link and not link.complete and time.monotonic() > deadline:
                raise PeerLost(f"{link.missing()} (TRAINKIT_PEER_WAIT={patience:g} s)")
            until = deadline if self._ready else None
            if isinstance(link, Spoke):
                link.attempt()
                until = min(filter(None, (until, link.next_try)), default=None)
            self._loop.turn(until=until)
        if isinstance(link, Spoke):
            return link.meeting
        port, agent_store = self._engine.meeting_point(self._plan)
        if link:
            return link.welcome(port=port, agent_store=agent_store)
        return Meeting(World.even(self._plan.world.hosts, len(self._plan.ranks)), port, agent_store)

    def _start(self, meeting: Meeting) -> None:
        self._plan = launch.make(
            self._plan.job, machine=self._machine, script=self._plan.script, environ=self._environ, meeting=meeting,
            at_terminal=self._plan.keeps_terminal,
        )  # fmt: skip
        for started in self._engine.start(self._plan):
            self._started[started.pid] = started
            self._carry_out(self._course.started(started.pid))

    def _wait(self) -> None:
        while not self._course.over:
            self._loop.turn(until=self._course.deadline)
            self._carry_out(self._course.tick(now=time.monotonic()))

    def _leave_together(self, link: Hub | Spoke | None) -> None:
        """A host that is done early stays until all are: the first one hosts the store that the others' ranks use."""
        code = self._course.outcome(stopped_code=0).exit_code
        if link and code == 0 and self._course.stop_signal is None:
            link.done(code)
            while not link.may_leave and self._course.stop_signal is None:
                self._loop.turn(until=None)

    def _stopped_code(self) -> int:
        """On SageMaker a stopped job has done what it was told. Slurm and Kubernetes requeue on 143."""
        number = self._course.stop_signal or signal.SIGTERM
        return 0 if self._environ.get("TRAINING_JOB_NAME") else 128 + number

    def _end_everything(self) -> None:
        """No process of the job outlives this, whatever state we are in."""
        for pid in self._started:
            if not self._plan.keeps_terminal:
                kill_group(pid, signal.SIGKILL)
            elif pid in self._course.running:
                send(pid, signal.SIGKILL)
        if self._relay:
            self._relay.close()
        self._engine.close()

    def _engine_ready(self) -> None:
        self._ready = True

    def _signalled(self, number: int) -> None:
        if number == signal.SIGCHLD:
            self._reap()
        elif number in FORWARDED:
            self._carry_out([Signal(tuple(self._course.running), number)])
        elif not (number == signal.SIGINT and self._plan.keeps_terminal):  # else the script has had it already
            if self._course.stop_signal is None:
                grace = self._course.stop_grace
                self._say(
                    f"{signal.Signals(number).name}: told the ranks, they have {grace:g} s; again to kill them now"
                )
            self._carry_out(self._course.told_to_stop(number, now=time.monotonic(), at=time.time()))

    def _reap(self) -> None:
        for ended in reap():
            started = self._started.get(ended.pid)
            if started:  # else the template, the store, or some rank's orphan
                ends = self._engine.ends(self._plan, started, ended)
                self._carry_out(self._course.ended(ended.pid, ends, now=time.monotonic()))

    def _carry_out(self, signals: Iterable[Signal]) -> None:
        for order in signals:
            for pid in order.pids:
                if order.number == signal.SIGKILL and not self._plan.keeps_terminal:
                    kill_group(pid, order.number)
                else:
                    send(pid, order.number)

    def _say(self, text: str) -> None:
        self._console.say(self._plan.host, text)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + "s" * (number != 1)


def _label(host: str) -> Callable[[str], str]:
    return lambda speaker: f"[{host}:{speaker}] " if speaker else f"[{host}] "


def report(outcome: Outcome, *, speaker: str, console: Console) -> None:
    """The verdict, for whoever reads the log."""
    if outcome.failure:
        # The traceback that may follow in the failure text stands in the log already.
        head = outcome.failure.split("\n\n", 1)[0]
        console.say(speaker, f"failed, exit code {outcome.exit_code}:\n{head}")
    elif outcome.exit_code:
        console.say(speaker, f"ended, exit code {outcome.exit_code}")
