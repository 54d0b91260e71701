"""Which checkpoints stay: decided only after a new one was committed, so their number never falls below the promise."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Retention:
    """The last `last` ones, the best `best` by `metric`, and every one whose step is a multiple of `every`."""

    last: int = 2
    best: int = 0
    metric: str | None = None
    highest: bool = False
    """Whether more is better."""
    every: int | None = None


@dataclass(frozen=True, slots=True)
class Committed:
    """A whole checkpoint of one place."""

    directory: str
    step: int
    metrics: Mapping[str, float] = field(default_factory=dict)


def kept(checkpoints: Iterable[Committed], retention: Retention) -> frozenset[str]:
    """The directories that stay."""
    ordered = sorted(checkpoints, key=lambda one: (one.step, one.directory), reverse=True)
    stay = ordered[: max(1, retention.last)]
    if retention.every:
        stay += [one for one in ordered if one.step % retention.every == 0]
    if retention.best and retention.metric:
        sign = -1 if retention.highest else 1
        measured = [one for one in ordered if math.isfinite(one.metrics.get(retention.metric, math.nan))]
        measured.sort(key=lambda one: sign * one.metrics[retention.metric or ""])  # stable: the newer of two alike
        stay += measured[: retention.best]
    return frozenset(one.directory for one in stay)
