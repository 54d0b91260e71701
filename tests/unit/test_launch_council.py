"""The one verdict that all hosts go by."""

from __future__ import annotations

import json

import pytest

from trainkit.contract.blame import is_collateral
from trainkit.contract.outcome import Early
from trainkit.launch.peers.council import HostEnd, decide


def end(host: str, failure: str | None, *, at: float, code: int = 1) -> HostEnd:
    return HostEnd(host, code, failure, at)


def test_no_failure_no_verdict() -> None:
    assert decide([end("a", None, at=0, code=0), end("b", None, at=0, code=7)]) is None


@pytest.mark.parametrize(
    ("ends", "cause"),
    [
        ([end("a", "ValueError: x", at=2), end("b", "KeyError: y", at=1)], "KeyError: y"),
        ([end("a", "RuntimeError: Connection reset by peer", at=1), end("b", "KeyError: y", at=2)], "KeyError: y"),
        ([end("a", "RuntimeError: Broken pipe", at=2), HostEnd.lost("b", "gone", at=3)], "lost b: gone"),
        ([HostEnd.lost("b", "gone", at=3), end("a", "ValueError: x", at=2)], "ValueError: x"),
        ([end("a", "Broken pipe", at=2), end("b", "Connection closed by peer", at=1)], "Connection closed by peer"),
    ],
)
def test_the_first_cause_is_blamed_and_an_echo_only_for_want_of_one(ends: list[HostEnd], cause: str) -> None:
    for order in (ends, ends[::-1]):
        verdict = decide(order)
        assert verdict is not None
        assert verdict.cause == cause


def test_the_clocks_of_hosts_are_compared_as_one() -> None:
    message = {"exit_code": 1, "failure": "ValueError: x", "at": 105.0, "rank": 3, "step": None, "early": None}
    assert HostEnd.of(message, host="a", clock_ahead=5.0) == HostEnd("a", 1, "ValueError: x", at=100.0, rank=3)


def test_hosts_that_ended_well_and_came_to_different_things_have_failed() -> None:
    ends = [HostEnd(f"algo-{n}", 0, None, 0.0, said=said) for n, said in ((10, "rows 2"), (2, "rows 1"), (3, ""))]

    verdict = decide(ends)

    assert verdict is not None
    assert (verdict.exit_code, verdict.cause) == (65, "DataError: algo-2 came to rows 1, and algo-10 to rows 2")
    assert decide([ends[0], ends[2], HostEnd("algo-4", 0, None, 0.0, said="rows 2")]) is None
    told = HostEnd.of(ends[0].message(), host="algo-10", clock_ahead=0.0)
    assert told == ends[0]


@pytest.mark.parametrize("message", [None, {}, {"exit_code": "x", "failure": None, "at": 1}, {"exit_code": 1}])
def test_nonsense_is_no_end(message: object) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        HostEnd.of(message, host="a", clock_ahead=0)


@pytest.mark.parametrize(
    "cause",
    [
        "RuntimeError: [/pytorch/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:2131",
        "torch.distributed.DistBackendError: NCCL error in: x.cpp:1, remote process exited or a network error",
        "RuntimeError: [gloo] Timed out waiting 30000ms for recv operation to complete",
        "torch.distributed.DistNetworkError: Failed to recv, got 0 bytes. Connection was likely closed.",
        "BrokenPipeError: [Errno 32] Broken pipe",
    ],
)
def test_what_follows_a_ranks_death_is_known_for_an_echo(cause: str) -> None:
    assert is_collateral(cause)


@pytest.mark.parametrize("cause", ["ValueError: x", "torch.OutOfMemoryError: CUDA out of memory", "KeyError: 'peer'"])
def test_a_cause_is_not_taken_for_an_echo(cause: str) -> None:
    assert not is_collateral(cause)


ECHO = "RuntimeError: Connection closed by peer\nrank 0 on a, step 6, train.py:9 in step, exit code 1\n\nTraceback"


def left(rank: int, *, at: float) -> Early:
    return Early(rank, "b", 5, at)


def test_a_rank_that_left_before_the_echoes_is_their_cause() -> None:
    verdict = decide([end("a", ECHO, at=9.0), HostEnd("b", 0, None, 8.0, early=left(3, at=8.0))])
    assert verdict is not None
    assert verdict.failure is not None
    assert verdict.cause == "rank 3 on b ended with exit code 0 in step 5, while others still trained"
    assert "same number of steps" in verdict.failure
    assert "Connection closed by peer" in verdict.failure
    assert (verdict.exit_code, verdict.rank, verdict.step) == (1, 3, 5)


def test_a_rank_that_left_is_no_cause_of_what_is_no_echo_or_came_long_before() -> None:
    real = decide([end("a", "KeyError: y", at=9.0), HostEnd("b", 0, None, 8.0, early=left(3, at=8.0))])
    before = decide([end("a", ECHO, at=9.0), HostEnd("b", 0, None, 8.0, early=left(3, at=60.0))])
    assert real is not None
    assert before is not None
    assert (real.cause, before.cause) == ("KeyError: y", "RuntimeError: Connection closed by peer")


def test_an_end_with_a_rank_that_left_crosses_the_link() -> None:
    sent = HostEnd("b", 0, None, 8.0, early=left(3, at=8.0))
    received = HostEnd.of(json.loads(json.dumps(sent.message())), host="b", clock_ahead=2.0)
    assert received == HostEnd("b", 0, None, 6.0, early=left(3, at=6.0))
