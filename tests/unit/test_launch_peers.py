"""The link between supervisors: real sockets, no ranks."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from trainkit.contract.cluster import Cluster
from trainkit.contract.hyperparameters import Hyperparameters
from trainkit.contract.job import Job
from trainkit.contract.paths import Paths
from trainkit.contract.settings import Settings
from trainkit.errors import PeerLost, TrainkitError
from trainkit.launch.engines.base import free_port
from trainkit.launch.loop import Loop
from trainkit.launch.peers import Ears, Hub, Spoke, listening
from trainkit.launch.peers.council import HostEnd
from trainkit.plan import launch
from trainkit.plan.launch import LaunchPlan
from trainkit.plan.machine import Machine
from trainkit.plan.script import Script

HOSTS = ("algo-1", "algo-2", "algo-3")


@pytest.fixture
def port() -> int:
    return free_port(0)


def plan(here: str, port: int, *, procs: int = 1, name: str = "job", timeout: float = 30) -> LaunchPlan:
    job = Job(
        name=name,
        paths=Paths(),
        cluster=Cluster(here, HOSTS),
        channels=(),
        hyperparameters=Hyperparameters({}),
        settings=Settings(port=port, procs=procs, engine="spawn", peer_timeout=timeout),
        checkpoints=Path("/tmp"),
        addresses=dict.fromkeys(HOSTS, "127.0.0.1"),
    )
    machine = Machine(cpus=1, gpus=0, interfaces=("lo",), efa=0)
    return launch.make(job, machine=machine, script=Script(Path("/x.py"), Path("/")), environ={})


class Heard:
    """What a supervisor was told."""

    def __init__(self) -> None:
        self.ends = 0
        self.stops: list[int] = []
        self.agreed: list[int] = []
        self.said: list[str] = []

    def _end(self) -> None:
        self.ends += 1

    @property
    def ears(self) -> Ears:
        return Ears(end=self._end, stop=self.stops.append, agreed=self.agreed.append, say=self.said.append)


def hub_at(loop: Loop, port: int, *, heard: Heard | None = None, timeout: float = 30) -> Hub:
    return Hub(loop, plan("algo-1", port, timeout=timeout), (heard or Heard()).ears)


def spoke_at(
    loop: Loop,
    port: int,
    host: str,
    *,
    procs: int = 1,
    name: str = "job",
    heard: Heard | None = None,
    timeout: float = 30,
) -> Spoke:
    return Spoke(loop, plan(host, port, procs=procs, name=name, timeout=timeout), (heard or Heard()).ears)


def end(host: str, code: int = 0, failure: str | None = None, *, at: float = 0.0) -> HostEnd:
    return HostEnd(host, code, failure, at)


@pytest.fixture
def loop() -> Iterator[Loop]:
    with Loop(on_signal=lambda number: None) as loop:
        yield loop


def turn(loop: Loop, until: Callable[[], bool], *ends: Hub | Spoke) -> None:
    """Turn the loop until something holds."""
    deadline = time.monotonic() + 30
    while not until():
        assert time.monotonic() < deadline
        for one in ends:
            one.tick()
            if isinstance(one, Spoke):
                one.attempt()
        loop.turn(until=time.monotonic() + 0.02)


def met(loop: Loop, port: int, *heard: Heard, timeout: float = 30) -> tuple[Hub, Spoke, Spoke]:
    """Three hosts that have met."""
    ears = [*heard, *(Heard() for _ in range(3 - len(heard)))]
    hub = hub_at(loop, port, heard=ears[0], timeout=timeout)
    spokes = [spoke_at(loop, port, host, heard=h, timeout=timeout) for host, h in zip(HOSTS[1:], ears[1:], strict=True)]
    turn(loop, lambda: hub.complete, *spokes)
    hub.welcome(port=4242, agent_store=True)
    turn(loop, lambda: all(spoke.complete for spoke in spokes))
    return hub, spokes[0], spokes[1]


def test_hosts_meet_in_any_order_and_learn_the_same(loop: Loop, port: int) -> None:
    late, later = spoke_at(loop, port, "algo-3", procs=2), spoke_at(loop, port, "algo-2", procs=3)
    late.attempt()  # nobody listens yet
    hub = hub_at(loop, port)
    turn(loop, lambda: hub.complete, late, later)
    meeting = hub.welcome(port=4242, agent_store=True)
    turn(loop, lambda: late.complete and later.complete)
    assert meeting == late.meeting == later.meeting
    assert (meeting.world.procs, meeting.port, meeting.agent_store) == ((1, 3, 2), 4242, True)
    for one in (hub, late, later):
        one.close()


def test_hosts_leave_together(loop: Loop, port: int) -> None:
    hub, two, three = met(loop, port)
    two.done(end("algo-2"))
    hub.done(end("algo-1"))
    loop.turn(until=time.monotonic() + 0.2)
    assert hub.verdict is None
    assert two.verdict is None
    three.done(end("algo-3"))
    turn(loop, lambda: bool(hub.verdict and two.verdict and three.verdict))
    assert hub.verdict == two.verdict == three.verdict
    assert hub.verdict is not None
    assert (hub.verdict.exit_code, hub.verdict.failure) == (0, None)
    for one in (hub, two, three):
        one.close()


def test_a_failure_anywhere_ends_all_and_the_first_cause_is_everyones(loop: Loop, port: int) -> None:
    heard = [Heard() for _ in HOSTS]
    hub, two, three = met(loop, port, *heard)
    three.failed()
    turn(loop, lambda: all(h.ends for h in heard))
    now = time.time()
    two.done(end("algo-2", 1, "RuntimeError: Connection reset by peer", at=now - 2))
    hub.done(end("algo-1"))
    three.done(end("algo-3", 7, "ValueError: x", at=now - 1))
    turn(loop, lambda: bool(hub.verdict and two.verdict and three.verdict))
    for one in (hub, two, three):
        assert one.verdict is not None
        assert (one.verdict.exit_code, one.verdict.cause) == (7, "ValueError: x")
        one.close()


def test_a_stop_at_one_host_is_heard_by_all(loop: Loop, port: int) -> None:
    heard = [Heard() for _ in HOSTS]
    hub, two, three = met(loop, port, *heard)
    two.stop(15)
    turn(loop, lambda: bool(heard[0].stops and heard[2].stops))
    assert heard[0].stops == heard[2].stops == [15]
    hub.stop(2)
    turn(loop, lambda: 2 in heard[1].stops and 2 in heard[2].stops)
    for one in (hub, two, three):
        one.close()


def test_hosts_agree_on_the_highest_boundary_that_any_rank_has_passed(loop: Loop, port: int) -> None:
    heard = [Heard() for _ in HOSTS]
    hub, two, three = met(loop, port, *heard)
    two.passed(7)
    hub.passed(5)
    loop.turn(until=time.monotonic() + 0.1)
    assert heard[0].agreed == []
    three.passed(6)
    turn(loop, lambda: all(h.agreed for h in heard))
    assert [h.agreed for h in heard] == [[7], [7], [7]]
    for one in (hub, two, three):
        one.close()


def test_a_supervisor_that_is_killed_is_lost_at_once_and_blamed(loop: Loop, port: int) -> None:
    heard = [Heard() for _ in HOSTS]
    hub, two, three = met(loop, port, *heard)
    two.close()
    turn(loop, lambda: bool(heard[0].ends and heard[2].ends))
    assert heard[0].said == ["lost algo-2: its connection broke: its supervisor is gone"]
    three.done(end("algo-3", 1, "RuntimeError: Connection closed by peer", at=0))
    hub.done(end("algo-1"))
    turn(loop, lambda: bool(hub.verdict and three.verdict))
    assert hub.verdict == three.verdict
    assert hub.verdict is not None
    assert hub.verdict.exit_code == 75
    assert hub.verdict.cause.startswith("lost algo-2")
    hub.close()
    three.close()


def test_the_first_host_lost_is_noticed_by_the_others(loop: Loop, port: int) -> None:
    heard = [Heard() for _ in HOSTS]
    hub, two, three = met(loop, port, *heard)
    hub.close()
    turn(loop, lambda: bool(heard[1].ends and heard[2].ends))
    two.done(end("algo-2"))
    three.done(end("algo-3", 3, "ValueError: mine, and earlier", at=1.0))
    assert two.verdict is not None
    assert three.verdict is not None
    assert (two.verdict.exit_code, two.verdict.cause[:11]) == (75, "lost algo-1")
    assert (three.verdict.exit_code, three.verdict.cause) == (3, "ValueError: mine, and earlier")
    two.close()
    three.close()


def test_silence_is_named_then_a_loss_and_a_word_in_time_ends_it(
    loop: Loop, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listening, "BEAT", 0.05)
    monkeypatch.setattr(listening, "SILENCE", 0.5)
    heard = [Heard() for _ in HOSTS]
    hub, two, three = met(loop, port, *heard, timeout=3)
    turn(loop, lambda: any("nothing heard from algo-2" in said for said in heard[0].said), hub, three)
    turn(loop, lambda: "algo-2 is heard again" in heard[0].said, hub, two, three)
    assert not heard[0].ends
    turn(loop, lambda: bool(heard[0].ends), hub, three)
    assert any(said.startswith("lost algo-2: nothing was heard from it for") for said in heard[0].said)
    for one in (hub, two, three):
        one.close()


def test_the_missing_host_is_named_by_both_sides(loop: Loop, port: int) -> None:
    hub, spoke = hub_at(loop, port), spoke_at(loop, port, "algo-2")
    turn(loop, lambda: "still waiting" in spoke.missing(), spoke)
    turn(loop, lambda: hub.missing().startswith("algo-3 did not come"))
    assert not hub.complete
    hub.close()
    spoke.close()


def test_a_first_host_that_is_not_there_is_named_with_the_reason(loop: Loop, port: int) -> None:
    spoke = spoke_at(loop, port, "algo-2")
    turn(loop, lambda: "refused" in spoke.missing(), spoke)
    assert f"could not reach algo-1 (127.0.0.1:{port}): Connection refused" in spoke.missing()
    spoke.close()


def test_a_host_that_came_and_went_is_waited_for_again(loop: Loop, port: int) -> None:
    hub, first, other = hub_at(loop, port), spoke_at(loop, port, "algo-2"), spoke_at(loop, port, "algo-3")
    turn(loop, lambda: "algo-2" not in hub.missing(), first)
    first.close()
    turn(loop, lambda: not hub.complete and "algo-2" in hub.missing())
    again = spoke_at(loop, port, "algo-2")
    turn(loop, lambda: hub.complete, again, other)
    for one in (hub, again, other):
        one.close()


def test_a_host_that_cannot_start_tells_those_that_wait(loop: Loop, port: int) -> None:
    heard = [Heard() for _ in range(2)]
    hub, two = hub_at(loop, port, heard=heard[0]), spoke_at(loop, port, "algo-2", heard=heard[1])
    turn(loop, lambda: "algo-2" not in hub.missing(), two)
    two.done(end("algo-2", 66, "there is no script"))
    turn(loop, lambda: bool(heard[0].ends))
    hub.done(end("algo-1"))
    turn(loop, lambda: bool(two.verdict))
    assert hub.verdict == two.verdict
    assert hub.verdict is not None
    assert (hub.verdict.exit_code, hub.verdict.cause) == (66, "there is no script")
    hub.close()
    two.close()


def test_another_jobs_host_is_refused_with_the_reason(loop: Loop, port: int) -> None:
    hub, stranger = hub_at(loop, port), spoke_at(loop, port, "algo-2", name="other")
    with pytest.raises(PeerLost, match=r"algo-1 refused algo-2: algo-1 runs job 'job': two jobs share the port"):
        turn(loop, lambda: stranger.complete, stranger)
    hub.close()
    stranger.close()


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\xff\x00\n",
        b"[1, 2]\n",
        b"x" * 3_000_000,
        b"",
        b'{"trainkit": 9, "host": "algo-2"}\n',
    ],
)
def test_garbage_is_cut_off_and_the_hosts_still_meet(loop: Loop, port: int, sent: bytes) -> None:
    hub = hub_at(loop, port)
    spokes = [spoke_at(loop, port, host) for host in HOSTS[1:]]

    def talk() -> None:
        with socket.create_connection(("127.0.0.1", port)) as stranger:
            stranger.settimeout(30)
            try:
                stranger.sendall(sent)
                stranger.shutdown(socket.SHUT_WR)
                stranger.recv(100)
            except ConnectionError:
                pass

    thread = threading.Thread(target=talk)
    thread.start()
    turn(loop, lambda: not thread.is_alive())
    turn(loop, lambda: hub.complete, *spokes)
    for one in (hub, *spokes):
        one.close()
    thread.join()


@contextmanager
def taken(port: int) -> Iterator[None]:
    with socket.create_server(("127.0.0.1", port)):
        yield


def test_a_taken_port_is_said_to_be_taken(loop: Loop, port: int) -> None:
    with taken(port), pytest.raises(TrainkitError, match=r"cannot listen at .* Set TRAINKIT_PORT"):
        hub_at(loop, port)


def test_messages_are_json_lines(loop: Loop, port: int) -> None:
    hub = hub_at(loop, port)
    with socket.create_connection(("127.0.0.1", port)) as raw:
        raw.sendall(json.dumps({"trainkit": 2, "job": "job", "host": "algo-2", "procs": 1}).encode() + b"\n")
        raw.setblocking(False)
        answer = b""

        def answered() -> bool:
            nonlocal answer
            try:
                answer += raw.recv(4096)
            except BlockingIOError:
                pass
            return answer.endswith(b"\n")

        turn(loop, answered)
    assert "speaks version 1" in json.loads(answer)["refused"]
    hub.close()
