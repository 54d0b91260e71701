"""Whether ranks get on, from the boundaries they pass and what they print; and whom a stalled job waits for."""

from __future__ import annotations

import json

import pytest

from trainkit.contract.board import Row
from trainkit.launch.watch import WINDOW, Report, Stance, Watch, Watchman, blame


def looping(passed: int, *, waited: float = 0.0) -> Row:
    return Row(passed, passed - 1, int(waited * 1e9), looping=1)


def stance(rank: int, *, passed: int = 6, waits: bool = False, where: str = "train.py:9 in load") -> Stance:
    return Stance(rank, f"algo-{rank // 2 + 1}", passed - 1, passed, 30.0, where, waits)


def watchman(*reports: Report, timeout: float = 60.0) -> Watchman:
    hosts = tuple(f"algo-{number}" for number in range(1, len(reports) + 1))
    man = Watchman(hosts, timeout)
    for host, report in zip(hosts, reports, strict=True):
        man.heard(host, report)
    return man


def test_a_rank_lives_while_it_passes_boundaries_or_prints() -> None:
    watch = Watch(now=0)
    assert watch.look({0: looping(1), 1: looping(1)}, {}, now=10) == Report(0, 0, {0: 0.0, 1: 0.0})
    assert watch.look({0: looping(2), 1: looping(1)}, {}, now=30)[:2] == (20, 0)
    assert watch.look({0: looping(2), 1: looping(1)}, {1: 35}, now=40)[:2] == (10, 5)


def test_a_rank_that_passes_no_boundary_lives_by_its_output_alone() -> None:
    watch = Watch(now=100)
    assert watch.look({0: Row(), 1: Row()}, {}, now=130) == Report(None, 30, {})
    assert watch.look({0: Row(), 1: Row()}, {0: 125}, now=130) == Report(None, 5, {})
    assert watch.look({}, {}, now=130) == Report(None, None, {})


def test_the_end_of_the_loop_is_a_sign_of_life_too() -> None:
    watch = Watch(now=0)
    watch.look({0: looping(5)}, {}, now=10)
    assert watch.look({0: looping(5)._replace(looping=0)}, {}, now=50) == Report(None, 0, {})


def test_one_rank_that_stands_in_its_loop_is_enough_and_told_once() -> None:
    man = watchman(Report(5, 5), Report(61, 0))
    assert man.stalled() == 61
    assert man.stalled() is None
    man.heard("algo-2", Report(2, 0))
    assert man.stalled() is None
    man.heard("algo-2", Report(70, 0))
    assert man.stalled() == 70


def test_outside_loops_any_output_anywhere_is_enough() -> None:
    assert watchman(Report(None, 500), Report(None, 3)).stalled() is None
    assert watchman(Report(None, 500), Report(None, 61)).stalled() == 61
    assert watchman(Report(None, 500), Report()).stalled() == 500  # the second host's ranks have ended


def test_a_host_that_was_not_heard_yet_may_be_getting_on() -> None:
    man = Watchman(("algo-1", "algo-2"), 60)
    man.heard("algo-1", Report(100, 100))
    assert man.stalled() is None


def test_a_timeout_of_zero_calls_nobody_stalled() -> None:
    assert watchman(Report(1e9, 1e9), timeout=0).stalled() is None


def test_the_rank_furthest_behind_is_blamed() -> None:
    outcome = blame([stance(0, passed=7), stance(3, passed=6, waits=True), stance(1, passed=7)], idle=60)
    assert outcome.exit_code == 124
    assert (outcome.rank, outcome.step) == (3, 5)
    assert outcome.cause == "no progress for 60 s: rank 3 on algo-2, step 5, stands in train.py:9 in load"


def test_of_those_at_one_step_the_one_that_does_not_wait_for_others_is_blamed() -> None:
    outcome = blame([stance(0, waits=True), stance(1, waits=True), stance(2), stance(3, waits=True)], idle=60)
    assert outcome.rank == 2
    assert outcome.failure is not None
    assert "The others (rank 0, 1, 3) wait for it in a collective" in outcome.failure


def test_where_all_stand_alike_all_are_named() -> None:
    outcome = blame([stance(rank) for rank in range(3)], idle=60)
    assert "rank 0 on algo-1, step 5, stands in train.py:9 in load (and 2 more)" in outcome.cause
    assert outcome.failure is not None
    assert "rank 2 on algo-2" in outcome.failure


def test_without_a_word_from_anyone_the_standstill_itself_is_the_cause() -> None:
    assert blame([], idle=60).cause == "no progress for 60 s"


def test_the_rank_that_waits_for_data_while_others_wait_for_it_is_named_and_again_when_it_is_over() -> None:
    man = watchman(Report(0, 0, {0: 0.0, 1: 0.0}), Report(0, 0, {2: 0.0, 3: 0.0}))
    assert man.straggler(now=0) is None
    man.heard("algo-1", Report(0, 0, {0: 1.0, 1: 2.0}))
    man.heard("algo-2", Report(0, 0, {2: 1.0, 3: 40.0}))
    assert man.straggler(now=WINDOW / 2) is None
    said = man.straggler(now=WINDOW)
    assert said is not None
    assert said.startswith("rank 3 waited for data 67% of the last 60 s, the others 2%")
    man.heard("algo-2", Report(0, 0, {2: 2.0, 3: 78.0}))
    assert man.straggler(now=2 * WINDOW) is None  # said once
    man.heard("algo-2", Report(0, 0, {2: 3.0, 3: 79.0}))
    assert "about as long as each other" in str(man.straggler(now=3 * WINDOW))


def test_ranks_that_all_wait_for_data_are_no_stragglers() -> None:
    man = watchman(Report(0, 0, {0: 0.0, 1: 0.0, 2: 0.0}))
    man.straggler(now=0)
    man.heard("algo-1", Report(0, 0, {0: 30.0, 1: 33.0, 2: 40.0}))
    assert man.straggler(now=WINDOW) is None


def test_reports_and_stances_cross_the_link_as_json() -> None:
    report, stood = Report(None, 2.5, {3: 1.5}), stance(3)
    assert Report.of(json.loads(json.dumps(report.message()))) == report
    assert Stance.of(json.loads(json.dumps(stood)), host="algo-2") == stood


@pytest.mark.parametrize("message", [None, 5, [], [1, 2], ["x", None, {}], [None, None, {"a": 1}], [1, 2, 3]])
def test_nonsense_is_no_report(message: object) -> None:
    with pytest.raises((TypeError, ValueError, AttributeError)):
        Report.of(message)
