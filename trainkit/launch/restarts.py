"""Whether the ranks are started again after a failure. Pure."""

from __future__ import annotations

from trainkit.contract.outcome import Outcome

RESTART_GRACE = 0.1
"""Seconds that ranks get to end before a restart: they wait for one that is gone, and what they do is lost anyway."""


_FROM_OUTSIDE = "killed by SIGKILL"
_TIMES = {2: "twice", 3: "three times"}


class Restarts:
    """Counts them, and knows a failure that comes back.

    The same failure at the same step, twice in a row, will come a third time: no restart helps. It is the same where
    rank and kind of error are, whatever address or time its message holds; or where the message is, letter by letter,
    since of ranks that fail alike any may be the first. A signal at no known step is no such evidence: it may come
    from anywhere, at any time. And a SIGKILL that the kernel does not own up to says so the third time only: who kills
    at random meets a long step twice.
    """

    def __init__(self, allowed: int) -> None:
        self._allowed = allowed
        self._used = 0
        self._last: Outcome | None = None
        self._alike = 1

    def grant(self, outcome: Outcome) -> tuple[bool, str]:
        """Whether to start again after `outcome`, and a word on that for people; "" where there is nothing to say."""
        if outcome.rank is None or not self._allowed:  # no rank's failure: a host was lost, or nothing failed
            return False, ""
        last, self._last = self._last, outcome
        self._alike = self._alike + 1 if last and _is_same(last, outcome) else 1
        if self._alike >= (3 if outcome.cause.startswith(_FROM_OUTSIDE) else 2):
            where = "before its first step" if outcome.step is None else f"at step {outcome.step}"
            return (
                False,
                f"no restart: rank {outcome.rank} has failed in the same way {where} {_TIMES[self._alike]} in a row",
            )
        if self._used == self._allowed:
            return False, f"no restart: all {self._allowed} (max_restarts) are used up"
        self._used += 1
        return True, f"all ranks start again: restart {self._used} of {self._allowed}"


def _is_same(one: Outcome, other: Outcome) -> bool:
    if one.step != other.step or one.exit_code != other.exit_code:
        return False
    if one.step is None:
        return one.exit_code < 128 and one.cause == other.cause
    kinds = [outcome.cause.partition(":")[0] for outcome in (one, other)]
    return one.cause == other.cause or (one.rank == other.rank and kinds[0] == kinds[1])
