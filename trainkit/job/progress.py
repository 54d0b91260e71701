"""Progress as plain lines: `step 1200/5000 · 35.2 steps/s · 1m48s left · 12% waiting for data · loss=0.345`."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping

from trainkit.job.metrics import Number

TERMINAL_SECONDS = 1.0
LOG_SECONDS = 10.0
WORTH_A_WORD = 0.05
"""The share of the time that may go by without data before the line says so."""
WINDOW = 5
"""Lines over which the rate is taken: recent enough to show a stall, long enough not to flicker."""


class Progress:
    """Says a line now and then; between lines a step costs one look at the clock.

    Off a terminal the first lines come after 1, 2 and 4 more seconds, so that a start is seen to work, then one
    per LOG_SECONDS, so that a week's log stays readable.
    """

    def __init__(
        self, done: int, *, total: int | None, terminal: bool, clock: Callable[[], float], say: Callable[[str], None]
    ) -> None:
        self._total, self._terminal = total, terminal
        self._clock, self._say = clock, say
        self._pause = TERMINAL_SECONDS
        now = clock()
        self._marks: deque[tuple[float, int, float]] = deque([(now, done, 0.0)], maxlen=WINDOW)
        self._due = now + self._pause

    def after(self, done: int, values: Mapping[str, Number], *, waited: float = 0.0) -> None:
        """`done` steps are done; `values` were logged last, and `waited` seconds of all so far went by without data."""
        now = self._clock()
        if now < self._due:
            return
        self._speak(done, values, now=now, waited=waited)
        if not self._terminal:
            self._pause = min(self._pause * 2, LOG_SECONDS)
        self._due = now + self._pause

    def end(self, done: int, values: Mapping[str, Number], *, waited: float = 0.0, why: str = "") -> None:
        """The last line. `why` is given where the loop ends early."""
        self._speak(done, values, now=self._clock(), waited=waited, why=why)

    def _speak(self, done: int, values: Mapping[str, Number], *, now: float, waited: float, why: str = "") -> None:
        then, before, waited_before = self._marks[0]
        rate = (done - before) / (now - then) if now > then else 0.0
        idle = (waited - waited_before) / (now - then) if now > then else 0.0
        self._marks.append((now, done, waited))
        parts = [f"step {done}" if self._total is None else f"step {done}/{self._total}"]
        if rate > 0:
            parts.append(f"{spell_rate(rate)} steps/s")
            if self._total is not None and done < self._total and not why:
                parts.append(f"{spell_seconds((self._total - done) / rate)} left")
        if idle >= WORTH_A_WORD:
            parts.append(f"{idle:.0%} waiting for data")
        if why:
            parts.append(why)
        parts += [f"{name}={value:.4g}" for name, value in values.items()]
        self._say(" · ".join(parts))


def spell_rate(rate: float) -> str:
    """Three digits that count: 1234, 35.2, 0.042."""
    return f"{rate:.0f}" if rate >= 100 else f"{rate:.1f}" if rate >= 1 else f"{rate:.2g}"


def spell_seconds(seconds: float) -> str:
    """12s, 1m48s, 2h05m, 3d04h."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02}h"
