"""What a stop means for a job's checkpointers, without any."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from trainkit.job import facts
from trainkit.job.checkpoints import Checkpoints, prefix


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def checkpoints(tmp_path: Path, said: list[str]) -> Checkpoints:
    return Checkpoints(facts.read({}, argv=(), cwd=tmp_path), say=said.append)


def made(checkpoints: Checkpoints, *, done: int | None) -> list[float]:
    """Stand in for a checkpointer that was called last when `done` steps had ended; returns the stops it gets."""
    stops: list[float] = []
    one = SimpleNamespace(done=done, calls=done or 0, stop=lambda *, left: stops.append(left))
    checkpoints._made = one  # type: ignore[assignment]
    return stops


def test_a_loop_that_adds_gradients_up_goes_on_to_the_step_of_the_optimizer(checkpoints: Checkpoints) -> None:
    made(checkpoints, done=8)

    assert checkpoints.within_step(10, since=0, age=0.0)
    assert not checkpoints.within_step(8, since=0, age=0.0)


def test_a_stop_does_not_wait_for_a_checkpointer_that_is_seldom_called_nor_for_ever(checkpoints: Checkpoints) -> None:
    made(checkpoints, done=8)

    assert not checkpoints.within_step(500, since=0, age=0.0)
    assert not checkpoints.within_step(10, since=0, age=100.0)


def test_a_loop_without_a_checkpointer_or_before_its_first_step_ends_where_it_is(checkpoints: Checkpoints) -> None:
    assert not checkpoints.within_step(3, since=0, age=0.0)
    made(checkpoints, done=None)

    assert not checkpoints.within_step(3, since=0, age=0.0)


def test_an_outer_loop_of_epochs_counts_something_else(checkpoints: Checkpoints) -> None:
    stops = made(checkpoints, done=1000)

    checkpoints.stop(2, since=0, age=10.0)

    assert stops == [90.0]


def test_a_loop_that_only_evaluates_ends_at_once_and_what_was_trained_before_it_is_saved(
    checkpoints: Checkpoints,
) -> None:
    stops = made(checkpoints, done=8)
    since = checkpoints.calls

    assert not checkpoints.within_step(10, since=since, age=0.0)
    checkpoints.stop(10, since=since, age=0.0)

    assert stops == [100.0]


def test_a_state_between_two_steps_is_not_saved_under_the_name_of_one(
    checkpoints: Checkpoints, said: list[str]
) -> None:
    stops = made(checkpoints, done=100)

    checkpoints.stop(300, since=0, age=0.0)

    assert stops == []
    assert "call its step after each step of the optimizer" in said[0]


def test_a_jobs_prefix_ends_in_its_name_once() -> None:
    assert prefix("s3://bucket/runs/", job="flights-7") == "s3://bucket/runs/flights-7"
    assert prefix("s3://bucket/flights-7", job="flights-7") == "s3://bucket/flights-7"
