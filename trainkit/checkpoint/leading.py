"""The coordinator's surroundings: the other ranks' writers at its door, its clock, and a thread that commits."""

from __future__ import annotations

import resource
import socket
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial

from trainkit.checkpoint import manifest
from trainkit.checkpoint.assignment import Assignment
from trainkit.checkpoint.coordinator import EVERYBODY, Commit, Coordinator, Order, Retire, Tell
from trainkit.checkpoint.line import Line, Message
from trainkit.checkpoint.loop import Loop
from trainkit.checkpoint.manifest import File, Manifest
from trainkit.checkpoint.plan import Plan
from trainkit.checkpoint.retain import Committed
from trainkit.checkpoint.retire import Retirement
from trainkit.checkpoint.tiers import Tier
from trainkit.contract.seal import Seal, nonce
from trainkit.errors import StorageError

_GREETING = 10.0
"""Seconds for a connection to show who it is."""
_STRANGERS = 256
"""Connections that may be at it at once."""


class Lead:
    """Hears all writers, and does what the coordinator says. `tell` is how rank 0's own writer is told."""

    def __init__(self, assignment: Assignment, tiers: list[Tier], loop: Loop, tell: Callable[[Message], None]) -> None:
        self._tiers, self._loop, self._tell = tiers, loop, tell
        self._ranks = len(assignment.host_of)
        self._coordinator = Coordinator(
            job=assignment.job, hosts=assignment.hosts, host_of=assignment.host_of, tiers=len(tiers),
            schedule=assignment.schedule,
        )  # fmt: skip
        self._coordinator.joined(0)
        self._retention = assignment.retention
        self._places = assignment.places
        self._retirements: dict[int, Retirement] = {}
        self._torsos: dict[int, list[tuple[int, str]]] = {}
        """Attempts that failed in a tier, by step and name: a writer that was killed has not taken back its files."""
        self._lines: dict[int, Line] = {}
        self._strangers: dict[Line, float] = {}
        self._listener: socket.socket | None = None
        self._key = b""
        self._committer = ThreadPoolExecutor(1, thread_name_prefix="commit")

    @property
    def busy(self) -> bool:
        return self._coordinator.busy

    def listen(self, key: bytes, port: int) -> int:
        """Open the door to the other writers. Returns the port: `port`, or any where that is 0. Raises OSError."""
        self._key = key
        # Each rank's writer is a descriptor, and 1,024 are what many systems allow unless one asks for more.
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        listener = socket.socket(socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if listener.family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(("", port))
        listener.listen(min(4096, self._ranks + 16))
        listener.setblocking(False)
        self._listener = listener
        self._loop.accept(listener, self._greet)
        return int(listener.getsockname()[1])

    def say(self, message: Message) -> None:
        """What rank 0's own writer says."""
        self._hear(0, message)

    def _hear(self, rank: int, message: Message) -> None:
        coordinator, now = self._coordinator, time.monotonic()
        attempt = str(message.get("attempt"))
        orders: list[Order] = []
        match message["say"]:
            case "ask":
                metrics = message.get("metrics")
                orders = coordinator.asked(rank, message["step"], must=message["must"], metrics=metrics, now=now)
            case "planned":
                orders = coordinator.planned(rank, attempt, message["digest"], self._plan(message), now=now)
            case "staged":
                orders = coordinator.staged(rank, attempt, message["digest"], plan=self._plan(message), now=now)
            case "unable":
                orders = coordinator.unable(rank, attempt, message["why"], now=now)
            case "ended":
                orders = coordinator.ended(rank, now=now)
            case "receipt":
                files = [File.read(document) for document in message["files"]]
                orders = coordinator.receipt(rank, attempt, message["tier"], files, own=message["own"], now=now)
            case "refused":
                orders = coordinator.refused(rank, attempt, message["tier"], message["why"], now=now)
        self._carry_out(orders)

    def _plan(self, message: Message) -> Plan | None:
        """The plan in it, if it is new to the coordinator."""
        if "plan" not in message or self._coordinator.knows(message["digest"]):
            return None
        return manifest.plan_of(message["plan"], ranks=self._ranks)

    def tick(self) -> None:
        """Send away who does not show who it is."""
        now = time.monotonic()
        for line in [line for line, until in self._strangers.items() if until < now]:
            self._send_away(line)

    @property
    def patience(self) -> float | None:
        """Seconds until the next tick has something to do."""
        return max(0.0, min(self._strangers.values()) - time.monotonic()) if self._strangers else None

    def _carry_out(self, orders: Iterable[Order]) -> None:
        for order in orders:
            match order:
                case Tell(rank, message):
                    self._say(rank, message)
                    if "failed" in message:
                        self._torsos.setdefault(message["tier"], []).append((message["step"], message["attempt"]))
                case Commit(tier, whole):
                    self._loop.later(self._committer, partial(self._commit, tier, whole), partial(self._done, tier))
                case Retire(tier):
                    self._loop.later(self._committer, self._retirement(tier), partial(self._retired, tier))

    def _say(self, rank: int, message: Message) -> None:
        if rank in (0, EVERYBODY):
            self._tell(message)
        for line in list(self._lines.values()) if rank == EVERYBODY else filter(None, [self._lines.get(rank)]):
            line.send(message)

    def _commit(self, tier: int, whole: Manifest) -> tuple[str | None, bool]:
        """In the thread: why it is not there, and whether it may be for all that."""
        place = self._tiers[tier]
        try:
            if tier not in self._retirements:
                self._retirements[tier] = Retirement(
                    place, self._retention, agent=self._places[tier].agent, apart=self._places[tier].apart
                )
            place.put_manifest(whole.directory, whole.text())
        except StorageError as error:
            try:
                gone = place.delete_manifest(whole.directory)  # an answer may be lost, and the manifest there
            except StorageError:
                return str(error), True
            return str(error), not gone
        self._retirements[tier].committed(Committed(whole.directory, whole.step, whole.metrics))
        return None, False

    def _done(self, tier: int, end: tuple[str | None, bool]) -> None:
        why, unsure = end
        self._carry_out(self._coordinator.committed(tier, why, unsure=unsure, now=time.monotonic()))

    def _retirement(self, tier: int) -> Callable[[], Message]:
        failed = [manifest.directory(step, attempt) for step, attempt in self._torsos.pop(tier, ())]
        return partial(self._retire, tier, failed)

    def _retire(self, tier: int, failed: Iterable[str]) -> Message:
        self._retirements[tier].failed(failed)
        try:
            stay, newest = self._retirements[tier].apply()
        except StorageError as error:
            return {"unretired": str(error), "tier": tier}
        return {"retired": tier, "kept": stay, "below": newest}

    def _retired(self, tier: int, message: Message) -> None:
        self._say(EVERYBODY, message)

    def _greet(self) -> None:
        assert self._listener
        with suppress(OSError):  # it is gone again, or there are no descriptors left
            line = Line(self._listener.accept()[0])
            if len(self._strangers) >= _STRANGERS:
                self._send_away(next(iter(self._strangers)))
            self._strangers[line] = time.monotonic() + _GREETING
            self._loop.watch(line, partial(self._introduce, line), partial(self._left, line))

    def _left(self, line: Line) -> None:
        self._strangers.pop(line, None)

    def _send_away(self, line: Line) -> None:
        self._strangers.pop(line, None)
        self._loop.unwatch(line)

    def _introduce(self, line: Line, message: Message) -> None:
        """The first words of a connection; it is a rank's writer when one of them has its seal."""
        if line.proven:
            rank = message.get("here")
            if type(rank) is int and 0 < rank < self._ranks:
                self._strangers.pop(line, None)
                self._welcome(rank, line)
                return
        elif isinstance(theirs := message.get("nonce"), str):
            ours = nonce()
            line.send({"nonce": ours})
            line.seal_with(Seal(self._key, theirs, ours, first=True))
            return
        self._send_away(line)

    def _welcome(self, rank: int, line: Line) -> None:
        if old := self._lines.get(rank):  # its end has not been heard: what was under way there is lost for all that
            self._loop.unwatch(old)
            self._lost(rank, old)
        self._lines[rank] = line
        self._coordinator.joined(rank)
        self._loop.watch(line, partial(self._hear, rank), partial(self._lost, rank, line))
        line.send({"welcome": rank})

    def _lost(self, rank: int, line: Line) -> None:
        if self._lines.get(rank) is line:
            del self._lines[rank]
            self._carry_out(self._coordinator.lost(rank, "is gone", now=time.monotonic()))
