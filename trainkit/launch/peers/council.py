"""How a job of several hosts ended: every host's own end, and the one verdict that all of them go by. Pure."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any

from trainkit.contract.blame import is_collateral
from trainkit.contract.cluster import natural
from trainkit.contract.outcome import Early, Outcome
from trainkit.errors import DataError, PeerLost


@dataclass(frozen=True, slots=True)
class HostEnd:
    """How one host's part ended. `at` is when its cause arose, seconds since the epoch by the first host's clock."""

    host: str
    exit_code: int
    failure: str | None
    at: float
    rank: int | None = None
    step: int | None = None
    early: Early | None = None
    """The first of its ranks that ended well by itself."""
    said: str = ""
    """What it has come to, where all hosts are to come to the same."""

    @classmethod
    def from_outcome(
        cls, host: str, outcome: Outcome, *, at: float, early: Early | None = None, said: str = ""
    ) -> HostEnd:
        return cls(host, outcome.exit_code, outcome.failure, at, outcome.rank, outcome.step, early, said)

    @classmethod
    def lost(cls, host: str, why: str, *, at: float) -> HostEnd:
        """The end of a host that can no longer say anything itself."""
        text = f"lost {host}: {why}\nIts own log, if it has one, says more. A host that vanishes is worth a retry."
        return cls(host, PeerLost.exit_code, text, at)

    @property
    def is_echo(self) -> bool:
        return is_collateral(self.failure.split("\n", 1)[0] if self.failure else "")

    def message(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of(cls, message: Any, *, host: str, clock_ahead: float) -> HostEnd:
        """The end in a host's own words. Raises KeyError, TypeError or ValueError where they are none."""
        failure = message["failure"]
        text = None if failure is None else str(failure)[:4096]
        rank, step = (None if message[key] is None else int(message[key]) for key in ("rank", "step"))
        early = None
        if message["early"] is not None:
            who, _, where, when = message["early"]
            early = Early(int(who), host, None if where is None else int(where), float(when) - clock_ahead)
        code, at, said = (
            int(message["exit_code"]) & 0xFF,
            float(message["at"]) - clock_ahead,
            str(message.get("said") or "")[:200],
        )
        return cls(host, code, text, at, rank, step, early, said)


def decide(ends: Collection[HostEnd]) -> Outcome | None:
    """The job's outcome on every host: the first cause there was, an echo only where there is nothing else.

    None where no host failed; each then keeps its own exit code (0, or what a script's own stop handler chose).
    """
    causes = [end for end in ends if end.failure]
    if not causes:
        return _quarrel(ends)
    first = min(causes, key=lambda end: (end.is_echo, end.at))
    failed = Outcome(first.exit_code or 1, first.failure, first.rank, first.step)
    early = min((end.early for end in ends if end.early), key=lambda early: early.at, default=None)
    if early and first.is_echo and early.before(first.at):
        return early.blamed_for(failed)
    return failed


def _quarrel(ends: Collection[HostEnd]) -> Outcome | None:
    """The failure of hosts that all ended well, and came to different things."""
    said = {end.host: end.said for end in sorted(ends, key=lambda end: natural(end.host)) if end.said}
    (first, mine), *others = said.items() or [("", "")]
    other = next(((host, its) for host, its in others if its != mine), None)
    if other is None:
        return None
    return Outcome(
        DataError.exit_code,
        f"DataError: {first} came to {mine}, and {other[0]} to {other[1]}\n"
        f"Every host must have the same tables (FullyReplicated), the same features.py and the same image.",
    )
