"""When a save is due, at whatever pace the steps go by."""

from __future__ import annotations

import itertools
import random

import pytest

from trainkit.checkpoint.schedule import Clock, Schedule


def saved(schedule: Schedule, paces: list[float], *, start: int = 0) -> tuple[list[tuple[int, float]], int]:
    """The steps at which a training that asks when it is told to saves, with the time; and how often it asked."""
    clock, now, due, saves, questions = Clock(schedule), 0.0, start + 1, [], 0
    for step, pace in enumerate(paces, start + 1):
        now += pace
        if step >= due:
            questions += 1
            if clock.due(step, now=now):
                clock.begun(step, now=now)
                saves.append((step, now))
            due = clock.next(step, now=now)
            assert due > step
    return saves, questions


@pytest.mark.parametrize("start", [0, 7, 1000])
def test_a_save_every_so_many_steps_comes_at_their_multiples_and_costs_no_other_question(start: int) -> None:
    saves, questions = saved(Schedule(every=10), [0.1] * 95, start=start)
    assert [step for step, _ in saves] == [step for step in range(start + 1, start + 96) if step % 10 == 0]
    assert questions <= len(saves) + 1


@pytest.mark.parametrize("seed", range(30))
def test_a_save_after_some_time_is_late_by_a_tenth_of_it_and_two_steps_at_most(seed: int) -> None:
    dice = random.Random(seed)
    pace = 10 ** dice.uniform(-3, 1)
    seconds = pace * dice.uniform(3, 300)
    paces = [pace * dice.uniform(0.8, 1.2) for _ in range(3000)]
    saves, questions = saved(Schedule(seconds=seconds), paces)
    assert saves
    times = [paces[0], *(now for _, now in saves)]
    gaps = [later - sooner for sooner, later in itertools.pairwise(times)]
    assert min(gaps) >= seconds
    assert max(gaps) <= 1.1 * seconds + 2.5 * pace
    assert questions < 20 * (len(saves) + 2)


@pytest.mark.parametrize("seed", range(10))
def test_steps_that_take_five_times_as_long_from_some_moment_on_delay_one_save_by_that_factor(seed: int) -> None:
    dice = random.Random(seed)
    paces = [0.1] * dice.randint(1, 500) + [0.5] * 400
    saves, _ = saved(Schedule(seconds=10), paces)
    times = [0.1, *(now for _, now in saves)]
    gaps = [later - sooner for sooner, later in itertools.pairwise(times)]
    assert max(gaps) <= 50
    assert sum(gap > 15 for gap in gaps) <= 2


def test_with_both_whichever_is_first_counts() -> None:
    saves, _ = saved(Schedule(every=100, seconds=3), [1.0] * 250)
    steps = [step for step, _ in saves]
    assert 100 in steps
    assert 200 in steps
    assert len(steps) > 60


def test_without_a_schedule_nothing_is_ever_due() -> None:
    assert saved(Schedule(), [1.0] * 50) == ([], 1)
