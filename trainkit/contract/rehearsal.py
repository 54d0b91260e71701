"""Faults that a local job is asked to rehearse: `rank=3@step=20`, `host=2@30s`, `link=2@step=20+5s`.

A step is reached inside a rank, exactly; what then happens to a host or its link is done from outside, by whoever made
it. The two meet in a file per fault in the host's run folder, which also keeps a restarted rank from dying again.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from trainkit.contract.settings import seconds

REHEARSAL = "TRAINKIT_REHEARSAL"
"""The faults for the ranks: those with a step, with their numbers, joined by spaces."""
STEPS = "TRAINKIT_REHEARSAL_STEPS"
"""So many steps of each job.steps are enough: it then ends as at a stop, and says which ones they were."""
SPAN = re.compile(r"rehearsal: steps (\d+) to (\d+)")
_FORM = re.compile(r"(rank|host|link)=(\d+)@(?:step=(\d+)|([\d.]+[smh]?))(?:\+([\d.]+[smh]?))?")


@dataclass(frozen=True, slots=True)
class Fault:
    """One of them. `target` is a rank, or a host's number as in algo-2."""

    number: int
    kind: str  # rank, host or link
    target: int
    step: int | None = None
    after: float | None = None  # seconds of training
    heals: float | None = None  # seconds until a cut link is whole again

    @classmethod
    def parse(cls, text: str, *, number: int) -> Fault:
        """Raises ValueError where `text` describes none."""
        found = _FORM.fullmatch(text)
        if not found:
            raise ValueError(f"{text!r} is no fault: write rank=3@step=20, host=2@step=20, host=2@30s or link=2@30s+5s")
        kind, target, step, after, heals = found.groups()
        if kind == "rank" and step is None:
            raise ValueError(f"{text!r}: a rank is killed at a step: write rank={target}@step=20")
        if heals and kind != "link":
            raise ValueError(f"{text!r}: only a link heals")
        if kind != "rank" and int(target) == 0:
            raise ValueError(f"{text!r}: hosts are counted from 1, as in algo-1")
        return cls(
            number, kind, int(target), None if step is None else int(step),
            seconds(after) if after else None, seconds(heals) if heals else None,
        )  # fmt: skip

    def __str__(self) -> str:
        when = f"{self.after:g}s" if self.step is None else f"step={self.step}"
        return f"{self.kind}={self.target}@{when}" + (f"+{self.heals:g}s" if self.heals is not None else "")

    def mark(self, run: Path) -> Path:
        """The file that says that its step has been reached, on the host that has its scratch in `run`."""
        return run / f"fault-{self.number}"


def spell(faults: tuple[Fault, ...]) -> str:
    """The value of REHEARSAL."""
    return " ".join(f"{fault.number}:{fault}" for fault in faults if fault.step is not None)


def read(text: str) -> tuple[Fault, ...]:
    """The faults in a value of REHEARSAL. Raises ValueError."""
    numbered = [word.partition(":") for word in text.split()]
    return tuple(Fault.parse(fault, number=int(number)) for number, _, fault in numbered)
