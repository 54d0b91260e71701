"""The supervisor: PID 1 of a host's container, owner of its ranks.

read, plan  →  import torch in the template ┐
               meet the other hosts         ┴→  start ranks  →  wait for their ends  →  hear what all of them come to
                                                    ▲                                      │            │
                                                    └───────────── start again ────────────┘       leave together
"""

from __future__ import annotations

import math
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from trainkit.contract import writers
from trainkit.contract.environ import CLUSTER_KEY, RUN_DIR
from trainkit.contract.outcome import Outcome, left_early
from trainkit.contract.seal import key_for
from trainkit.errors import PeerLost, TrainkitError
from trainkit.launch import limits, preflight, said, words
from trainkit.launch.course import SIBLING_GRACE, Course, Signal
from trainkit.launch.engines import Engine, Setting, engine_for
from trainkit.launch.errand import Errand, Planner
from trainkit.launch.generation import Generation, carry_out
from trainkit.launch.loop import Loop
from trainkit.launch.membership import Membership
from trainkit.launch.output import Console
from trainkit.launch.peers import Again, Ears, Hub, Spoke
from trainkit.launch.peers.council import HostEnd
from trainkit.launch.preparation import Preparation
from trainkit.launch.processes import FORWARDED, become_reaper, children, kill_descendants, reap
from trainkit.launch.relay import Relay
from trainkit.launch.restarts import RESTART_GRACE, Restarts
from trainkit.launch.stalls import Stalls
from trainkit.launch.waiting import wait
from trainkit.launch.watch import Report
from trainkit.plan.launch import LaunchPlan, Meeting
from trainkit.plan.world import World

WRITERS_GRACE = 20.0
"""Seconds for a checkpoint that is being written when the ranks are gone."""


def run(planner: Planner, *, environ: Mapping[str, str], console: Console, errand: Errand | None = None) -> Outcome:
    """Run the job's part on this host, from the first plan to the verdict, after the `errand` if there is one.

    Raises TrainkitError where the ranks could not be started. Whatever happens, no process of the job is left.
    """
    at_terminal = os.isatty(0) and os.isatty(1)
    plan = planner(at_terminal=at_terminal)
    become_reaper()
    run_dir = _make_run_dir(plan.host, environ)
    try:
        with limits.told(plan.host):
            own = _Supervisor(plan, planner, environ=environ, console=console, run_dir=run_dir, errand=errand)
            outcome = replace(own.run(), stopped=own.stopped)
        words.report(outcome, speaker=plan.host, console=console)
        return outcome
    finally:
        shutil.rmtree(run_dir, ignore_errors=True)


def _make_run_dir(host: str, environ: Mapping[str, str]) -> Path:
    place = environ.get(RUN_DIR) or None
    try:
        return Path(tempfile.mkdtemp(prefix="trainkit-", dir=place))
    except OSError as error:
        raise limits.cannot_write(host, f"into {place or 'any of the usual places'}", error) from None


class _Supervisor:
    def __init__(
        self, plan: LaunchPlan, planner: Planner, *, environ: Mapping[str, str], console: Console, run_dir: Path,
        errand: Errand | None,
    ) -> None:  # fmt: skip
        self._plan = plan
        self._planner = planner
        self._key = key_for(environ, job=plan.job.name, hosts=plan.world.hosts) if len(plan.world.hosts) > 1 else b""
        environ = {name: value for name, value in environ.items() if name != CLUSTER_KEY}
        self._environ = environ
        self._console = console
        self._run_dir = run_dir
        self._loop = Loop(on_signal=self._signalled)
        label = partial(words.prefix, plan.host)
        self._relay = None if plan.keeps_terminal else Relay(self._loop, console, label=label, brake=console)
        self._restarts = Restarts(plan.job.settings.max_restarts)
        self._course = self._new_course(None)
        self._ranks: Generation | None = None
        self._ready = False
        self._link: Hub | Spoke | None = None
        self._stopped_by_others = False
        self._impatient = False
        self._strangers = frozenset(children())  # a sidecar, where an entrypoint has become `train` by exec
        self._setting = Setting(environ=environ, run_dir=run_dir, relay=self._relay, loop=self._loop, say=self._say)
        self._engine: Engine = engine_for(plan.engine, self._setting)
        self._preparation = Preparation(errand, self._setting, plan) if errand else None
        self._membership = Membership(self._setting, command=self._start_in_cluster, failed=self._failed_in_cluster)
        self._stalls = Stalls(plan, say=self._say, act=self._end_stalled)

    def run(self) -> Outcome:
        with self._loop:
            self._console.attend(self._loop)
            try:
                self._link = self._make_link()
                for warning in (*self._plan.warnings, *preflight.here(self._plan, self._environ)):
                    self._say(f"warning: {warning}")
                meeting = None
                while True:
                    answer = self._conclude(self._live(meeting))
                    if isinstance(answer, Outcome):
                        return answer
                    meeting = self._begin_again(answer)
            finally:
                self._end_everything()
                if self._link:
                    self._link.close()

    @property
    def stopped(self) -> bool:
        return self._course.stop_signal is not None

    def _live(self, meeting: Meeting | None) -> Outcome:
        """This host's own part in one generation, to its own end. Without a `meeting`, the hosts have yet to meet."""
        try:
            with limits.told(self._plan.host):
                if meeting is None and self._made_ready():
                    self._engine.prepare(self._plan, self._engine_ready)
                    meeting = self._meet()
                if meeting and self._course.stop_signal is None and not self._course.others_failed:
                    self._start(meeting)
                    self._wait()
                    self._wait_behind_shell()
                    self._membership.leave(self._course, self._link, leads=self._plan.leads)
                elif self._link:
                    self._link.failed()  # others may have started already: they would wait for our ranks
        except TrainkitError as error:
            if not self._link:
                raise
            self._end_ranks()
            self._wait()
            return Outcome(error.exit_code, str(error))
        in_cluster = None if self._course.has_failed else self._membership.verdict
        return self._stalls.verdict or in_cluster or self._course.outcome(stopped_code=self._stopped_code())

    def _conclude(self, own: Outcome) -> Outcome | Meeting:
        """What this host's part comes to beside the others': all start again, or leave together with the first cause.

        A host that is done early stays until all are: the first one hosts the store that the others' ranks use.
        """
        link = self._link
        own = said.in_its_words(self._plan, own)
        if link is None:
            again = self._again(own)
            return again.meeting if again else own
        # In a processing job no host waits for another's script, and one that is done early leaves nobody alone.
        early = None if self._plan.processes else left_early(self._course.ends)
        at = self._course.failed_at(self._membership.failed_at or time.time())
        generation = self._plan.meeting.generation
        alike = said.alike(self._plan, self._setting.folder(self._plan))
        link.done(HostEnd.from_outcome(self._plan.host, own, at=at, early=early, said=alike))
        while link.verdict is None and not self._impatient:
            if link.meeting and link.meeting.generation > generation:
                return link.meeting
            self._loop.turn(until=min(link.next_tick, self._stalls.next_look))
            link.tick()
            self._look_for_stalls()
        if link.verdict is None or not link.verdict.failure:
            return own
        if link.verdict.failure != own.failure and link.verdict.exit_code != PeerLost.exit_code:  # that was said
            self._say(f"the job failed elsewhere first: {link.verdict.cause}")
        return link.verdict

    def _again(self, outcome: Outcome) -> Again | None:
        """On the first host, or the only one: whether all ranks start again after this, and where they meet then."""
        if self._course.stop_signal is not None or self._impatient:
            return None
        granted, why = self._restarts.grant(outcome)
        if not granted:
            self._say(why)
            return None
        why = f"{words.head(outcome)}\n{why}"
        self._say(why)
        last = self._plan.meeting
        plan = replace(self._plan, meeting=replace(last, generation=last.generation + 1))
        try:
            port, agent_store = self._engine.meeting_point(plan)
        except (TrainkitError, OSError) as error:  # of a host that has run out of something; the cause stands
            self._say(f"no restart: {error}")
            return None
        return Again(replace(plan.meeting, port=port, agent_store=agent_store), why)

    def _begin_again(self, meeting: Meeting) -> Meeting:
        """Clear away what the last generation left. Every restart has come so far on every host."""
        self._membership.forget()
        self._clear_ranks(spare=writers.alive(self._run_dir))  # what was copied last may be what is restored
        with suppress(OSError):  # there is none; the next generation's cause is not this one's
            failure = self._plan.job.paths.failure
            failure.replace(failure.with_name("failure.previous"))
        self._course = self._new_course(self._course.stop_signal, generation=meeting.generation)
        self._stalls.reset()
        self._plan = replace(self._plan, meeting=meeting)
        if self._link and self._link.ending:  # as soon as it began, elsewhere
            self._end_ranks()
        return meeting

    def _new_course(self, stop_signal: int | None, *, generation: int = 0) -> Course:
        settings = self._plan.job.settings
        last = generation >= settings.max_restarts
        grace = SIBLING_GRACE if last else RESTART_GRACE
        return Course(self._plan.host, settings.stop_grace, sibling_grace=grace, stop_signal=stop_signal)

    def _make_link(self) -> Hub | Spoke | None:
        if len(self._plan.world.hosts) == 1:
            return None
        ears = Ears(
            end=self._end_ranks, stop=self._told_to_stop, agreed=self._agreed, say=self._say, again=self._again,
            report=self._report, reported=self._stalls.reported, show=self._show, shown=self._stalls.shown,
            traits=preflight.traits(self._environ), up=self._head_up, released=self._membership.released,
            absent=self._membership.blame,
        )  # fmt: skip
        return (Hub if self._plan.leads else Spoke)(self._loop, self._plan, ears, key=self._key)

    def _called_off(self) -> bool:
        return self._course.stop_signal is not None or self._course.others_failed

    def _made_ready(self) -> bool:
        """Whether this host's code is there to be run. False if told to stop or end before."""
        if self._preparation is None:
            return True
        prepared = self._preparation.carry_out(
            self._link, called_off=self._called_off, impatient=lambda: self._impatient
        )
        if prepared is None:
            return False
        self._planner, self._plan = prepared
        self._engine = engine_for(self._plan.engine, self._setting)
        if isinstance(self._link, Spoke):
            self._link.prepared()
        return True

    def _meet(self) -> Meeting | None:
        """Where ranks meet, once every host is here. None if told to stop or end before."""
        link = self._link
        patient = self._preparation is not None or isinstance(link, Hub)  # the first host knows who is busy
        ready = wait(
            self._plan, loop=self._loop, link=link, ready=lambda: self._ready, called_off=self._called_off,
            patient=patient,
        )  # fmt: skip
        if not ready:
            return None
        if isinstance(link, Spoke):
            return link.meeting
        port, agent_store = self._engine.meeting_point(self._plan)
        if link:
            return link.welcome(port=port, agent_store=agent_store)
        return Meeting(World.even(self._plan.world.hosts, len(self._plan.ranks)), port, agent_store)

    def _start(self, meeting: Meeting) -> None:
        self._plan = self._planner(meeting=meeting, at_terminal=self._plan.keeps_terminal)
        if self._plan.leads and not self._plan.keeps_terminal and not meeting.generation:
            self._say(words.announcement(self._plan))
        folder = self._run_dir / str(meeting.generation)
        self._ranks = Generation(self._plan, self._engine, self._course, folder=folder, relay=self._relay)
        if self._plan.cluster:
            self._membership.join(self._plan, self._link)
        else:
            self._ranks.start()

    def _start_in_cluster(self, driver: Mapping[str, str]) -> None:
        if self._ranks and not self._called_off():
            self._plan = replace(self._plan, environment={**self._plan.environment, **driver})
            self._ranks.start(self._plan)

    def _failed_in_cluster(self) -> None:
        if self._link:
            self._link.failed()
        self._end_ranks()

    def _wait(self) -> None:
        while not self._course.over or self._wanted_in_cluster():
            patience = self._course.deadline or self._stalls.next_look
            moments = [patience, self._membership.next_look, self._link.next_tick if self._link else None]
            self._loop.turn(until=min(filter(None, moments)))
            self._carry_out(self._course.tick(now=time.monotonic()))
            self._membership.tick()
            self._look_for_stalls()
            if self._link:
                self._link.tick()

    def _wanted_in_cluster(self) -> bool:
        return not self._impatient and self._membership.wanted(self._course, leads=self._plan.leads)

    def _wait_behind_shell(self) -> None:
        """A shell that was told to end is gone at once, while what it ran in its session still heeds the signal."""
        shell = self._plan.is_shell
        if self._plan.cluster:  # what a daemon that died has left is no work of the command's
            shell = shell and self._plan.leads and not self._membership.verdict
        known = self._strangers | self._engine.helpers | self._membership.pids
        while shell and self._course.deadline and not self._impatient and {*children()} - known:
            now = time.monotonic()
            if now >= self._course.deadline:
                return  # whatever is left is ended with everything else
            moments = [self._course.deadline, now + 0.1, self._link.next_tick if self._link else None]
            self._loop.turn(until=min(filter(None, moments)))
            self._reap()
            if self._link:
                self._link.tick()

    def _look_for_stalls(self) -> None:
        """Unless the ranks are ending anyway, some slower than others."""
        ending = self._link is not None and self._link.ending
        calm = not (ending or self._course.has_failed or self._course.stop_signal is not None)
        self._stalls.tick(self._ranks if calm else None, link=self._link)

    def _stopped_code(self) -> int:
        """On SageMaker a stopped job has done what it was told. Slurm and Kubernetes requeue on 143."""
        number = self._course.stop_signal or signal.SIGTERM
        return 0 if self._plan.job.name != "local" else 128 + number

    def _end_everything(self) -> None:
        """No process of the job outlives this, whatever state we are in."""
        self._engine.close()
        self._membership.close()
        self._carry_out([Signal(tuple(self._course.running), signal.SIGKILL)])
        self._let_writers_finish()
        self._clear_ranks()
        if self._relay:
            self._relay.close()
        self._console.finish()

    def _let_writers_finish(self) -> None:
        """A state that a rank copied before it died becomes a checkpoint, if that takes no longer than the grace."""
        deadline = min(time.monotonic() + WRITERS_GRACE, self._course.deadline or math.inf)
        # Those that are ours: a process id that was used again may be anybody's.
        while not self._impatient and time.monotonic() < deadline and writers.alive(self._run_dir) & {*children()}:
            self._loop.turn(until=min(deadline, time.monotonic() + 0.1))
            self._reap()

    def _clear_ranks(self, *, spare: frozenset[int] = frozenset()) -> None:
        """What the ranks started but `spare`, and the ranks themselves if any run."""
        self._carry_out([Signal(tuple(self._course.running), signal.SIGKILL)])
        kill_descendants(spare=self._engine.helpers | self._strangers | spare)
        if self._ranks:
            self._ranks.close()
            self._ranks = None

    def _head_up(self) -> None:
        self._membership.up(self._link.generation if self._link else None)

    def _engine_ready(self) -> None:
        self._ready = True

    def _signalled(self, number: int) -> None:
        if number == signal.SIGCHLD:
            self._reap()
        elif number in FORWARDED:
            self._carry_out([Signal(tuple(self._course.running), number)])
        elif not (number == signal.SIGINT and self._plan.keeps_terminal):  # else the script has had it already
            self._asked_to_stop(number)

    def _asked_to_stop(self, number: int) -> None:
        """SIGTERM or SIGINT at this host."""
        name = signal.Signals(number).name
        if self._course.stop_signal is None:
            whom = "the ranks, they have" if self._plan.processes is None else "the script, it has"
            self._say(f"{name}: told {whom} {self._course.stop_grace:g} s; again to kill them now")
            if self._link:
                self._link.stop(number)
        elif self._stopped_by_others:
            self._stopped_by_others = False  # the others were quicker to hear of the same stop
            return
        else:
            self._impatient = True
        self._stop_ranks(number)

    def _told_to_stop(self, number: int) -> None:
        """Another host got the signal."""
        if self._course.stop_signal is None and number in (signal.SIGTERM, signal.SIGINT):
            self._stopped_by_others = True
            self._stop_ranks(number)

    def _stop_ranks(self, number: int) -> None:
        """The board before the signal: a rank that hears the signal finds out there when to stop."""
        if self._course.stop_signal is None:
            passed = self._ranks.ask_to_stop() if self._ranks else 0
            if self._link:
                self._link.passed(passed)
            else:
                self._agreed(passed)
        self._carry_out(self._course.told_to_stop(number, now=time.monotonic(), at=time.time()))

    def _agreed(self, count: int) -> None:
        if self._ranks:
            self._ranks.agree(count)

    def _end_ranks(self, lost: bool = False) -> None:
        """Another host has failed, or this one cannot go on: what runs here waits for ranks that will not come."""
        self._carry_out(self._course.told_to_end(now=time.monotonic(), at=time.time(), lost=lost))

    def _end_stalled(self, verdict: Outcome) -> None:
        """The ranks of all hosts stand still, and are to be ended."""
        self._end_ranks()
        if isinstance(self._link, Hub):
            self._link.blame(HostEnd.from_outcome(self._plan.host, verdict, at=time.time()))

    def _report(self) -> Report:
        return self._ranks.report() if self._ranks else Report()

    def _show(self) -> None:
        if self._ranks:
            self._stalls.ask(self._ranks)

    def _reap(self) -> None:
        for ended in reap():
            if self._preparation and self._preparation.reap(ended):
                continue
            if self._membership.reap(ended):
                continue
            ours = self._ranks is not None and self._ranks.reap(ended)  # else the template, the store, or an orphan
            if ours and self._link and self._course.has_failed:
                self._link.failed()

    def _carry_out(self, orders: Iterable[Signal]) -> None:
        carry_out(orders, self._plan)

    def _say(self, text: str) -> None:
        self._console.say(self._plan.host, text)
