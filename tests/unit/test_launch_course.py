"""The course of a job on one host, without processes."""

from __future__ import annotations

import signal

from trainkit.contract.outcome import RankEnd, Record
from trainkit.launch.course import SIBLING_GRACE, Course, Signal

T, K = signal.SIGTERM, signal.SIGKILL


def end(rank: int, status: int, *, at: float = 0.0, raised: float | None = None) -> RankEnd:
    record = None if raised is None else Record(cause=f"E{rank}", frame="", trace="", time=raised)
    return RankEnd(rank=rank, host="algo-1", status=status, time=at, record=record)


def course(*pids: int, grace: float = 110) -> Course:
    made = Course(host="algo-1", stop_grace=grace)
    for pid in pids:
        made.started(pid)
    return made


def test_all_ranks_end_well() -> None:
    c = course(1, 2)
    assert c.ended(1, [end(0, 0)], now=5) == []
    assert not c.over
    assert c.ended(2, [end(1, 0)], now=6) == []
    assert c.over
    assert c.outcome(stopped_code=0).exit_code == 0


def test_a_failed_rank_ends_its_siblings_first_gently_then_by_force() -> None:
    c = course(1, 2, 3)
    assert c.ended(2, [end(1, 42, at=10)], now=5) == [Signal((1, 3), T)]
    assert c.tick(now=5 + SIBLING_GRACE / 2) == []
    assert c.tick(now=5 + SIBLING_GRACE) == [Signal((1, 3), K)]
    assert c.tick(now=100) == []
    c.ended(1, [end(0, -K, at=20)], now=6)
    c.ended(3, [end(2, 1, at=21, raised=21)], now=6)
    outcome = c.outcome(stopped_code=0)
    assert (outcome.exit_code, outcome.cause) == (42, "exit code 42: rank 1 on algo-1")


def test_the_rank_that_raised_first_is_blamed_even_if_another_was_quicker_to_die() -> None:
    c = course(1, 2)
    c.ended(1, [end(0, 1, at=10.4, raised=10.3)], now=5)  # "connection reset by peer"
    c.ended(2, [end(1, 1, at=10.9, raised=10.1)], now=5)  # the real cause, slow to leave
    assert c.outcome(stopped_code=0).cause == "E1"


def test_a_stop_reaches_all_and_is_no_failure() -> None:
    c = course(1, 2)
    assert c.told_to_stop(T, now=50, at=1000) == [Signal((1, 2), T)]
    assert c.deadline == 160
    c.ended(1, [end(0, -T, at=1001)], now=51)
    c.ended(2, [end(1, 0, at=1001)], now=51)
    assert c.outcome(stopped_code=143).exit_code == 143
    assert c.outcome(stopped_code=143).failure is None


def test_a_script_that_stopped_by_its_own_handler_keeps_its_code() -> None:
    c = course(1)
    c.told_to_stop(T, now=50, at=1000)
    c.ended(1, [end(0, 7, at=1001)], now=51)
    assert c.outcome(stopped_code=0).exit_code == 7


def test_a_second_signal_hurries() -> None:
    c = course(1)
    c.told_to_stop(T, now=50, at=1000)
    assert c.told_to_stop(T, now=51, at=1001) == [Signal((1,), K)]
    c.ended(1, [end(0, -K, at=1001)], now=51)
    assert (
        c.outcome(stopped_code=0).cause == "did not stop before a second signal after SIGTERM: killed rank 0 on algo-1"
    )


def test_a_rank_that_does_not_stop_in_time_is_killed_and_named() -> None:
    c = course(1, grace=3)
    c.told_to_stop(T, now=50, at=1000)
    assert c.tick(now=53) == [Signal((1,), K)]
    c.ended(1, [end(0, -K, at=1003)], now=53)
    outcome = c.outcome(stopped_code=0)
    assert outcome.exit_code == 137
    assert outcome.cause == "did not stop within 3 s after SIGTERM: killed rank 0 on algo-1"


def test_a_failure_before_the_stop_is_still_the_cause() -> None:
    c = course(1, 2)
    c.ended(1, [end(0, 42, at=999)], now=49)
    c.told_to_stop(T, now=50, at=1000)
    c.ended(2, [end(1, -T, at=1001)], now=51)
    assert c.outcome(stopped_code=0).exit_code == 42


def test_ranks_end_when_another_host_has_failed_and_that_is_no_failure_of_theirs() -> None:
    c = course(1, 2)
    assert c.told_to_end(now=50, at=1000) == [Signal((1, 2), T)]
    assert c.told_to_end(now=51, at=1001) == []
    assert c.tick(now=50 + SIBLING_GRACE) == [Signal((1, 2), K)]
    c.ended(1, [end(0, -T, at=1001)], now=51)
    c.ended(2, [end(1, 1, at=1002, raised=1001)], now=52)
    assert not c.has_failed
    assert c.outcome(stopped_code=143).failure is None


def test_a_stop_before_any_rank_is_a_stop() -> None:
    c = course()
    assert c.told_to_stop(T, now=1, at=1) == []
    assert c.over
    assert c.outcome(stopped_code=143).exit_code == 143


def test_a_later_stop_does_not_lengthen_the_siblings_grace() -> None:
    c = course(1, 2)
    c.ended(1, [end(0, 1)], now=0)
    c.told_to_stop(T, now=1, at=1)
    assert c.deadline == SIBLING_GRACE
