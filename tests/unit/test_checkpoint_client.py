"""Ranks with their writers as real processes: whatever is killed or full, nothing is called saved that is not."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from trainkit.checkpoint import choose, image, plan, tiers
from trainkit.checkpoint.assignment import Assignment, Place
from trainkit.checkpoint.boxes import Box
from trainkit.checkpoint.client import Answer, Client, End, Staged, new_key
from trainkit.checkpoint.line import Line
from trainkit.checkpoint.loop import Loop
from trainkit.checkpoint.plan import Held, Holdings
from trainkit.checkpoint.read import Reader, Wanted
from trainkit.checkpoint.retain import Retention
from trainkit.checkpoint.schedule import Schedule
from trainkit.contract.seal import Seal

PATIENCE = 60.0
SHAPE = (256, 512)


class Job:
    """Ranks that save at every step, in lockstep, each in a thread. A tensor's bytes are all the step's."""

    def __init__(self, *places: Sequence[str], ranks: int = 2) -> None:
        """`places[rank]`: its tiers; those of the last one hold for all others."""
        self.ranks = ranks
        whole = Box.whole(SHAPE)
        boxes = tuple((box, (rank,)) for rank, box in enumerate(whole.split(ranks)))
        self.plan = plan.make([Held("w", "U8", SHAPE, Holdings(boxes))], host_of=[0] * ranks, copies=False)
        self.clients = [
            Client(
                Assignment(
                    rank, "job", ("host",), (0,) * ranks, tuple(map(Place, places[min(rank, len(places) - 1)])),
                    Schedule(every=1), Retention(last=2),
                )
            )
            for rank in range(ranks)
        ]  # fmt: skip
        self.key = new_key()
        self.port = self.clients[0].listen(self.key)
        for client in self.clients[1:]:
            client.connect("127.0.0.1", self.port, self.key)
        self._agreed = [False] * ranks

    def save(self, step: int) -> list[tuple[Answer, End | None]]:
        """All ranks: what they were answered, and what they heard of the end."""

        def one(rank: int) -> tuple[Answer, End | None]:
            answer = self.stage(rank, step)
            end = self.clients[rank].end_of(answer.attempt, patience=PATIENCE) if answer.attempt else None
            return answer, end

        with ThreadPoolExecutor(self.ranks) as pool:
            return list(pool.map(one, range(self.ranks)))

    def stage(self, rank: int, step: int) -> Answer:
        client = self.clients[rank]
        answer = client.ask(step)
        if answer.attempt:
            if not self._agreed[rank] and (why := client.agree(answer.attempt, self.plan, waiting=lambda: None)):
                client.unable(answer.attempt, why)
                return answer
            self._agreed[rank] = True
            whole = image.of(self.plan, rank)
            memory = client.room(whole.size + 100).memory
            memory[: len(whole.header)] = whole.header
            memory[len(whole.header) : whole.size] = bytes([step]) * (whole.size - len(whole.header))
            memory[whole.size : whole.size + 5] = b"state"
            client.staged(
                answer.attempt, step, self.plan,
                [Staged(image.file_name(rank), [(0, whole.size)], len(whole.header)),
                 Staged(image.state_name(rank), [(whole.size, 5)])],
            )  # fmt: skip
        return answer

    def until_saved(self, step: int) -> int:
        """Step on until a save is committed. Returns the step."""
        deadline = time.monotonic() + PATIENCE
        while not all(end and end.committed for _, end in self.save(step)):
            assert time.monotonic() < deadline, "no save is committed any more"
            step += 1
        return step

    def close(self) -> None:
        """Let the writers go, and see them end."""
        processes = [client._process for client in self.clients]
        for client in self.clients:
            client.close()
        for process in processes:
            assert process.wait(PATIENCE) in (0, -signal.SIGKILL), process.stderr and process.stderr.read()
            if process.stderr:
                process.stderr.close()


@contextmanager
def job(*places: Sequence[str], ranks: int = 2) -> Iterator[Job]:
    made = Job(*places, ranks=ranks)
    try:
        yield made
    finally:
        made.close()


def found(place: str | Path) -> int | None:
    """The step that a restart finds there, each byte of it right."""
    tier = tiers.of(str(place))
    choice = choose.choose([tier])
    if choice.manifest is None:
        return None
    whole, got = choice.manifest, set[int]()
    present = next(set(one.sizes) for one in tier.list() if one.directory == whole.directory)
    Reader(whole, [tier], [present]).read([Wanted("w", Box.whole(SHAPE), lambda _, part: got.update(part.flat))])
    assert got == {whole.step}
    return whole.step


def left(place: Path, *, step: int) -> list[str]:
    """The files of an attempt of this step."""
    return sorted(path.name for folder in place.glob(f"step-{step:09d}.*") for path in folder.iterdir())


def wait_until(met: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not met():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def kill(client: Client) -> None:
    os.kill(client.pid, signal.SIGKILL)
    client._process.wait(PATIENCE)


def test_a_killed_writer_is_started_anew_and_the_next_save_is_committed(tmp_path: Path) -> None:
    with job([str(tmp_path)]) as running:
        assert running.until_saved(1) == 1
        kill(running.clients[1])
        last = running.until_saved(2)
        assert found(tmp_path) == last
        (remark,) = running.clients[1].remarks
        assert remark == "the process that writes checkpoints ended (exit code -9); another one was started"


def test_a_save_whose_writer_is_killed_fails_on_all_ranks_and_they_hear_why(tmp_path: Path) -> None:
    with job([str(tmp_path)]) as running:
        running.until_saved(1)
        os.kill(running.clients[1].pid, signal.SIGSTOP)
        answer = running.stage(0, 2)
        running.clients[1].staged(answer.attempt or "", 2, running.plan, [])  # it hears no answer from who is stopped
        kill(running.clients[1])
        assert answer.attempt
        ends = [client.end_of(answer.attempt, patience=PATIENCE) for client in running.clients]
        assert ends[0] is not None
        assert ends[0].failed == {0: "the writer of rank 1 is gone"}
        assert not ends[0].committed
        wait_until(lambda: bool(running.clients[1].news()))
        running.until_saved(3)
        assert left(tmp_path, step=2) == [] or found(tmp_path) == 3


def test_a_save_whose_writer_is_killed_while_the_rank_copies_its_state_has_an_end(tmp_path: Path) -> None:
    """The rank is told so by nobody: it must not wait for it when it closes."""
    with job([str(tmp_path)]) as running:
        running.until_saved(1)
        client = running.clients[1]
        answer = client.ask(2)
        assert answer.attempt
        kill(client)
        client.staged(answer.attempt, 2, running.plan, [])
        client.ask(3)
        end = client.end_of(answer.attempt, patience=PATIENCE)
        assert end
        assert end.failed == {0: "the process that writes checkpoints ended"}
        running.until_saved(4)


def test_a_save_whose_writer_is_killed_just_before_the_next_question_has_an_end(tmp_path: Path) -> None:
    with job([str(tmp_path)]) as running:
        running.until_saved(1)
        answer = running.stage(1, 2)
        assert answer.attempt
        kill(running.clients[1])
        running.clients[1].ask(3)
        assert running.clients[1].end_of(answer.attempt, patience=PATIENCE)


def test_what_is_staged_after_the_coordinator_s_end_has_an_end_and_holds_up_no_writer(tmp_path: Path) -> None:
    with job([str(tmp_path)]) as running:
        running.until_saved(1)
        client = running.clients[1]
        answer = client.ask(2)
        assert answer.attempt
        kill(running.clients[0])
        wait_until(lambda: (client._read(), any("alone" in message for message in client._waiting))[1])
        client.staged(answer.attempt, 2, running.plan, [])
        end = client.end_of(answer.attempt, patience=PATIENCE)
        assert end
        assert end.failed == {0: "the checkpoints' coordinator on 127.0.0.1 is gone"}


def test_a_writer_that_comes_again_before_its_end_is_heard_costs_that_save_only(tmp_path: Path) -> None:
    """As where a cut wire swallowed the end of its connection."""
    with job([str(tmp_path)]) as running:
        running.until_saved(1)
        answer = running.clients[0].ask(2)
        assert answer.attempt
        with socket.create_connection(("127.0.0.1", running.port)) as connection:
            line = Line(connection)
            introduce(line, running.key, rank=1)
            wait_until(lambda: any("welcome" in message for message in line.receive()))
            running.clients[0].unable(answer.attempt, "no memory")
            end = running.clients[0].end_of(answer.attempt, patience=PATIENCE)
            assert end
            assert end.failed == {0: "the writer of rank 1 is gone"}
        running.until_saved(3)


def test_a_writer_that_says_much_is_not_held_up_and_its_last_words_are_heard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No library that it uses can stop it by its warnings."""
    talker = tmp_path / "talker"
    talker.mkdir()
    (talker / "sitecustomize.py").write_text("import sys\nsys.stderr.write('a word\\n' * 100_000)\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(talker), os.environ.get("PYTHONPATH", "")]))
    with job([str(tmp_path / "place")], ranks=1) as running:
        assert running.until_saved(1) == 1
        kill(running.clients[0])
        running.until_saved(2)
        (remark,) = running.clients[0].remarks
        assert remark == "the process that writes checkpoints ended (exit code -9, a word); another one was started"


def test_of_two_arenas_that_come_at_once_the_later_one_is_what_is_written(tmp_path: Path) -> None:
    with job([str(tmp_path)], ranks=1) as running:
        (client,) = running.clients
        os.kill(client.pid, signal.SIGSTOP)
        for size in (1, 1 << 20):
            client.room(size)
        os.kill(client.pid, signal.SIGCONT)
        assert running.until_saved(1) == 1
        assert found(tmp_path) == 1


def test_a_coordinator_that_stands_still_holds_up_one_question_and_not_each_step(tmp_path: Path) -> None:
    with job([str(tmp_path)]) as running:
        running.save(1)
        other, stopped = running.clients[1], running.clients[0].pid
        os.kill(stopped, signal.SIGSTOP)
        try:
            assert "gave no answer within 0.2 s" in str(other.ask(2, patience=0.2).why)
            began = time.monotonic()
            assert [other.ask(step, patience=PATIENCE).why for step in (3, 4)] == [
                "the process that writes checkpoints did not answer"
            ] * 2
            assert time.monotonic() - began < PATIENCE
        finally:
            os.kill(stopped, signal.SIGCONT)
        with ThreadPoolExecutor(2) as pool:  # a stop asks in any case
            attempts = {answer.attempt for answer in pool.map(lambda one: one.ask(5, must=True), running.clients)}
        assert None not in attempts
        assert len(attempts) == 1


def test_without_the_coordinator_others_go_on_and_say_why_until_it_is_there_again(tmp_path: Path) -> None:
    with job([str(tmp_path)], ranks=3) as running:
        running.until_saved(1)
        kill(running.clients[0])
        answer = running.clients[1].ask(2)
        assert answer.attempt is None
        assert answer.why
        assert "coordinator on 127.0.0.1" in answer.why
        assert answer.next == 3
        last = running.until_saved(3)
        assert found(tmp_path) == last
        assert last < 20, "it takes them many steps to find each other again"


def test_what_is_staged_is_committed_though_all_ranks_are_gone(tmp_path: Path) -> None:
    with job([str(tmp_path)]) as running:
        running.until_saved(1)
        assert all(running.stage(rank, 2).attempt for rank in (0, 1))
    assert found(tmp_path) == 2


def test_a_rank_that_goes_before_it_has_staged_leaves_no_writer_behind(tmp_path: Path) -> None:
    with job([str(tmp_path)]) as running:
        running.until_saved(1)
        assert running.stage(1, 2).attempt
    assert found(tmp_path) == 1


def test_a_disk_that_is_full_fails_the_save_leaves_no_file_and_harms_no_later_one(tmp_path: Path) -> None:
    with job([str(tmp_path)]) as running:
        running.until_saved(1)
        _, hard = resource.prlimit(running.clients[1].pid, resource.RLIMIT_FSIZE)
        resource.prlimit(running.clients[1].pid, resource.RLIMIT_FSIZE, (20_000, hard))
        for _, end in running.save(2):
            assert end is not None
            assert end.committed == {}
            assert "r00001.safetensors: cannot write it: File too large" in end.failed[0]
        wait_until(lambda: left(tmp_path, step=2) == [])
        assert found(tmp_path) == 1
        resource.prlimit(running.clients[1].pid, resource.RLIMIT_FSIZE, (hard, hard))
        assert running.until_saved(3) == 3
        assert [client.remarks for client in running.clients] == [[], []]


def test_one_place_that_fails_does_not_cost_the_other(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    good, broken, whole = str(tmp_path / "good"), str(tmp_path / "file/below"), f"file://{tmp_path}/whole"
    with job([good, whole], [broken, whole]) as running:
        for _, end in running.save(1):
            assert end is not None
            assert set(end.committed) == {1}
            assert "cannot write it: Not a directory" in end.failed[0]
        assert found(whole) == 1
        # What the other rank had written there is taken back, though it went on to the second place.
        wait_until(lambda: left(tmp_path / "good", step=1) == [])
        assert running.until_saved(2) == 2


def test_files_of_failed_saves_do_not_pile_up(tmp_path: Path) -> None:
    """A killed writer cannot take back what it wrote: retention does, once a later save is committed."""
    with job([str(tmp_path)]) as running:
        step = running.until_saved(1)
        for _ in range(2):
            assert all(running.stage(rank, step + 1).attempt for rank in (0, 1))
            for client in running.clients[1:]:
                kill(client)
            step = running.until_saved(step + 2)
        step = running.until_saved(running.until_saved(step + 1) + 1)
        wait_until(lambda: len(list(tmp_path.glob("step-*"))) == 2)
        assert found(tmp_path) == step


def frame(message: bytes) -> bytes:
    return struct.pack("<I", len(message)) + message


def introduce(line: Line, key: bytes, *, rank: int) -> None:
    """Say to the coordinator that this is the writer of that rank."""
    heard: list[dict[str, Any]] = []
    line.send({"nonce": "mine"})
    wait_until(lambda: bool(heard.extend(line.receive()) or heard))
    line.seal_with(Seal(key, "mine", heard[0]["nonce"], first=False))
    line.send({"here": rank})


def test_strangers_at_the_coordinator_s_door_do_no_harm(tmp_path: Path) -> None:
    dice = random.Random(1)
    with job([str(tmp_path)]) as running:
        running.until_saved(1)
        connections = []

        def knock(*words: bytes) -> socket.socket:
            connection = socket.create_connection(("127.0.0.1", running.port))
            connections.append(connection)
            for word in words:
                connection.sendall(word)
            return connection

        knock()  # and says nothing
        knock(dice.randbytes(50_000))
        knock(struct.pack("<I", 1 << 30))
        knock(frame(b"{"), frame(b"[]"))
        knock(frame(b"[" * 4000))
        knock(frame(b'{"here": 1}'))
        knock(frame(b'{"say": "ask", "step": 5, "must": true}'))
        knock(frame(json.dumps({"nonce": "\ud800" * 100}).encode()), frame(b'{"here": 1}'))
        for _ in range(30):
            knock(frame(b'{"nonce": "x"}'), dice.randbytes(100))
        # Sealed with another key; and with the right one, by nobody who has a rank; and said twice.
        for key, here in ((new_key(), 1), (running.key, 7), (running.key, 0), (running.key, True)):
            line = Line(knock())
            introduce(line, key, rank=here)
            wait_until(lambda line=line: not list(line.receive()) and line.closed)  # type: ignore[misc]
            line.close()
        assert running.save(2)[1][1] is not None
        assert found(tmp_path) == 2
        for connection in connections:
            connection.close()
        assert running.until_saved(3) == 3


def test_a_flood_from_a_stranger_is_cut_off(tmp_path: Path) -> None:
    with job([str(tmp_path)]) as running:
        with socket.create_connection(("127.0.0.1", running.port)) as connection:
            connection.settimeout(PATIENCE)
            with pytest.raises(OSError, match=r"reset|Broken pipe"):
                while True:
                    connection.sendall(b"\xff" * (1 << 20))
        assert running.until_saved(1) == 1


def test_a_training_with_thousands_of_open_files_can_save(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 3000:
        pytest.skip("too few descriptors are allowed here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (3000, hard))
    opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    try:
        with job([str(tmp_path)], ranks=1) as running:
            assert running.until_saved(1) == 1
            assert resource.prlimit(running.clients[0].pid, resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        for descriptor in opened:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_line_that_was_closed_by_what_came_before_it_in_a_turn_is_left_alone() -> None:
    """As where a writer comes again while the end of the one before it waits to be heard."""
    loop, heard = Loop(), []
    pairs = [socket.socketpair() for _ in range(2)]
    lines = [Line(ours) for ours, _ in pairs]

    def drop(message: dict[str, object]) -> None:
        heard.append(message)
        for line in lines:
            loop.unwatch(line)

    for line in lines:
        loop.watch(line, drop, lambda: None)
    for _, theirs in pairs:
        theirs.sendall(frame(b'{"say": "x"}'))
    loop.turn(timeout=PATIENCE)
    assert heard == [{"say": "x"}]
    for _, theirs in pairs:
        theirs.close()
    loop._selector.close()
    for descriptor in (loop._told, loop._tell):
        os.close(descriptor)


def test_what_was_said_by_one_who_hears_nothing_any_more_is_heard() -> None:
    """A rank stages its last save and is gone, and its writer has something to tell it just then."""
    ours, theirs = socket.socketpair()
    line = Line(ours)
    theirs.sendall(frame(b'{"say": "staged"}'))
    theirs.close()
    line.send({"retired": 0})
    assert line.closed
    assert list(line.receive()) == [{"say": "staged"}]
    line.close()


def test_no_work_that_is_done_while_other_work_is_looked_at_is_lost() -> None:
    begun, half, go = threading.Event(), threading.Event(), threading.Event()

    class Slow(Loop):
        def __getattribute__(self, name: str) -> Any:
            """The first of two threads comes half of the way only, before the other one's work is looked at."""
            if name == "_finish" and not half.is_set():
                half.set()
                go.wait(PATIENCE)
            return super().__getattribute__(name)

    loop, done = Slow(), list[bool]()
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
        loop.later(one, lambda: begun.wait(PATIENCE), done.append)
        begun.set()
        assert half.wait(PATIENCE)
        loop.later(other, lambda: False, done.append)
        loop.turn(timeout=PATIENCE)
        assert done == [False]
        go.set()
        loop.turn(timeout=PATIENCE)
    assert done == [False, True]
    loop._selector.close()
    for descriptor in (loop._told, loop._tell):
        os.close(descriptor)
