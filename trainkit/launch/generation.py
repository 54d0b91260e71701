"""One life of a host's ranks: started together, ended together. After a failure there may be another."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from trainkit.contract.board import Board, Row
from trainkit.launch import limits, stacks
from trainkit.launch.course import Course, Signal
from trainkit.launch.engines.base import Engine, Started
from trainkit.launch.memory import oom_kills, shared_memory
from trainkit.launch.processes import Ended, kill_group, send
from trainkit.launch.relay import Relay
from trainkit.launch.watch import Report, Stance, Watch
from trainkit.plan.launch import LaunchPlan


class Generation:
    """The ranks of one `plan`, with a `folder` of their own."""

    def __init__(self, plan: LaunchPlan, engine: Engine, course: Course, *, folder: Path, relay: Relay | None) -> None:
        """Raises TrainkitError where the folder cannot be made."""
        self._plan = plan
        self._engine = engine
        self._course = course
        self._folder = folder
        self._relay = relay
        self._running: dict[int, Started] = {}
        self._oom_before = oom_kills()
        self._watch = Watch(now=time.monotonic())
        try:
            folder.mkdir()
            self._board = Board.create(folder, len(plan.ranks))
        except OSError as error:
            raise limits.cannot_write(plan.host, folder, error) from None

    def start(self) -> None:
        """Start them. Raises TrainkitError where one cannot be; those before it run then."""
        for started in self._engine.start(self._plan):
            self._running[started.pid] = started
            self._course.started(started.pid)

    def reap(self, ended: Ended) -> bool:
        """Hear of a process that has ended. Returns whether it was one of these ranks."""
        started = self._running.pop(ended.pid, None)
        if started is None:
            return False
        oom, shm = oom_kills() > self._oom_before, shared_memory()
        rows = self._rows()
        ends = [
            replace(end, out_of_memory=oom, shm_bytes=shm, step=rows[end.rank].known_step)
            for end in self._engine.ends(self._plan, started, ended)
        ]
        orders = self._course.ended(ended.pid, ends, now=time.monotonic())
        carry_out(orders, self._plan)
        return True

    def ask_to_stop(self) -> int:
        """Before the signal: a rank that hears it finds out here when to stop. Returns the highest boundary passed."""
        return self._board.ask()

    def agree(self, count: int) -> None:
        """All hosts stop after this boundary's step."""
        self._board.agree(count)

    def report(self) -> Report:
        """How the ranks get on."""
        rows = self._running_rows()
        if not self._relay:  # at a terminal, where nobody sees the output but the person in front of it
            rows = {rank: row for rank, row in rows.items() if row.looping}
        return self._watch.look(rows, self._spoke(rows), now=time.monotonic())

    def ask_for_stacks(self) -> None:
        for rank in self._running_rows():
            stacks.ask(self._folder, rank)
            stacks.ask_recorder(self._folder, rank, into=self._plan.traces)

    def stances(self) -> list[tuple[Stance, str]]:
        """Where each running rank stands, and its stacks, some time after it was asked."""
        rows = self._running_rows()
        idle = self._watch.idle(rows, self._spoke(rows), now=time.monotonic())
        shown = {rank: stacks.read(self._folder, rank, home=self._plan.script.folder) for rank in rows}
        host = self._plan.host
        return [
            (Stance(rank, host, row.known_step, row.passed, idle[rank], stack.where, stack.waits), stack.text)
            for rank, row in rows.items()
            for stack in [shown[rank]]
        ]

    def close(self) -> None:
        """Let go of what belongs to it, for the next one."""
        with suppress(OSError):
            self._board.close()
        if self._relay:
            for rank in self._plan.ranks:
                self._relay.end(str(rank))

    def _rows(self) -> dict[int, Row]:
        return dict(zip(self._plan.ranks, self._board.rows(), strict=True))

    def _running_rows(self) -> dict[int, Row]:
        running = {rank for started in self._running.values() for rank in started.ranks}
        return {rank: row for rank, row in self._rows().items() if rank in running}

    def _spoke(self, ranks: Iterable[int]) -> dict[int, float]:
        return {rank: self._relay.heard_at(str(rank)) for rank in ranks} if self._relay else {}


def carry_out(orders: Iterable[Signal], plan: LaunchPlan) -> None:
    """Send the signals that a course wants sent."""
    for order in orders:
        for pid in order.pids:
            if (plan.is_shell or order.number == signal.SIGKILL) and not plan.keeps_terminal:
                kill_group(pid, order.number)
            else:
                send(pid, order.number)
