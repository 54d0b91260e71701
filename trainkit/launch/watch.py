"""Whether the ranks get on, judged by the boundaries they pass and by what they print. Pure.

host:   rows of the board, last output of each rank  ─▶  Watch  ─▶  Report, with every beat of the link
first:  the reports of all hosts                     ─▶  Watchman  ─▶  stalled? whom do the others wait for?
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from trainkit.contract.board import Row
from trainkit.contract.outcome import Outcome

STALLED_CODE = 124
"""The exit code of a job that was ended because it stood still; timeout(1) has it too."""
WINDOW = 60.0
"""Seconds over which the ranks' waiting for data is compared."""
_MUCH, _TIMES = 0.25, 3.0  # of the window; times what is usual among the ranks


class Report(NamedTuple):
    """One host's running ranks at a moment. Seconds without a sign of life; None where there is no such rank."""

    looping: float | None = None
    """The longest, of the ranks inside their loop."""
    quiet: float | None = None
    """The shortest, of all ranks."""
    waited: Mapping[int, float] = {}
    """Seconds that each rank inside its loop has waited for data so far."""

    def message(self) -> list[Any]:
        return [self.looping, self.quiet, {str(rank): seconds for rank, seconds in self.waited.items()}]

    @classmethod
    def of(cls, message: Any) -> Report:
        """Raises TypeError, ValueError or AttributeError where it is none."""
        looping, quiet, waited = message
        return cls(
            None if looping is None else _finite(looping),
            None if quiet is None else _finite(quiet),
            {int(rank): _finite(seconds) for rank, seconds in waited.items()},
        )


def _finite(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(value)
    return number


class Watch:
    """Sees when each rank of a host last passed a boundary."""

    def __init__(self, *, now: float) -> None:
        self._began = now
        self._marks: dict[int, tuple[Row, float]] = {}

    def look(self, rows: Mapping[int, Row], spoke: Mapping[int, float], *, now: float) -> Report:
        """`rows` of the ranks that run, and when they `spoke` last (monotonic)."""
        idle = self.idle(rows, spoke, now=now)
        looping = [idle[rank] for rank, row in rows.items() if row.looping]
        return Report(
            max(looping, default=None),
            min(idle.values(), default=None),
            {rank: row.waited / 1e9 for rank, row in rows.items() if row.looping},
        )

    def idle(self, rows: Mapping[int, Row], spoke: Mapping[int, float], *, now: float) -> dict[int, float]:
        """Seconds since each rank's last sign of life."""
        for rank, row in rows.items():
            last = self._marks.get(rank)
            if last is None or (last[0].passed, last[0].looping) != (row.passed, row.looping):
                self._marks[rank] = (row, now if last or row.passed else self._began)
        return {rank: now - max(self._marks[rank][1], spoke.get(rank, self._began)) for rank in rows}


class Stance(NamedTuple):
    """Where a stalled rank stands."""

    rank: int
    host: str
    step: int | None
    passed: int
    idle: float
    where: str
    """`train.py:88 in loss_fn`, or what is known instead."""
    waits: bool
    """Whether that is a wait for other ranks."""

    @classmethod
    def of(cls, message: Any, *, host: str) -> Stance:
        """Raises TypeError or ValueError where it is none."""
        rank, _, step, passed, idle, where, waits = message
        known_step = None if step is None else int(step)
        return cls(int(rank), host, known_step, int(passed), _finite(idle), str(where)[:300], bool(waits))

    def __str__(self) -> str:
        step = "" if self.step is None else f", step {self.step}"
        return f"rank {self.rank} on {self.host}{step}, stands in {self.where}"


@dataclass(slots=True)
class Watchman:
    """On the first host: hears all hosts' reports. `timeout` in seconds; 0: nobody is ever called stalled."""

    hosts: tuple[str, ...]
    timeout: float
    _reports: dict[str, Report] = field(default_factory=dict)
    _told: bool = False
    _window: tuple[float, Mapping[int, float]] | None = None
    _slow: int | None = None

    def heard(self, host: str, report: Report) -> None:
        self._reports[host] = report

    def stalled(self) -> float | None:
        """For how long nothing has gone on, in seconds; told once, until it goes on again.

        Ranks inside their loop are to pass boundaries. Where none is, any output of any rank is a sign of life.
        """
        looping = [r.looping for r in self._reports.values() if r.looping is not None]
        quiet = [r.quiet for r in self._reports.values() if r.quiet is not None]
        idle = max(looping) if looping else min(quiet, default=0.0)
        if not self.timeout or idle < self.timeout:
            self._told = False
            return None
        if self._told or set(self._reports) < set(self.hosts):
            return None
        self._told = True
        return idle

    def straggler(self, *, now: float) -> str | None:
        """Who kept the others waiting over the last WINDOW, by waiting for its own data; told when it changes."""
        waited = {rank: seconds for report in self._reports.values() for rank, seconds in report.waited.items()}
        if self._window is None or set(self._window[1]) != set(waited):
            self._window = (now, waited)
        began, before = self._window
        if now - began < WINDOW or len(waited) < 2:
            return None
        self._window = (now, waited)
        shares = {rank: (seconds - before[rank]) / (now - began) for rank, seconds in waited.items()}
        worst = max(shares, key=shares.__getitem__)
        others = sorted(share for rank, share in shares.items() if rank != worst)
        usual = others[len(others) // 2]
        slow = worst if shares[worst] >= max(_MUCH, _TIMES * usual) else None
        if slow == self._slow:
            return None
        self._slow = slow
        if slow is None:
            return "all ranks wait for their data about as long as each other again"
        return (
            f"rank {slow} waited for data {shares[slow]:.0%} of the last {now - began:.0f} s, the others {usual:.0%}: "
            f"it holds them up. Its shards may be larger, or its host's disk or network slower"
        )


def blame(stances: Iterable[Stance], *, idle: float) -> Outcome:
    """Whom the job waits for: the ranks furthest behind; of these, those that do not themselves wait for others."""
    known = sorted(stances, key=lambda stance: (stance.passed, stance.rank))
    if not known:
        return Outcome(STALLED_CODE, f"no progress for {idle:.0f} s")
    last = min(stance.passed for stance in known)
    behind = [stance for stance in known if stance.passed == last]
    culprits = [stance for stance in behind if not stance.waits] or behind
    first = culprits[0]
    others = [stance for stance in known if stance not in culprits]
    more = f" (and {len(culprits) - 1} more)" if len(culprits) > 1 else ""
    lines = [f"no progress for {idle:.0f} s: {first}{more}"]
    if others:
        waiting = sum(stance.waits for stance in others)
        how = "wait for it in a collective" if waiting == len(others) else "are further, or wait for it"
        ranks = ", ".join(str(stance.rank) for stance in others[:16])
        lines.append(f"The others (rank {ranks}) {how}. The stacks of all ranks are in the hosts' logs.")
    else:
        lines.append("The stacks of all ranks are in the hosts' logs.")
    lines += [str(stance) for stance in culprits[1:8]]
    return Outcome(STALLED_CODE, "\n".join(lines), rank=first.rank, step=first.step)
