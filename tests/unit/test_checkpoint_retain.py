"""Which checkpoints stay."""

from __future__ import annotations

import random

import pytest

from trainkit.checkpoint.retain import Committed, Retention, kept


def checkpoints(*losses: float) -> list[Committed]:
    return [Committed(f"step-{step:09d}", step, {"loss": loss}) for step, loss in enumerate(losses)]


def steps(stay: frozenset[str]) -> list[int]:
    return sorted(int(name.removeprefix("step-")) for name in stay)


def test_the_last_the_best_and_every_so_many_stay() -> None:
    all_of_them = checkpoints(0.5, 0.4, 0.1, 0.3, 0.2, 0.9, 0.8, 0.7)
    assert steps(kept(all_of_them, Retention(last=2))) == [6, 7]
    assert steps(kept(all_of_them, Retention(last=1, best=2, metric="loss"))) == [2, 4, 7]
    assert steps(kept(all_of_them, Retention(last=1, best=1, metric="loss", highest=True))) == [5, 7]
    assert steps(kept(all_of_them, Retention(last=1, every=3))) == [0, 3, 6, 7]


def test_a_metric_that_is_missing_or_no_number_is_never_the_best() -> None:
    some = [*checkpoints(0.5, float("nan"), float("inf")), Committed("step-000000003", 3)]
    assert steps(kept(some, Retention(last=1, best=3, metric="loss"))) == [0, 3]


@pytest.mark.parametrize("last", [0, 1])
def test_the_newest_always_stays(last: int) -> None:
    assert steps(kept(checkpoints(1, 2, 3), Retention(last=last))) == [2]


@pytest.mark.parametrize("seed", range(20))
def test_what_was_let_go_is_never_wanted_again(seed: int) -> None:
    """So a deletion that could not be finished needs no memory."""
    dice = random.Random(seed)
    retention = Retention(
        last=dice.randint(1, 3), best=dice.randint(0, 3), metric="loss", highest=dice.random() < 0.5,
        every=dice.choice((None, 3, 10)),
    )  # fmt: skip
    there: list[Committed] = []
    for one in checkpoints(*(dice.choice((0.1, 0.2, 0.3, dice.random())) for _ in range(60))):
        there.append(one)
        stay = kept(there, retention)
        gone = [other for other in there if other.directory not in stay]
        there = [other for other in there if other.directory in stay]
        assert not kept([*there, *gone], retention) & {other.directory for other in gone}
        assert len(there) >= min(retention.last, one.step + 1)
