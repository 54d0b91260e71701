"""The link between supervisors: real sockets, no ranks."""

from __future__ import annotations

import dataclasses
import json
import signal
import socket
import subprocess
import sys
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
from trainkit.contract.seal import key_for
from trainkit.contract.settings import Settings
from trainkit.errors import PeerLost, TrainkitError
from trainkit.launch.engines.base import free_port
from trainkit.launch.loop import Loop
from trainkit.launch.peers import Again, Ears, Hub, Spoke, door, listening, resolving
from trainkit.launch.peers import spoke as spokes_module
from trainkit.launch.peers.council import HostEnd
from trainkit.launch.preflight import Traits
from trainkit.launch.processes import children
from trainkit.launch.watch import Report
from trainkit.plan import launch
from trainkit.plan.launch import LaunchPlan
from trainkit.plan.machine import Machine
from trainkit.plan.script import Script

HOSTS = ("algo-1", "algo-2", "algo-3")
KEY = key_for({}, job="job", hosts=HOSTS)


@pytest.fixture
def port() -> int:
    return free_port(0)


def plan(
    here: str, port: int, *, procs: int = 1, name: str = "job", timeout: float = 30, first: str = "127.0.0.1"
) -> LaunchPlan:
    job = Job(
        name=name,
        paths=Paths(),
        cluster=Cluster(here, HOSTS),
        channels=(),
        hyperparameters=Hyperparameters({}),
        settings=Settings(port=port, procs=procs, engine="spawn", peer_timeout=timeout),
        checkpoints=Path("/tmp"),
        addresses=dict.fromkeys(HOSTS, "127.0.0.1") | {"algo-1": first},
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

        self.traits: Traits = {}
        self.again: list[Again] = []  # what the first host answers when all have ended

    def _end(self, lost: bool) -> None:
        self.ends += 1

    @property
    def ears(self) -> Ears:
        return Ears(
            end=self._end, stop=self.stops.append, agreed=self.agreed.append, say=self.said.append,
            report=Report, reported=lambda host, report: None, show=lambda: None,
            shown=lambda host, stances: None, again=lambda outcome: self.again.pop() if self.again else None,
            traits=self.traits,
        )  # fmt: skip


def hub_at(loop: Loop, port: int, *, heard: Heard | None = None, timeout: float = 30) -> Hub:
    return Hub(loop, plan("algo-1", port, timeout=timeout), (heard or Heard()).ears, key=KEY)


def spoke_at(
    loop: Loop,
    port: int,
    host: str,
    *,
    procs: int = 1,
    name: str = "job",
    heard: Heard | None = None,
    timeout: float = 30,
    key: bytes | None = None,
    first: str = "127.0.0.1",
) -> Spoke:
    facts = plan(host, port, procs=procs, name=name, timeout=timeout, first=first)
    return Spoke(loop, facts, (heard or Heard()).ears, key=key or KEY)


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


def test_a_host_that_is_busy_with_its_code_is_here_and_not_ready(loop: Loop, port: int) -> None:
    hub = hub_at(loop, port)
    second, third = (spoke_at(loop, port, host) for host in HOSTS[1:])
    second.prepare()
    turn(loop, lambda: hub.met and second.met and third.met, second, third)
    assert not hub.complete
    second.prepared()
    turn(loop, lambda: hub.complete, second, third)
    for one in (hub, second, third):
        one.close()


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


def test_the_first_host_says_where_the_others_are_not_like_it(loop: Loop, port: int) -> None:
    heard = [Heard() for _ in HOSTS]
    for one, torch, gpus in zip(heard, ("2.9.0", "2.9.0", "2.8.0"), (8, 8, 8), strict=True):
        one.traits = {"GPUs": gpus, "torch": torch}
    ends = met(loop, port, *heard)

    (said,) = heard[0].said
    assert said.startswith("warning: hosts have different versions of torch: 2.9.0 on algo-1, algo-2; 2.8.0 on algo-3")
    assert heard[1].said == []
    for one in ends:
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
            except OSError:
                pass  # cut off while it spoke

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
        raw.sendall(json.dumps({"trainkit": 1, "job": "job", "host": "algo-2", "procs": 1}).encode() + b"\n")
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
    assert "speaks version 3" in json.loads(answer)["refused"]
    hub.close()


class Middle:
    """Someone on the way between a host and the first: keeps what the host said, and may change it."""

    def __init__(self, loop: Loop, port: int) -> None:
        self._loop = loop
        self._first = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self.port = self._listener.getsockname()[1]
        self.said = b""
        self.change: Callable[[bytes], bytes] = bytes
        loop.watch(self._listener.fileno(), self._accept)

    def _accept(self) -> None:
        host, first = self._listener.accept()[0], socket.create_connection(("127.0.0.1", self._first))
        self._open += [host, first]
        self._loop.watch(host.fileno(), lambda: self._pass(host, first, keep=True))
        self._loop.watch(first.fileno(), lambda: self._pass(first, host, keep=False))

    def _pass(self, source: socket.socket, target: socket.socket, *, keep: bool) -> None:
        data = source.recv(65536)
        if data and keep:
            self.said += data
            data = self.change(data)
        if data:
            target.sendall(data)
            return
        for one in (source, target):
            if one in self._open:
                self._open.remove(one)
                self._loop.unwatch(one.fileno())
                one.close()

    def close(self) -> None:
        for one in (self._listener, *self._open):
            self._loop.unwatch(one.fileno())
            one.close()


class Stranger:
    """A raw connection to the first host."""

    def __init__(self, port: int, sent: bytes = b"") -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.sendall(sent)
        self.socket.setblocking(False)
        self.heard = b""

    @property
    def cut(self) -> bool:
        try:
            while data := self.socket.recv(4096):
                self.heard += data
        except BlockingIOError:
            return False
        except ConnectionError:
            pass
        return True


OTHER_LIST = "its list of hosts is not that of algo-1 (algo-1, algo-2, algo-3): compare resourceconfig.json on both"


def hello(host: str = "algo-2", **changed: object) -> bytes:
    facts = {"trainkit": 3, "job": "job", "host": host, "hosts": listening.listing(plan("algo-1", 1)), "nonce": "00"}
    return json.dumps({**facts, **changed}).encode() + b"\n"


def test_a_host_with_another_key_is_refused_and_told_what_to_do(loop: Loop, port: int) -> None:
    heard, key = Heard(), key_for({"TRAINKIT_CLUSTER_KEY": "correct horse battery"}, job="job", hosts=HOSTS)
    hub, other = hub_at(loop, port, heard=heard), spoke_at(loop, port, "algo-2", key=key)
    wanted = r"^algo-1 refused algo-2: the key of algo-2 .*TRAINKIT_CLUSTER_KEY.*; set it alike on all hosts$"
    with pytest.raises(PeerLost, match=wanted):
        turn(loop, lambda: other.complete, other)
    assert [said for said in heard.said if "TRAINKIT_CLUSTER_KEY" in said] == heard.said != []
    ours = [spoke_at(loop, port, host) for host in HOSTS[1:]]
    turn(loop, lambda: hub.complete, *ours)
    for one in (hub, other, *ours):
        one.close()


def test_whoever_answers_in_the_first_hosts_place_is_not_believed(loop: Loop, port: int) -> None:
    start = {"procs": dict.fromkeys(HOSTS, 1), "port": 1, "agent_store": True}
    for answer in (
        {"nonce": "00"},  # and then a seal that does not fit
        {"nonce": "00", **start},
        start,
    ):
        server = socket.create_server(("127.0.0.1", port))
        spoke = spoke_at(loop, port, "algo-2")
        turn(loop, lambda spoke=spoke: "does not answer" in spoke.missing(), spoke)
        connection, _ = server.accept()
        with server, connection:
            connection.sendall(json.dumps(answer).encode() + b"\n")
            connection.sendall(b"0" * 32 + b" " + json.dumps(start).encode() + b"\n")
            turn(loop, lambda spoke=spoke: not spoke.connected and spoke.next_try is not None)
        assert not spoke.complete
        assert "nonce" not in answer or "TRAINKIT_CLUSTER_KEY alike" in spoke.missing()
        spoke.close()


def test_a_handshake_that_was_recorded_opens_nothing_later(loop: Loop, port: int) -> None:
    hub, middle = hub_at(loop, port), Middle(loop, port)
    spoke = spoke_at(loop, middle.port, "algo-2")
    turn(loop, lambda: spoke.connected, spoke)
    spoke.close()
    turn(loop, lambda: "algo-2" in hub.missing())
    assert b"procs" in middle.said
    replay = Stranger(port, middle.said)
    turn(loop, lambda: replay.cut)
    assert b"TRAINKIT_CLUSTER_KEY" in replay.heard
    assert "algo-2, algo-3 did not come" in hub.missing()
    replay.socket.close()
    for one in (hub, middle):
        one.close()


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.replace(b"7", b"8"),
        lambda data: data + data,
        lambda data: b'{"failed": true}\n',
        lambda data: b"\n",
    ],
    ids=["changed", "said twice", "put in", "empty"],
)
def test_a_message_that_was_tampered_with_costs_its_host_the_link_and_nobody_else(
    loop: Loop, port: int, change: Callable[[bytes], bytes]
) -> None:
    heard = [Heard(), Heard()]
    hub, middle = hub_at(loop, port, heard=heard[0]), Middle(loop, port)
    two, three = spoke_at(loop, middle.port, "algo-2"), spoke_at(loop, port, "algo-3", heard=heard[1])
    turn(loop, lambda: hub.complete, two, three)
    hub.welcome(port=4242, agent_store=True)
    turn(loop, lambda: two.complete and three.complete)
    middle.change = change
    two.passed(7)
    turn(loop, lambda: bool(heard[0].said and heard[1].ends))
    assert heard[0].said == [
        "lost algo-2: a message came in its name that it did not send so: the link was tampered with"
    ]
    three.done(end("algo-3"))
    hub.done(end("algo-1"))
    turn(loop, lambda: bool(three.verdict))
    assert three.verdict is not None
    assert three.verdict.exit_code == 75
    for one in (hub, two, three, middle):
        one.close()


@pytest.mark.parametrize(
    "said", [{"passed": "x"}, {"passed": None}, {"stop": float("inf")}, {"beat": [0]}, {"stances": [1]}, {"done": {}}]
)
def test_a_host_that_talks_nonsense_is_lost(loop: Loop, port: int, said: dict[str, object]) -> None:
    heard = Heard()
    hub, two, three = met(loop, port, heard)
    two._send(said)
    turn(loop, lambda: bool(heard.ends))
    assert heard.said == ["lost algo-2: it said something that makes no sense"]
    for one in (hub, two, three):
        one.close()


def test_strangers_have_their_time_and_no_more(loop: Loop, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "STRANGER", 0.5)
    hub = hub_at(loop, port)
    silent, half_open, dribbling = Stranger(port), Stranger(port, hello()), Stranger(port, b"{")

    def all_cut() -> bool:
        try:
            dribbling.socket.send(b" ")
        except OSError:
            pass
        return all(one.cut for one in (silent, half_open, dribbling))

    turn(loop, all_cut, hub)
    assert json.loads(half_open.heard).keys() == {"nonce"}
    spokes = [spoke_at(loop, port, host) for host in HOSTS[1:]]  # the half-open one held nobody's place
    turn(loop, lambda: hub.complete, hub, *spokes)
    for stranger in (silent, half_open, dribbling):
        stranger.socket.close()
    for one in (hub, *spokes):
        one.close()


def test_a_crowd_of_strangers_makes_room_for_the_hosts(loop: Loop, port: int) -> None:
    hub = hub_at(loop, port)
    crowd = []
    for number in range(100):  # in steps, since the kernel's queue is short
        crowd.append(Stranger(port, hello(HOSTS[1 + number % 2])))
        loop.turn(until=time.monotonic())
    spokes = [spoke_at(loop, port, host) for host in HOSTS[1:]]
    turn(loop, lambda: hub.complete, *spokes)
    turn(loop, lambda: sum(one.cut for one in crowd) >= 100 - 70)
    assert not crowd[-1].cut
    for stranger in crowd:
        stranger.socket.close()
    for one in (hub, *spokes):
        one.close()


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        (hello("algo-1"), "algo-1 expects no 'algo-1' now, or has met it already"),
        (hello("algo-9"), "algo-1 expects no 'algo-9' now, or has met it already"),
        (hello(host=["algo-2"]), "algo-1 expects no ['algo-2'] now, or has met it already"),
        (hello(nonce=None), "that is no greeting"),
        (hello(hosts="9 hosts, 00000000"), OTHER_LIST),
        (hello(procs="x" * 4096), None),
        (b"x" * 4097, None),
        (b'{"beat": true}\n', None),
        (b'{"failed": true}\n' + hello(), None),
        (hello(job="other", nonce=None), "algo-1 runs job 'job': two jobs share the port; set TRAINKIT_PORT"),
    ],
)
def test_a_stranger_is_refused_in_words_it_can_read_or_cut_off_without(
    loop: Loop, port: int, sent: bytes, why: str | None
) -> None:
    hub, stranger = hub_at(loop, port), Stranger(port, sent)
    turn(loop, lambda: stranger.cut)
    assert stranger.heard == (json.dumps({"refused": why}).encode() + b"\n" if why else b"")
    stranger.socket.close()
    hub.close()


def test_a_host_that_is_here_already_is_not_met_twice(loop: Loop, port: int) -> None:
    hub, two = hub_at(loop, port), spoke_at(loop, port, "algo-2")
    turn(loop, lambda: two.connected, two)
    again = spoke_at(loop, port, "algo-2")
    with pytest.raises(PeerLost, match=r"algo-1 expects no 'algo-2' now, or has met it already"):
        turn(loop, lambda: again.complete, again)
    assert two.connected
    for one in (hub, two, again):
        one.close()


def test_a_listener_that_never_answers_is_given_up_and_tried_again(
    loop: Loop, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spokes_module, "PATIENCE", 0.3)
    spoke = spoke_at(loop, port, "algo-2")
    with taken(port):
        turn(loop, lambda: "what listens there does not answer as a first host does" in spoke.missing(), spoke)
        turn(loop, lambda: spoke.next_try is not None, spoke)
    hub = hub_at(loop, port)
    turn(loop, lambda: spoke.connected, spoke)
    spoke.close()
    hub.close()


def test_what_is_said_during_the_greetings_is_heard_after_them(loop: Loop, port: int) -> None:
    heard = Heard()
    hub, two = hub_at(loop, port, heard=heard), spoke_at(loop, port, "algo-2")
    turn(loop, lambda: "does not answer" in two.missing(), two)
    assert not two.connected
    two.done(end("algo-2", 66, "there is no script"))
    turn(loop, lambda: bool(heard.ends))
    hub.close()
    two.close()


def test_a_host_that_has_ended_does_not_wait_for_a_first_host_that_is_gone(loop: Loop, port: int) -> None:
    hub, two = hub_at(loop, port), spoke_at(loop, port, "algo-2")
    turn(loop, lambda: two.connected, two)
    two.done(end("algo-2", 66, "there is no script"))
    hub.close()
    turn(loop, lambda: two.verdict is not None)
    assert two.verdict is not None
    assert (two.verdict.exit_code, two.verdict.cause) == (66, "there is no script")
    two.close()


def test_names_are_looked_up_in_a_child(loop: Loop, port: int) -> None:
    before = set(children())  # other tests' servers
    hub = hub_at(loop, port)
    spokes = [spoke_at(loop, port, host, first="localhost") for host in HOSTS[1:]]
    turn(loop, lambda: hub.complete, *spokes)
    for one in (hub, *spokes):
        one.close()
    assert set(children()) <= before


@pytest.mark.parametrize("name", ["algo-1.invalid", "x" * 64])
def test_a_name_that_nobody_knows_is_the_reason(loop: Loop, port: int, name: str) -> None:
    spoke = spoke_at(loop, port, "algo-2", first=name)
    turn(loop, lambda: "the name does not resolve (" in spoke.missing(), spoke)
    assert "the look-up was killed" not in spoke.missing()
    spoke.close()


def test_a_look_up_that_hangs_holds_up_nothing_and_is_left_behind_by_nobody(
    loop: Loop, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A name server that does not answer; the child is real.
    before = set(children())
    monkeypatch.setattr(resolving, "resolve", lambda host: signal.pause())
    spoke = spoke_at(loop, port, "algo-2", first="algo-1")
    began = time.monotonic()
    spoke.attempt()
    loop.turn(until=time.monotonic())
    assert time.monotonic() - began < 5
    assert "its name is still being looked up" in spoke.missing()
    assert spoke.next_try is None
    spoke.close()
    assert set(children()) <= before


OUT_OF_DESCRIPTORS = """
import os, resource, sys, time
sys.path.insert(0, sys.argv[1])
from unit.test_launch_peers import Heard, Loop, hub_at, spoke_at, turn

resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
with Loop(on_signal=lambda number: None) as loop:
    heard, port = Heard(), int(sys.argv[2])
    hub, spokes = hub_at(loop, port, heard=heard), [spoke_at(loop, port, host) for host in ("algo-2", "algo-3")]
    for spoke in spokes:
        spoke.attempt()
    taken = []
    try:
        while True:
            taken.append(os.dup(0))
    except OSError:
        pass
    turns, used = 0, time.process_time()
    until = time.monotonic() + 2.5
    while (now := time.monotonic()) < until:
        hub.tick()
        loop.turn(until=min(until, hub.next_tick))
        turns += 1
    print(turns, time.process_time() - used, heard.said, flush=True)
    for descriptor in taken:
        os.close(descriptor)
    turn(loop, lambda: hub.complete, hub, *spokes)
    print("met")
"""


def test_a_first_host_that_is_out_of_descriptors_waits_and_does_not_spin(port: int) -> None:
    tests = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", OUT_OF_DESCRIPTORS, str(tests), str(port)],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    seen, met_at_last = done.stdout.splitlines()
    turns, used = seen.split()[:2]
    assert int(turns) < 20
    assert float(used) < 0.5
    assert seen.count("cannot take a connection: Too many open files") == 1
    assert met_at_last == "met"


def next_generation(hub: Hub) -> Again:
    assert hub.meeting is not None
    return Again(dataclasses.replace(hub.meeting, port=4711, generation=hub.generation + 1), "starting again")


def failed_everywhere(hub: Hub, *spokes: Spoke) -> None:
    for number, spoke in enumerate(spokes, 2):
        spoke.done(end(f"algo-{number}", 1, "ValueError: x"))
    hub.done(end("algo-1"))


def test_all_hosts_start_again_together_and_are_asked_anew_how_it_ended(loop: Loop, port: int) -> None:
    heard = [Heard() for _ in HOSTS]
    hub, two, three = met(loop, port, *heard)
    heard[0].again = [next_generation(hub)]
    failed_everywhere(hub, two, three)
    turn(loop, lambda: two.generation == three.generation == 1)
    assert [one.meeting.port for one in (hub, two, three) if one.meeting] == [4711] * 3
    assert "starting again" in heard[1].said
    assert not (hub.ending or two.ending or three.ending)
    assert hub.verdict is None
    for one, name in ((hub, "algo-1"), (two, "algo-2"), (three, "algo-3")):
        one.done(end(name))
    turn(loop, lambda: bool(hub.verdict and two.verdict and three.verdict))
    for one in (hub, two, three):
        assert one.verdict is not None
        assert one.verdict.failure is None
        one.close()


def test_nobody_starts_again_where_a_host_is_gone_even_if_it_had_ended_first(loop: Loop, port: int) -> None:
    heard = [Heard() for _ in HOSTS]
    hub, two, three = met(loop, port, *heard)
    heard[0].again = [next_generation(hub)]
    three.done(end("algo-3", 1, "ValueError: x"))
    turn(loop, lambda: hub.ending)
    three.close()
    two.done(end("algo-2"))
    hub.done(end("algo-1"))
    turn(loop, lambda: bool(hub.verdict and two.verdict))
    assert hub.verdict is not None
    assert hub.verdict.cause == "ValueError: x"
    assert heard[0].again, "nobody asked for another generation"
    hub.close()
    two.close()


def test_an_end_that_comes_together_with_the_meeting_is_that_meetings(loop: Loop, port: int) -> None:
    heard = [Heard() for _ in HOSTS]
    hub, two, three = met(loop, port, *heard)
    heard[0].again = [next_generation(hub)]
    failed_everywhere(hub, two, three)
    while hub.generation == 0:
        loop.turn(until=time.monotonic() + 1)
    hub.failed()  # in the same turn, so that the others may read both at once
    turn(loop, lambda: two.generation == three.generation == 1 and two.ending and three.ending)
    for one in (hub, two, three):
        one.close()


def test_what_is_said_of_an_earlier_generation_is_not_heard(loop: Loop, port: int) -> None:
    heard = [Heard() for _ in HOSTS]
    hub, two, three = met(loop, port, *heard)
    heard[0].again = [next_generation(hub)]
    failed_everywhere(hub, two, three)
    turn(loop, lambda: two.generation == three.generation == 1)
    stale = two._wire
    assert stale is not None
    for message in ({"failed": True}, {"passed": 9000}, {"done": end("algo-2", 1, "KeyError: old").message()}):
        stale.send({**message, "generation": 0})
    for one, count in ((hub, 3), (two, 4), (three, 5)):
        one.passed(count)
    turn(loop, lambda: all(h.agreed for h in heard))
    assert [h.agreed for h in heard] == [[5]] * 3
    assert not hub.ending
    for one in (hub, two, three):
        one.close()


def test_a_stop_that_crosses_with_a_restart_is_heard_by_all_the_same(loop: Loop, port: int) -> None:
    heard = [Heard() for _ in HOSTS]
    hub, two, three = met(loop, port, *heard)
    heard[0].again = [next_generation(hub)]
    failed_everywhere(hub, two, three)
    while hub.generation == 0:
        loop.turn(until=time.monotonic() + 1)
    # As from before it has read that all start again: the job is what is told to stop, and not its ranks of then.
    assert two._wire is not None
    two._wire.send({"stop": signal.SIGTERM, "generation": 0})
    turn(loop, lambda: all(h.stops for h in (heard[0], heard[2])))
    for one in (hub, two, three):
        one.close()


@pytest.mark.parametrize(
    "message", [{"passed": 1 << 70}, {"beat": [float("nan"), 1, {}], "now": 1}, {"stances": [[0] * 3]}]
)
def test_numbers_that_cannot_be_do_no_harm(loop: Loop, port: int, message: dict[str, object]) -> None:
    heard = [Heard() for _ in HOSTS]
    hub, two, three = met(loop, port, *heard)
    assert two._wire is not None
    two._wire.send(message)
    hub.passed(1)
    three.passed(1)
    turn(loop, lambda: bool(heard[0].agreed or any("lost algo-2" in said for said in heard[0].said)))
    assert heard[0].agreed in ([], [(1 << 62)])
    for one in (hub, two, three):
        one.close()
