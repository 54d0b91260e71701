"""When the ranks are started again, and when that would help nobody."""

from __future__ import annotations

import pytest

from trainkit.contract.outcome import Outcome
from trainkit.launch.restarts import Restarts


def raised(cause: str = "ValueError: bad", *, rank: int = 1, step: int | None = 7) -> Outcome:
    return Outcome(1, f"{cause}\nrank {rank}", rank=rank, step=step)


def killed(*, rank: int = 1, step: int | None = None) -> Outcome:
    return Outcome(137, f"killed by SIGKILL (signal 9): rank {rank}", rank=rank, step=step)


def exhausted() -> Outcome:
    return Outcome(137, "out of memory: the kernel killed rank 1", rank=1, step=7)


def test_without_restarts_allowed_there_is_none_and_no_word_of_it() -> None:
    assert Restarts(0).grant(raised()) == (False, "")


def test_failures_at_different_steps_are_restarted_until_the_number_is_used_up() -> None:
    restarts = Restarts(2)
    assert restarts.grant(raised(step=1)) == (True, "all ranks start again: restart 1 of 2")
    assert restarts.grant(raised(step=2)) == (True, "all ranks start again: restart 2 of 2")
    assert restarts.grant(raised(step=3)) == (False, "no restart: all 2 (max_restarts) are used up")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (raised(), raised()),
        (raised("RuntimeError: at 0x7f01"), raised("RuntimeError: at 0x7f02")),  # the message holds an address
        (raised(rank=1), raised(rank=3)),  # all fail alike, another is the first
        (raised(step=None), raised(step=None)),  # an import error, say
        (exhausted(), exhausted()),
    ],
)
def test_the_same_failure_twice_in_a_row_ends_the_job(one: Outcome, other: Outcome) -> None:
    restarts = Restarts(9)
    assert restarts.grant(one)[0]
    granted, why = restarts.grant(other)
    assert not granted
    assert "twice in a row" in why


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (raised(step=7), raised(step=8)),
        (raised("ValueError: a"), raised("KeyError: b")),
        (raised("ValueError: a", rank=1), raised("ValueError: b", rank=2)),
        (raised("OSError: a", step=None), raised("OSError: b", step=None)),
        (killed(), killed()),  # a signal, nobody knows at which step: it may come from anywhere
        (killed(step=7, rank=1), killed(step=7, rank=2)),
        (killed(step=7), killed(step=7)),  # chance, so far
    ],
)
def test_another_failure_is_no_repetition(one: Outcome, other: Outcome) -> None:
    restarts = Restarts(9)
    assert restarts.grant(one)[0]
    assert restarts.grant(other)[0]


def test_who_is_killed_at_one_step_three_times_in_a_row_is_killed_by_what_it_does_there() -> None:
    restarts = Restarts(9)
    assert [restarts.grant(killed(step=7))[0] for _ in range(2)] == [True, True]
    assert restarts.grant(killed(step=7)) == (
        False, "no restart: rank 1 has failed in the same way at step 7 three times in a row",
    )  # fmt: skip


def test_a_failure_between_makes_it_no_repetition() -> None:
    restarts = Restarts(9)
    assert all(restarts.grant(outcome)[0] for outcome in (raised(step=7), raised(step=3), raised(step=7)))


def test_what_no_rank_is_to_blame_for_is_not_restarted() -> None:
    assert Restarts(9).grant(Outcome(75, "lost algo-2: its connection broke")) == (False, "")
    assert Restarts(9).grant(Outcome(0)) == (False, "")
