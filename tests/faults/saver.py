"""A rank that trains nothing and saves all the time: whatever it saves says of every element what it is.

    value of an element = step, life (the ranks were killed and started again), tensor, place in the tensor

So a checkpoint that is torn, or mixed from two, shows in its first wrong element. No torch, no numpy.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
import time
import traceback
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from trainkit.checkpoint import image, plan
from trainkit.checkpoint.assignment import Assignment, Place
from trainkit.checkpoint.boxes import Box, Shape
from trainkit.checkpoint.client import Answer, Client, Staged
from trainkit.checkpoint.plan import Held, Holdings, Plan
from trainkit.checkpoint.retain import Retention
from trainkit.checkpoint.schedule import Schedule

SHARDED: tuple[Shape, ...] = ((129, 256), (64, 300), (7, 512), (301, 33))
REPLICATED: tuple[Shape, ...] = ((96, 400), (3, 5), (1,), ())
TENSORS: tuple[Shape, ...] = SHARDED + REPLICATED
_ROOM_FOR_STATE = 1 << 14


def layout(ranks: int) -> Plan:
    """Some tensors are cut by rows, and the others are held by all."""
    everybody = tuple(range(ranks))
    held = []
    for number, shape in enumerate(TENSORS):
        whole = Box.whole(shape)
        if number < len(SHARDED):
            boxes = tuple((box, (rank,)) for rank, box in enumerate(whole.split(ranks)))
        else:
            boxes = ((whole, everybody),)
        held.append(Held(f"t{number}", "U64", shape, Holdings(boxes)))
    return plan.make(held, host_of=[0] * ranks, copies=False)


def value(step: int, life: int, tensor: int) -> int:
    """That of the tensor's first element; they count up from there."""
    return step << 44 | life << 30 | tensor << 25


def said(first: int) -> tuple[int, int]:
    """The step and the life that such a value was made of."""
    return first >> 44, first >> 30 & 0x3FFF


def state_of(step: int, life: int, rank: int) -> bytes:
    return json.dumps({"step": step, "life": life, "rank": rank, "more": list(range(step % 97, 800))}).encode()


@dataclass(frozen=True, slots=True)
class Life:
    """From one start of the ranks until they are killed."""

    number: int
    ranks: int
    start: int
    places: tuple[str, ...]
    log: Path
    last: int = 2
    every: int = 2
    agent: bool = False


class Meeting:
    """What ranks see of each other: how far each is, the coordinator's port, and whether to end."""

    def __init__(self, ranks: int) -> None:
        self._ranks = ranks
        self._memory = mmap.mmap(-1, 8 * (ranks + 2))
        self.last = -1

    def arrive(self, rank: int, step: int) -> None:
        """As in a collective: where one is missing, all stand still."""
        self._set(rank, step)
        while min(self._get(other) for other in range(self._ranks)) < step:
            time.sleep(0.0005)

    @property
    def step(self) -> int:
        return min(self._get(rank) for rank in range(self._ranks))

    @property
    def port(self) -> int:
        while not (port := self._get(self._ranks)):
            time.sleep(0.001)
        return port

    @port.setter
    def port(self, port: int) -> None:
        self._set(self._ranks, port)

    @property
    def last(self) -> int:
        """The step to end with; -1 while nobody has said it."""
        return self._get(self._ranks + 1)

    @last.setter
    def last(self, step: int) -> None:
        self._set(self._ranks + 1, step)

    def _get(self, at: int) -> int:
        return int(struct.unpack_from("<q", self._memory, 8 * at)[0])

    def _set(self, at: int, value: int) -> None:
        struct.pack_into("<q", self._memory, 8 * at, value)


class Rank:
    """In a process of its own, until it is killed, or has made the last step."""

    def __init__(self, rank: int, life: Life, meeting: Meeting) -> None:
        self._rank, self._life, self._meeting = rank, life, meeting
        self._log = os.open(life.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._plan = layout(life.ranks)
        self._client = Client(
            Assignment(
                rank, "job", ("host",), (0,) * life.ranks,
                tuple(Place(place, agent=life.agent) for place in life.places), Schedule(every=life.every),
                Retention(last=life.last),
            )
        )  # fmt: skip
        self._agreed = False
        self._writer = 0
        self._note_writer()

    def run(self, key: bytes) -> None:
        if self._rank == 0:
            self._meeting.port = self._client.listen(key)
        else:
            self._client.connect("127.0.0.1", self._meeting.port, key)
        step, due = self._life.start, self._life.start + 1
        while step != self._meeting.last:
            step += 1
            self._meeting.arrive(self._rank, step)
            time.sleep(0.001)
            if step >= due:
                due = self._save(self._client.ask(step), step)
            self._tell_news()
        answer = self._client.ask(step, must=True)
        self._save(answer, step)
        if answer.attempt and self._client.end_of(answer.attempt, patience=60):
            self._say("ended", step)
        self._tell_news()
        self._client.close()

    def _save(self, answer: Answer, step: int) -> int:
        self._note_writer()
        if answer.why:
            self._say("skipped", step, answer.why)
        if answer.attempt and not answer.begun:
            if not self._agreed and (why := self._client.agree(answer.attempt, self._plan, waiting=lambda: None)):
                self._say("skipped", step, why)
                self._client.unable(answer.attempt, why)
            else:
                self._agreed = True
                self._stage(answer.attempt, step)
        return answer.next

    def _stage(self, attempt: str, step: int) -> None:
        whole = image.of(self._plan, self._rank)
        memory = self._client.room(whole.size + _ROOM_FOR_STATE).memory
        memory[: len(whole.header)] = whole.header
        for slot in whole.slots:
            memory[slot.start : slot.start + slot.size] = content(slot, step, self._life.number).tobytes()
        state = state_of(step, self._life.number, self._rank)
        memory[whole.size : whole.size + len(state)] = state
        self._client.staged(
            attempt, step, self._plan,
            [Staged(image.file_name(self._rank), [(0, whole.size)], len(whole.header)),
             Staged(image.state_name(self._rank), [(whole.size, len(state))])],
        )  # fmt: skip

    def _tell_news(self) -> None:
        for end in self._client.news():
            for tier in end.committed:
                self._say("committed", end.step, str(tier))
            for tier, why in end.failed.items():
                self._say("failed", end.step, f"{tier} {why}")
        for remark in self._client.remarks:
            self._say("remark", 0, remark)
        self._client.remarks.clear()

    def _note_writer(self) -> None:
        if self._client.pid != self._writer:
            self._writer = self._client.pid
            self._say("writer", self._writer)

    def _say(self, what: str, number: int, more: str = "") -> None:
        line = f"{self._life.number}\t{self._rank}\t{what}\t{number}\t{' '.join(more.split())}\n"
        os.write(self._log, line.encode())


def content(slot: image.Slot, step: int, life: int) -> array[int]:
    """The slot's elements: its box is contiguous in its tensor, since both are cut along the first dimension."""
    tensor = int(slot.name[1:])
    shape = TENSORS[tensor]
    first = slot.box.offsets[0] * _volume(shape[1:]) if shape else 0
    start = value(step, life, tensor) + first
    return array("Q", range(start, start + slot.box.volume))


def content_of(step: int, life: int, tensor: int, volume: int) -> array[int]:
    """All elements of a tensor."""
    start = value(step, life, tensor)
    return array("Q", range(start, start + volume))


def _volume(shape: Shape) -> int:
    return Box.whole(shape).volume


def started(life: Life) -> tuple[Meeting, list[int]]:
    """Fork the ranks. Returns where they meet, and their process ids."""
    meeting, key, pids = Meeting(life.ranks), os.urandom(32), []
    for rank in range(life.ranks):
        if pid := os.fork():
            pids.append(pid)
            continue
        code = 70
        try:
            Rank(rank, life, meeting).run(key)
            code = 0
        finally:
            if code:
                life.log.with_name(f"crash-{life.number}-{rank}.txt").write_text(traceback.format_exc())
            os._exit(code)
    return meeting, pids


def told(log: Path) -> Iterator[tuple[int, int, str, int, str]]:
    """What all ranks have said: life, rank, what, number, more."""
    if log.exists():
        for line in log.read_text().splitlines():
            if line.count("\t") == 4:  # else it is just being written
                life, rank, what, number, more = line.split("\t")
                yield int(life), int(rank), what, int(number), more
