"""The one verdict that all hosts go by."""

from __future__ import annotations

import pytest

from trainkit.contract.blame import is_collateral
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
    message = {"exit_code": 1, "failure": "ValueError: x", "at": 105.0, "rank": 3, "step": None}
    assert HostEnd.of(message, host="a", clock_ahead=5.0) == HostEnd("a", 1, "ValueError: x", at=100.0, rank=3)


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
