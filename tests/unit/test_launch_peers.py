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
from trainkit.launch.peers import Hub, Spoke
from trainkit.plan import launch
from trainkit.plan.launch import LaunchPlan
from trainkit.plan.machine import Machine
from trainkit.plan.script import Script

HOSTS = ("algo-1", "algo-2", "algo-3")


@pytest.fixture
def port() -> int:
    return free_port(0)


def plan(here: str, port: int, *, procs: int = 1, name: str = "job") -> LaunchPlan:
    job = Job(
        name=name,
        paths=Paths(),
        cluster=Cluster(here, HOSTS),
        channels=(),
        hyperparameters=Hyperparameters({}),
        settings=Settings(port=port, procs=procs, engine="spawn"),
        checkpoints=Path("/tmp"),
        addresses=dict.fromkeys(HOSTS, "127.0.0.1"),
    )
    machine = Machine(cpus=1, gpus=0, interfaces=("lo",), efa=0)
    return launch.make(job, machine=machine, script=Script(Path("/x.py"), Path("/")), environ={})


@pytest.fixture
def loop() -> Iterator[Loop]:
    with Loop(on_signal=lambda number: None) as loop:
        yield loop


def turn(loop: Loop, until: Callable[[], bool], *spokes: Spoke) -> None:
    """Turn the loop until something holds."""
    deadline = time.monotonic() + 30
    while not until():
        assert time.monotonic() < deadline
        for spoke in spokes:
            spoke.attempt()
        loop.turn(until=min([time.monotonic() + 0.05, *(s.next_try or deadline for s in spokes)]))


def test_hosts_meet_in_any_order_and_learn_the_same(loop: Loop, port: int) -> None:
    late, later = Spoke(loop, plan("algo-3", port, procs=2)), Spoke(loop, plan("algo-2", port, procs=3))
    late.attempt()  # nobody listens yet
    hub = Hub(loop, plan("algo-1", port))
    turn(loop, lambda: hub.complete, late, later)
    meeting = hub.welcome(port=4242, agent_store=True)
    turn(loop, lambda: late.complete and later.complete)
    assert meeting == late.meeting == later.meeting
    assert (meeting.world.procs, meeting.port, meeting.agent_store) == ((1, 3, 2), 4242, True)

    late.done(0)
    loop.turn(until=time.monotonic() + 0.2)
    assert not hub.may_leave
    later.done(0)
    turn(loop, lambda: hub.may_leave)
    assert not late.may_leave
    hub.close()
    turn(loop, lambda: late.may_leave and later.may_leave)
    late.close()
    later.close()


def test_the_missing_host_is_named_by_both_sides(loop: Loop, port: int) -> None:
    hub, spoke = Hub(loop, plan("algo-1", port)), Spoke(loop, plan("algo-2", port))
    turn(loop, lambda: "still waiting" in spoke.missing(), spoke)
    loop.turn(until=time.monotonic() + 0.2)
    assert not hub.complete
    assert hub.missing().startswith("algo-3 did not come")
    hub.close()
    spoke.close()


def test_a_first_host_that_is_not_there_is_named_with_the_reason(loop: Loop, port: int) -> None:
    spoke = Spoke(loop, plan("algo-2", port))
    turn(loop, lambda: "refused" in spoke.missing(), spoke)
    assert f"could not reach algo-1 (127.0.0.1:{port}): Connection refused" in spoke.missing()
    spoke.close()


def test_a_host_that_came_and_went_is_waited_for_again(loop: Loop, port: int) -> None:
    hub, first = Hub(loop, plan("algo-1", port)), Spoke(loop, plan("algo-2", port))
    other = Spoke(loop, plan("algo-3", port))
    turn(loop, lambda: "algo-3 did" in hub.missing(), first)
    first.close()
    turn(loop, lambda: not hub.complete and "algo-2" in hub.missing())
    again = Spoke(loop, plan("algo-2", port))
    turn(loop, lambda: hub.complete, again, other)
    for end in (hub, again, other):
        end.close()


def test_another_jobs_host_is_refused_with_the_reason(loop: Loop, port: int) -> None:
    hub, stranger = Hub(loop, plan("algo-1", port)), Spoke(loop, plan("algo-2", port, name="other"))
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
    hub = Hub(loop, plan("algo-1", port))
    spokes = [Spoke(loop, plan(host, port)) for host in HOSTS[1:]]

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
    for end in (hub, *spokes):
        end.close()
    thread.join()


@contextmanager
def taken(port: int) -> Iterator[None]:
    with socket.create_server(("127.0.0.1", port)):
        yield


def test_a_taken_port_is_said_to_be_taken(loop: Loop, port: int) -> None:
    with taken(port), pytest.raises(TrainkitError, match=r"cannot listen at .* Set TRAINKIT_PORT"):
        Hub(loop, plan("algo-1", port))


def test_messages_are_json_lines(loop: Loop, port: int) -> None:
    hub = Hub(loop, plan("algo-1", port))
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
