"""When a save is due. Every rank must come to the same answer without a word, so it is given in steps, beforehand."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Schedule:
    """A save every `every` steps, or when `seconds` have gone by since the last one; with both, whichever is first."""

    every: int | None = None
    seconds: float | None = None


class Clock:
    """Where a job is in its schedule. `step` is the number of steps done, `now` a monotonic clock's seconds."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self._first: tuple[int, float] | None = None
        self._saved: tuple[int, float] | None = None
        self._asked: list[tuple[int, float]] = []
        """The last two questions."""

    def due(self, step: int, *, now: float) -> bool:
        """Whether to save now. The first question starts the clock."""
        self._first = self._first or (step - 1, now)
        by_steps = bool(self._schedule.every) and step % (self._schedule.every or 1) == 0
        return by_steps or (self._schedule.seconds is not None and now - self._since() >= self._schedule.seconds)

    def begun(self, step: int, *, now: float) -> None:
        """A save of this step has begun."""
        self._saved = (step, now)

    def next(self, step: int, *, now: float) -> int:
        """The step to ask again at.

        A time comes at a step that nobody knows, so the question comes early, and again: the nearer, the more often.
        After a step of a day, a million of a millisecond may follow: no guess reaches further than the past does.
        """
        if not self._asked or step > self._asked[-1][0]:
            self._asked = [*self._asked[-1:], (step, now)]
        choices = []
        if self._schedule.every:
            choices.append((step // self._schedule.every + 1) * self._schedule.every)
        if self._schedule.seconds is not None and self._first is not None:
            first, began = self._first
            left = max(0.0, self._since() + self._schedule.seconds - now)
            past = max(1, step - first)
            pace = max((now - began) / past, self._lately(step, now), 1e-6)
            choices.append(step + max(1, min(past, math.ceil(left / pace * 0.9))))
        return min(choices, default=1 << 62)

    def _lately(self, step: int, now: float) -> float:
        """Seconds a step since the question before this one: where steps have become slower, the past is no guide."""
        before, asked = self._asked[0]
        return (now - asked) / (step - before) if step > before else 0.0

    def _since(self) -> float:
        start = self._saved or self._first
        return start[1] if start else math.inf
