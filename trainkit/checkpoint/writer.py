"""The process beside a rank that writes its checkpoints: python -m trainkit.checkpoint.writer DESCRIPTOR

    rank ──── socket, arena ────▶ writer ──── TCP, sealed ────▶ coordinator, in the writer of rank 0
                                    └ a thread that writes files        └ a thread that writes manifests, and deletes

It imports no torch, and it outlives its rank: what was staged is written and committed, whoever is killed meanwhile.
It ends when its rank is gone and nothing of the rank's is under way.
"""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from trainkit.checkpoint import arena, crc, retire, tiers
from trainkit.checkpoint.assignment import Assignment
from trainkit.checkpoint.following import Follow
from trainkit.checkpoint.leading import Lead
from trainkit.checkpoint.line import Line, Message
from trainkit.checkpoint.loop import Loop
from trainkit.checkpoint.manifest import File, directory
from trainkit.contract import writers
from trainkit.errors import StorageError


class Writer:
    """One rank's writer."""

    def __init__(self, rank: Line, assignment: Assignment, loop: Loop) -> None:
        self._rank, self._assignment, self._loop = rank, assignment, loop
        self._tiers = [tiers.of(place.where) for place in assignment.places]
        self._lead = Lead(assignment, self._tiers, loop, self._told) if assignment.leads else None
        self._follow = Follow(assignment.rank, loop, self._told)
        self._say = self._lead.say if self._lead else self._follow.say
        self._arena = memoryview(b"")
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="write")
        self._copying: str | None = None
        """The attempt that the rank may be copying its state for."""
        self._open: str | None = None
        """The attempt that the rank has staged, until all is known of it."""
        self._failed: set[int] = set()
        """Tiers in which it has failed, wherever."""
        self._names: dict[tuple[str, int], list[str]] = {}
        """The files that were begun, by attempt and tier. The thread's."""
        self._sums: dict[tuple[str, str], tiers.Sums] = {}
        """The checksums of the files that are written, by directory and name: of one attempt. The thread's."""
        self._orphan = False
        loop.watch(rank, self._asked, self._left_alone)

    def run(self) -> None:
        """Until there is nobody to work for, and nothing to finish."""
        while not (self._orphan and self._idle):
            self._loop.turn(timeout=self._lead.patience if self._lead else None)
            if self._lead:
                self._lead.tick()

    @property
    def _idle(self) -> bool:
        return not (self._loop.pending or self._open or (self._lead and self._lead.busy))

    def _asked(self, message: Message) -> None:
        """By the rank."""
        match message["say"]:
            case "listen":
                self._listen(message)
            case "connect":
                self._follow.connect(message["host"], message["port"], bytes.fromhex(message["key"]))
            case "arena":
                self._arena = arena.mapped(self._rank.descriptors.pop(0))
            case "staged":
                self._staged(message)
            case "unable":
                self._copying = None
                self._say(message)
            case _:
                self._say(message)

    def _listen(self, message: Message) -> None:
        assert self._lead
        try:
            self._rank.send({"port": self._lead.listen(bytes.fromhex(message["key"]), message["port"])})
        except OSError as error:
            self._rank.send({"broke": f"cannot listen for the other ranks' writers: {error}"})

    def _left_alone(self) -> None:
        self._orphan = True
        self._copying = None
        self._say({"say": "ended"})

    def _staged(self, message: Message) -> None:
        """The rank has copied its state: write it, to one tier after the other."""
        if message["attempt"] == self._copying:
            self._copying, self._open = None, message["attempt"]
        self._say({name: message[name] for name in ("say", "attempt", "digest", "plan") if name in message})
        for tier in range(len(self._tiers)):
            self._loop.later(self._pool, partial(self._write, message, tier), self._say)

    def _write(self, staged: Message, tier: int) -> Message:
        """In the thread."""
        apart = self._assignment.places[tier].apart
        wanted = [entry for entry in staged["files"] if apart or not entry["copy"]]
        into = directory(staged["step"], staged["attempt"])
        facts: dict[str, Any] = {"attempt": staged["attempt"], "tier": tier}
        if tier in self._failed or self._open != staged["attempt"]:
            return {"say": "refused", "why": "it failed elsewhere", **facts}
        self._names = {of: names for of, names in self._names.items() if of[0] == staged["attempt"]}
        self._names[staged["attempt"], tier] = [entry["name"] for entry in wanted]
        self._sums = {of: sums for of, sums in self._sums.items() if of[0] == into}
        try:
            files = [self._put(tier, into, entry) for entry in wanted]
        except StorageError as error:
            return {"say": "refused", "why": str(error), **facts}
        own = {name: self._digest(start, size) for name, start, size in staged["own"]}
        return {"say": "receipt", "files": [file.document() for file in files], "own": own, **facts}

    def _put(self, tier: int, into: str, entry: Message) -> File:
        parts = [self._arena[start : start + size] for start, size in entry["parts"]]
        size = sum(map(len, parts))
        sums = self._sums.get((into, entry["name"]))
        sums = self._sums[into, entry["name"]] = self._tiers[tier].put(into, entry["name"], parts, sums=sums)
        return File(entry["name"], size, crc.joined(sums, size), sums, entry["start"])

    def _digest(self, start: int, size: int) -> str:
        return hashlib.sha256(self._arena[start : start + size]).hexdigest()

    def _drop(self, attempt: str, step: int, tier: int) -> Message | None:
        """In the thread: take back what was written of an attempt that has failed."""
        names = self._names.pop((attempt, tier), ())
        try:
            self._tiers[tier].drop(directory(step, attempt), names)
        except StorageError as error:
            return {"left": str(error)}  # a torso, which retirement takes some day
        return None

    def _told(self, message: Message) -> None:
        """By the coordinator."""
        match message:
            case {"answer": _, "attempt": attempt} if "begun" not in message and not self._orphan:
                self._copying, self._failed = attempt, set()
            case {"failed": _, "tier": tier, "attempt": attempt, "step": step}:
                self._failed.add(tier)
                if not message.get("leave"):
                    self._loop.later(self._pool, partial(self._drop, attempt, step, tier), self._tell_rank)
            case {"over": _} | {"alone": _}:  # what is staged for it from now on is nobody's any more
                self._copying = self._open = None
            case {"retired": tier} if self._assignment.sweeps and self._assignment.places[tier].apart:
                work = partial(self._sweep, tier, kept=message["kept"], below=message["below"])
                self._loop.later(self._pool, work, self._tell_rank)
        self._tell_rank(message)

    def _tell_rank(self, message: Message | None) -> None:
        if message and not self._orphan:
            self._rank.send(message)

    def _sweep(self, tier: int, *, kept: list[str], below: int) -> Message | None:
        """In the thread."""
        try:
            retire.sweep(self._tiers[tier], kept=kept, below=below)
        except StorageError as error:
            return {"unretired": str(error), "tier": tier}
        return None


def main(descriptor: int) -> None:
    """Serve the rank at the other end of this socket."""
    # What ends the rank is not for us: a stop lets it save, and what it saves is written here.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    rank, loop = Line(socket.socket(fileno=descriptor)), Loop()
    started: list[Writer] = []

    def begin(message: Message) -> None:
        started.append(Writer(rank, Assignment.read(message), loop))

    loop.watch(rank, begin, sys.exit)
    while not started:
        loop.turn()
    started[0].run()


if __name__ == "__main__":
    with writers.registered(os.environ):
        main(int(sys.argv[1]))
