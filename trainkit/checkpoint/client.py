"""The rank's side of its writer: starts it, asks it, hands it what is to be written. No torch.

answer = client.ask(step)                       # answer.attempt: save now; answer.next: ask again at that step
client.agree(answer.attempt, plan)              # the first time, and after a change
…copy the state into client.arena…
client.staged(answer.attempt, step, files)
client.news()                                   # what has become of it, later
"""

from __future__ import annotations

import math
import os
import secrets
import select
import selectors
import socket
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from trainkit.checkpoint.arena import Arena
from trainkit.checkpoint.assignment import Assignment
from trainkit.checkpoint.line import Line, Message
from trainkit.checkpoint.plan import Plan
from trainkit.errors import CheckpointError, PeerLost, TrainkitError

_START = 120.0
"""Seconds for a writer to start: on a busy machine an interpreter takes some."""
_ANSWER = 120.0
"""Seconds for an answer, which the coordinator gives at once."""
_AGREEMENT = 3600.0
"""Seconds for all ranks to come to their first save."""
_NOTICE = 30.0
"""Seconds after which that is said."""
_AGAIN = 60.0
"""Seconds after a question without an answer in which no other is asked: each would hold up the training as long."""
_FEW = 64  # ranks
_REMEMBERED = 16  # ends
_ENDED = "the process that writes checkpoints ended"


class Answer(NamedTuple):
    """To a question: `attempt` where a save begins, else `why` not if one was due; and the step to ask again at."""

    next: int
    attempt: str | None = None
    begun: bool = False
    """Whether this step has been staged already."""
    over: bool = False
    """Whether that is committed, in one place at least."""
    why: str | None = None
    skipped: int = 0


class Staged(NamedTuple):
    """A file to write: its parts in the arena as (start, size), and where its data begins in it."""

    name: str
    parts: Sequence[tuple[int, int]]
    start: int = 0
    copy: bool = False


class End(NamedTuple):
    """What became of an attempt: the tiers that have it, and why others have not."""

    attempt: str
    step: int
    committed: dict[int, float]
    """Tier → seconds from the first rank's question to the commit."""
    failed: dict[int, str]


class Client:
    """One rank's writer, started anew where it died."""

    def __init__(self, assignment: Assignment) -> None:
        """Start it. Raises CheckpointError where that is not possible."""
        self._assignment = assignment
        self._connect: Message | None = None
        self.arena: Arena | None = None
        self._waiting: list[Message] = []
        self._ends: dict[str, End] = {}
        self._over: set[str] = set()
        self._known: str | None = None
        """The digest of the plan that the coordinator knows."""
        self._open: tuple[str, int] | None = None
        """The attempt that this rank is to save, and its step, until it is over."""
        self._not_before = 0.0
        self._new: list[End] = []
        self.remarks: list[str] = []
        """What went wrong and harms no checkpoint: a deletion, a writer that had to be started anew."""
        self._start()
        alone = weakref.WeakMethod(self._forked)
        os.register_at_fork(after_in_child=lambda: (forked := alone()) and forked())

    @property
    def pid(self) -> int:
        """The writer's."""
        return self._process.pid

    def listen(self, key: bytes, *, port: int = 0) -> int:
        """The coordinator opens its door to the other ranks' writers. Returns the port."""
        self._connect = {"say": "listen", "key": key.hex(), "port": port}
        self._line.send(self._connect)
        message = self._wait(lambda message: "port" in message or "broke" in message, _START)
        if "broke" in message:
            raise CheckpointError(message["broke"])
        self._connect["port"] = message["port"]
        return int(message["port"])

    def connect(self, host: str, port: int, key: bytes) -> None:
        """Join the coordinator. Raises PeerLost where it does not answer."""
        self._connect = {"say": "connect", "host": host, "port": port, "key": key.hex()}
        self._line.send(self._connect)
        message = self._wait(lambda message: "welcome" in message or "alone" in message, _START)
        if "alone" in message:
            raise PeerLost(message["alone"])

    def ask(
        self, step: int, *, must: bool = False, metrics: Mapping[str, float] | None = None, patience: float = _ANSWER
    ) -> Answer:
        """May this rank save the state after `step` steps? All ranks ask at the same steps.

        With `must` it wants to, due or not, and waits for `patience` seconds at most.
        """
        self._read()
        if self._line.closed or self._process.poll() is not None:
            try:
                self._start_again()
            except TrainkitError as error:  # the training goes on
                return Answer(step + 1, why=str(error))
        if not must and time.monotonic() < self._not_before:
            return Answer(step + 1, why="the process that writes checkpoints did not answer")
        self._waiting.clear()  # what was said before the question is no answer
        self._line.send(
            {
                "say": "ask",
                "step": step,
                "must": must,
                "metrics": {name: float(value) for name, value in (metrics or {}).items()},
            }
        )

        def answered(message: Message) -> bool:
            return "alone" in message or (message.get("answer") == step and message["must"] == must)

        try:
            message = self._wait(answered, patience)
        except PeerLost as error:
            if not (must or self._line.closed):  # who must save may have waited behind a long save
                self._not_before = time.monotonic() + _AGAIN
            return Answer(step + 1, why=str(error))
        if "alone" in message:
            return Answer(step + 1, why=message["alone"])
        self._known = message.get("plan", self._known)
        return Answer(**{name: message[name] for name in Answer._fields if name in message})

    def agree(self, attempt: str, plan: Plan, *, waiting: Callable[[], None]) -> str | None:
        """Tell a plan that is new to this rank, and wait for the others'. Returns why there will be no save, or None.

        Ranks may be far apart here, as before a collective: `waiting` is called once where it takes long. Raises
        CheckpointError, on all ranks that ask, where they differ.
        """
        # Where they differ, plans tell in what; a thousand of them would keep the coordinator busy for minutes.
        few = len(self._assignment.host_of) <= _FEW
        told = {"plan": plan.document} if few or self._assignment.leads else {}
        self._line.send({"say": "planned", "attempt": attempt, "digest": plan.digest, **told})

        def answered(message: Message) -> bool:
            return "alone" in message or message.get("agreed") == attempt

        try:
            message = self._wait(answered, _AGREEMENT, notice=waiting)
        except PeerLost as error:
            return str(error)
        if "differs" in message:
            raise CheckpointError(f"no checkpoint can be made of this: {message['differs']}")
        self._known = plan.digest
        return message.get("alone") or message.get("why")

    def room(self, size: int) -> Arena:
        """An arena of `size` bytes at least, which the writer has too. Raises OSError."""
        if self.arena is None or self.arena.size < size:
            if self.arena:
                self.arena.close()
            self.arena = Arena(size)
            self._hand_over(self.arena)
        return self.arena

    def staged(
        self, attempt: str, step: int, plan: Plan, files: Sequence[Staged], own: Sequence[tuple[str, int, int]] = ()
    ) -> None:
        """All parts of these files are in the arena: write them.

        `own`: where in the arena this rank's state of each object is (name, start, size); what is alike on all ranks
        is marked so.
        """
        documents = [file._asdict() for file in files]
        facts: Message = {"attempt": attempt, "step": step, "digest": plan.digest}
        if self._assignment.leads and plan.digest != self._known:  # a coordinator that was started anew
            facts["plan"] = plan.document
        self._line.send({"say": "staged", **facts, "files": documents, "own": own})

    def unable(self, attempt: str, why: str) -> None:
        """The state cannot be saved: the attempt fails on all ranks."""
        self._line.send({"say": "unable", "attempt": attempt, "why": why})

    def news(self) -> list[End]:
        """Attempts whose end is known since the last call."""
        self._read()
        new, self._new = self._new, []
        return new

    def end_of(self, attempt: str, *, patience: float) -> End | None:
        """Wait for the end of an attempt. None where it is not known in time."""
        deadline = time.monotonic() + patience
        while True:
            if attempt in self._over:
                return self._ends[attempt]
            left = deadline - time.monotonic()
            if left <= 0 or self._line.closed:
                return None
            self._listen(left)

    def close(self) -> None:
        """Leave the writer to itself: it ends what is under way, and then ends."""
        self._line.close()
        self._errors.close()
        if self.arena:
            self.arena.close()

    def _forked(self) -> None:
        """In a child of the rank, a loader's worker for instance: the writer must see when the rank itself ends."""
        self._line.close()

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        home = str(Path(__file__).parents[2])  # however this process found trainkit, the writer finds the same
        path = os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH")]))
        with theirs:
            try:
                # What the writer says at its end: a pipe would be full some day, and the writer stand still.
                self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (until it is read, or `close`)
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "trainkit.checkpoint.writer", str(theirs.fileno())],
                    env={**os.environ, "PYTHONPATH": path}, pass_fds=[theirs.fileno()], start_new_session=True,
                    stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=self._errors,
                )  # fmt: skip
            except OSError as error:
                raise CheckpointError(f"the process that writes checkpoints cannot be started: {error}") from error
        self._line = Line(ours)
        self._line.send(self._assignment.document())  # whoever asks it something waits until it is up

    def _start_again(self) -> None:
        """A killed writer takes its attempt with it, and nothing else: the next save is in time again."""
        self.remarks.append(f"the process that writes checkpoints ended ({self._end()}); another one was started")
        self._line.close()
        self._lose(_ENDED)
        self._start()
        if self._connect:
            self._line.send(self._connect)
        if self.arena:
            self._hand_over(self.arena)

    def _hand_over(self, arena: Arena) -> None:
        self._line.send({"say": "arena"}, [arena.descriptor])

    def _wait(
        self, wanted: Callable[[Message], bool], patience: float, *, notice: Callable[[], None] | None = None
    ) -> Message:
        """The first message of this kind. Raises PeerLost where none comes in `patience` seconds, or ever."""
        began = time.monotonic()
        while True:
            while self._waiting:
                message = self._waiting.pop(0)
                if wanted(message):
                    return message
            if self._line.closed:
                raise PeerLost(f"the process that writes checkpoints ended ({self._end()})")
            waited = time.monotonic() - began
            if waited >= patience:
                raise PeerLost(f"the process that writes checkpoints gave no answer within {patience:g} s")
            if notice and waited >= _NOTICE:
                notice()
                notice = None
            self._listen(min(patience - waited, _NOTICE))

    def _listen(self, patience: float) -> None:
        """Wait for something to come, and note it."""
        poll = select.poll()  # select refuses descriptors from 1024 on, which a training may have
        poll.register(self._line, select.POLLIN | (select.POLLOUT if self._line.wanted & selectors.EVENT_WRITE else 0))
        poll.poll(math.ceil(patience * 1000))
        self._read()

    def _read(self) -> None:
        """Note what has come, the last words of a writer that is gone, too."""
        self._line.flush()
        for message in self._line.receive():
            self._note(message)
            self._waiting.append(message)
        del self._waiting[:-_REMEMBERED]
        if self._line.closed:
            self._lose(_ENDED)

    def _note(self, message: Message) -> None:
        match message:
            case {"answer": step, "attempt": attempt} if "begun" not in message:
                self._open = (attempt, step)  # before it is staged: its end may come together with the answer
            case {"committed": True, "attempt": attempt, "tier": tier, "seconds": seconds, "step": step}:
                self._ends.setdefault(attempt, End(attempt, step, {}, {})).committed[tier] = seconds
            case {"failed": why, "attempt": attempt, "tier": tier, "step": step}:
                self._ends.setdefault(attempt, End(attempt, step, {}, {})).failed[tier] = why
            case {"over": attempt, "step": step}:
                self._end_attempt(attempt, step)
            case {"alone": why}:
                self._lose(why)
            case {"unretired": why} | {"left": why} | {"broke": why}:
                self.remarks.append(why)

    def _lose(self, why: str) -> None:
        """Nobody will say what becomes of the attempt that is under way."""
        if self._open:
            attempt, step = self._open
            end = self._ends.setdefault(attempt, End(attempt, step, {}, {}))
            for tier in range(len(self._assignment.places)):
                if tier not in end.committed:
                    end.failed.setdefault(tier, why)
            self._end_attempt(attempt, step)

    def _end_attempt(self, attempt: str, step: int) -> None:
        self._open = None
        if attempt in self._over:
            return
        self._over.add(attempt)
        self._new.append(self._ends.setdefault(attempt, End(attempt, step, {}, {})))
        for old in list(self._ends)[:-_REMEMBERED]:
            self._over.discard(old)
            del self._ends[old]

    def _end(self) -> str:
        """How the process ended, for people."""
        try:
            code = self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            return "its connection is closed"
        if self._errors.closed:
            return f"exit code {code}"
        with self._errors:
            self._errors.seek(0)
            lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return f"exit code {code}{', ' + lines[-1] if lines else ''}"


def new_key() -> bytes:
    """For a job's writers."""
    return secrets.token_bytes(32)
