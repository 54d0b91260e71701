"""The course of a job on one host, as a state machine without processes: what happened in, what to do out.

running ──a process fails──▶ failing ──siblings end, or are killed after their grace──▶ over
   │
   ├──another host has failed──▶ failing
   └──told to stop──▶ stopping ──all end, or are killed after the stop grace──▶ over
"""

from __future__ import annotations

import signal
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from trainkit.contract.outcome import Outcome, RankEnd, judge

SIBLING_GRACE = 5.0
"""Seconds that the ranks beside a failed one get to end: they wait in a collective for one that will not come."""


class Signal(NamedTuple):
    """Send `number` to each process of `pids`; SIGKILL to all that it started, too."""

    pids: tuple[int, ...]
    number: int


@dataclass(slots=True)
class Course:
    """Feed it what happened, with the monotonic time; carry out the signals it returns; look at `deadline`."""

    host: str
    stop_grace: float
    sibling_grace: float = SIBLING_GRACE
    running: set[int] = field(default_factory=set)
    ends: list[RankEnd] = field(default_factory=list)
    stop_signal: int | None = None
    deadline: float | None = None
    asked_at: float = float("inf")  # seconds since the epoch, as RankEnd has it
    overdue: bool = False
    hurried: bool = False
    others_failed: bool = False

    @property
    def over(self) -> bool:
        return not self.running

    @property
    def has_failed(self) -> bool:
        """Whether a rank failed by itself, before anyone told it to end."""
        return any(end.status != 0 and not end.stopped for end in self.ends)

    def failed_at(self, default: float) -> float:
        """When the first such rank failed, seconds since the epoch."""
        return min((end.failed_at for end in self.ends if end.status != 0 and not end.stopped), default=default)

    def started(self, pid: int) -> None:
        self.running.add(pid)

    def ended(self, pid: int, ends: Iterable[RankEnd], *, now: float) -> list[Signal]:
        """A process is gone, and with it the ranks of `ends`."""
        self.running.discard(pid)
        asked = self.asked_at < float("inf")
        # What a rank does after it was told to end is no cause; but it may have failed before, and died slowly.
        ends = [replace(end, stopped=end.failed_at >= self.asked_at) for end in ends]
        self.ends += ends
        if any(end.status != 0 for end in ends) and not asked and self.running:
            self.asked_at = max(end.time for end in ends)
            self.deadline = now + self.sibling_grace
            return [Signal(tuple(self.running), signal.SIGTERM)]
        return []

    def told_to_stop(self, number: int, *, now: float, at: float) -> list[Signal]:
        """SIGTERM or SIGINT from outside, `at` seconds since the epoch. The second one hurries."""
        if self.stop_signal is not None:
            self.hurried = bool(self.running)
            return self._kill()
        self.stop_signal = number
        self.asked_at = min(self.asked_at, at)
        self.deadline = min(self.deadline or float("inf"), now + self.stop_grace)
        return [Signal(tuple(self.running), number)] if self.running else []

    def told_to_end(self, *, now: float, at: float, lost: bool = False) -> list[Signal]:
        """Another host has failed, or is lost: what runs here waits for ranks that will not come."""
        if self.others_failed:
            return []
        self.others_failed = True
        self.asked_at = min(self.asked_at, at)
        # Where no restart can follow, there is no hurry to end what may be saving.
        grace = SIBLING_GRACE if lost or self.stop_signal is not None else self.sibling_grace
        self.deadline = min(self.deadline or float("inf"), now + grace)
        return [Signal(tuple(self.running), signal.SIGTERM)] if self.running else []

    def tick(self, *, now: float) -> list[Signal]:
        """Time has passed."""
        if self.deadline is None or now < self.deadline or not self.running:
            return []
        self.overdue = True
        return self._kill()

    def outcome(self, *, stopped_code: int) -> Outcome:
        """The end of it all. `stopped_code` is the exit code of a job that stopped as it was told to."""
        if self.others_failed and all(end.status == 0 or end.stopped for end in self.ends):
            return Outcome(0 if self.stop_signal is None else stopped_code)  # nothing of this host's own
        verdict = judge(self.ends, stop_signal=self.stop_signal)
        if self.stop_signal is None or verdict.exit_code or verdict.failure:
            return verdict
        if self.overdue or self.hurried:
            ranks = sorted((end for end in self.ends if end.status == -signal.SIGKILL), key=lambda end: end.rank)
            solo = any(end.solo for end in ranks)
            killed = "the script" if solo else "rank " + ", ".join(str(end.rank) for end in ranks)
            name = signal.Signals(self.stop_signal).name
            when = "before a second signal" if self.hurried else f"within {self.stop_grace:g} s"
            text = f"did not stop {when} after {name}: killed {killed} on {self.host}"
            heed = "Handle the signal" if solo else "Check job.should_stop() at every step, or handle the signal"
            advice = f"{heed}; TRAINKIT_STOP_GRACE sets the time."
            return Outcome(128 + signal.SIGKILL, f"{text}\n{advice}")
        return Outcome(stopped_code)

    def _kill(self) -> list[Signal]:
        self.deadline = None
        return [Signal(tuple(self.running), signal.SIGKILL)] if self.running else []
