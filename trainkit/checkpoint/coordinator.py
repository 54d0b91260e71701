"""Decides for all ranks whether a save begins, and when it is a checkpoint. No process, no clock, no disk: see writer.

    rank ─ its writer ──────────────────▶ coordinator                     in the writer of rank 0
    may I save step 1200?  (at a step that all ranks know, or at a stop)
                           ◀── attempt 5f3a…, ask again at 1300          the first question decides; all hear the same
    a new plan?  ─────────────────────────▶ alike on all ranks?          the first time only
    copies its state into the arena
    staged ─ writes its files ─ receipt ─▶ all receipts here?  write the manifest: committed
                           ◀── committed, or failed and why
                                                       └▶ retention

A question about a step is answered alike for every rank, whenever it comes: so either all save it or none does, and no
rank waits for another. Only a plan that is new makes them wait for each other.
"""

from __future__ import annotations

import math
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from trainkit.checkpoint.manifest import File, Manifest
from trainkit.checkpoint.plan import Plan
from trainkit.checkpoint.schedule import Clock, Schedule

EVERYBODY = -1
_REMEMBERED = 16  # answers; ranks are at most a few questions apart


class Tell(NamedTuple):
    """Say something to the writer of one rank, or of EVERYBODY."""

    rank: int
    message: dict[str, Any]


class Commit(NamedTuple):
    """Write the manifest of the current attempt to one of the tiers, and call `committed`."""

    tier: int
    manifest: Manifest


class Retire(NamedTuple):
    """Apply retention to a tier that has a new checkpoint."""

    tier: int


Order = Tell | Commit | Retire


@dataclass(slots=True)
class _Place:
    """How the current attempt fares in one tier."""

    waiting: set[int]
    files: list[File] = field(default_factory=list)
    own: Counter[tuple[str, str]] = field(default_factory=Counter)
    """How many ranks have this state of this object: by its name and its digest."""
    failed: str | None = None
    committing: bool = False
    committed: bool = False

    @property
    def settled(self) -> bool:
        """Whether no writer needs its arena for it any more, and its end is known."""
        return not self.waiting and not self.committing and (self.committed or self.failed is not None)


@dataclass(frozen=True, slots=True)
class _Answer:
    """What all ranks hear who ask this, and those who have heard it."""

    message: dict[str, Any]
    heard: set[int] = field(default_factory=set)


@dataclass(slots=True)
class _Attempt:
    name: str
    step: int
    began: float
    places: list[_Place]
    metrics: Mapping[str, float] = field(default_factory=dict)
    plans: dict[int, str] = field(default_factory=dict)
    """The digest of each rank's plan, as far as they have told."""
    staged: set[int] = field(default_factory=set)
    """Ranks whose state is in their arenas: their writers do the rest alone."""
    told: set[int] = field(default_factory=set)
    """Ranks that have heard that they are to save it."""
    comparing: set[int] = field(default_factory=set)
    """Ranks that wait to hear whether all have the same plan."""

    def passed_by(self, rank: int, step: int) -> bool:
        """Whether a rank that asks about this step will not save the attempt's any more.

        Its writer could not reach us when it was due; or the rank gave up, and told nobody.
        """
        return rank not in self.staged and (step > self.step or rank in self.told)


class Coordinator:
    """The state of all ranks' saves. Every method returns what is to be done, in that order."""

    def __init__(
        self, *, job: str, hosts: Sequence[str], host_of: Sequence[int], tiers: int, schedule: Schedule,
        wall: Callable[[], float] = time.time, new_name: Callable[[], str] = lambda: secrets.token_hex(12),
    ) -> None:  # fmt: skip
        self._job, self._hosts, self._host_of = job, tuple(hosts), tuple(host_of)
        self._tiers, self._everybody = range(tiers), range(len(host_of))
        self._clock = Clock(schedule)
        self._wall, self._new_name = wall, new_name
        self._gone = {rank: f"the writer of rank {rank} has not come yet" for rank in self._everybody}
        self._plans: dict[str, Plan] = {}
        self._agreed: str | None = None
        self._answers: dict[tuple[int, bool], _Answer] = {}
        self._waiting: dict[tuple[int, bool], set[int]] = {}
        self._current: _Attempt | None = None
        self._last = (-1, "", False)
        self._skipped = 0

    @property
    def busy(self) -> bool:
        return self._current is not None

    def joined(self, rank: int) -> None:
        """The rank's writer is there."""
        self._gone.pop(rank, None)

    def lost(self, rank: int, why: str, *, now: float) -> list[Order]:
        """The rank's writer is gone."""
        self._gone[rank] = f"the writer of rank {rank} {why}"
        self._waiting = {key: ranks - {rank} for key, ranks in self._waiting.items() if ranks != {rank}}
        return [*self._fail(rank, self._tiers, self._gone[rank]), *self._settle(now)]

    def ended(self, rank: int, *, now: float) -> list[Order]:
        """The rank is gone, and its writer stays for what is staged."""
        why = f"rank {rank} has ended"
        self._gone[rank] = why
        if self._current and rank in self._current.staged:
            return []
        return [*self._fail(rank, self._tiers, f"{why} before it had copied its state"), *self._settle(now)]

    def asked(
        self, rank: int, step: int, *, now: float, must: bool = False, metrics: Mapping[str, float] | None = None
    ) -> list[Order]:
        """May the rank save the state after `step` steps? With `must` it wants to, due or not, and will wait.

        The metrics that count are those of rank 0.
        """
        key = (step, must)
        orders: list[Order] = []
        if (current := self._current) and current.passed_by(rank, step):
            orders = [*self._fail(rank, self._tiers, _passed_by(rank)), *self._settle(now)]
        known = self._answers.get(key)
        if known is None or rank in known.heard:  # who asks a second time has gone back some steps meanwhile
            answer = self._decide(step, must=must, now=now)
            if answer is None:
                self._waiting.setdefault(key, set()).add(rank)
                return orders
            known = self._remember(key, answer)
            orders += self._answer_waiting(key, known)
        orders += self._answer({rank}, known)
        if rank == 0 and self._current and self._current.step == step:
            # NaN is no number for JSON, and no measure for retention: a loss that diverges must not cost the save.
            self._current.metrics = {name: value for name, value in (metrics or {}).items() if math.isfinite(value)}
        return orders

    def knows(self, digest: str) -> bool:
        """Whether the plan of this digest has been told."""
        return digest in self._plans

    def planned(self, rank: int, attempt: str, digest: str, plan: Plan | None, *, now: float) -> list[Order]:
        """The rank's plan is new to it, and it waits to hear whether all have the same. None: it `knows` the plan."""
        self._learn(digest, plan)
        if current := self._is_current(attempt):
            current.comparing.add(rank)
        return self._compare(rank, attempt, digest, now)

    def staged(self, rank: int, attempt: str, digest: str, *, now: float, plan: Plan | None = None) -> list[Order]:
        """The rank has copied its state, by this plan."""
        self._learn(digest, plan)
        if current := self._is_current(attempt):
            current.staged.add(rank)
        return self._compare(rank, attempt, digest, now)

    def unable(self, rank: int, attempt: str, why: str, *, now: float) -> list[Order]:
        """The rank could not copy its state, or died before it had."""
        if not self._is_current(attempt):
            return []
        return [*self._fail(rank, self._tiers, why), *self._settle(now)]

    def receipt(
        self,
        rank: int,
        attempt: str,
        tier: int,
        files: Iterable[File],
        *,
        now: float,
        own: Mapping[str, str] | None = None,
    ) -> list[Order]:
        """The files of the rank are safe in a tier. `own`: the digest of its own state of each object."""
        if not (current := self._is_current(attempt)):
            return []
        place = current.places[tier]
        if rank not in place.waiting:  # its writer was lost, and came again
            return []
        place.files += files
        place.own.update((own or {}).items())
        place.waiting.discard(rank)
        if place.waiting or place.failed is not None:
            return self._settle(now)
        place.committing = True
        return [Commit(tier, self._manifest(current, place))]

    def refused(self, rank: int, attempt: str, tier: int, why: str, *, now: float) -> list[Order]:
        """The files of the rank could not be written to a tier."""
        if not self._is_current(attempt):
            return []
        return [*self._fail(rank, (tier,), why), *self._settle(now)]

    def committed(self, tier: int, why: str | None, *, now: float, unsure: bool = False) -> list[Order]:
        """The manifest is written; or, with `why`, could not be. `unsure`: it may be there for all that."""
        current = self._current
        assert current
        place = current.places[tier]
        place.committing = False
        facts = {"attempt": current.name, "step": current.step, "tier": tier}
        if why is not None:
            place.failed = why
            return [Tell(EVERYBODY, {"failed": why, "leave": unsure, **facts}), *self._settle(now)]
        place.committed = True
        told = Tell(EVERYBODY, {"committed": True, "seconds": now - current.began, **facts})
        return [told, Retire(tier), *self._settle(now)]

    def _is_current(self, attempt: str) -> _Attempt | None:
        """The current attempt, if it is this one: of an earlier one nothing more is to be done."""
        return self._current if self._current and self._current.name == attempt else None

    def _decide(self, step: int, *, must: bool, now: float) -> dict[str, Any] | None:
        """The answer to a question about a step; None while it has to wait."""
        due = must or self._clock.due(step, now=now)
        answer: dict[str, Any] = {"answer": step, "must": must, "next": self._clock.next(step, now=now)}
        if not due:
            return answer
        if self._gone:
            return self._skip(answer, min(self._gone.items())[1])
        if self._current and must:
            here = self._current.step == step
            return {**answer, "attempt": self._current.name, "begun": True} if here else None
        if self._current:
            return self._skip(answer, "the one before it is still being written")
        last_step, last, kept = self._last
        if last_step == step and kept:
            return {**answer, "attempt": last, "begun": True, "over": True}
        places = [_Place(set(range(len(self._host_of)))) for _ in self._tiers]
        self._current = _Attempt(self._new_name(), step, now, places)
        self._clock.begun(step, now=now)
        name, then = self._current.name, self._clock.next(step, now=now)
        return {**answer, "attempt": name, "next": then, "plan": self._agreed}

    def _skip(self, answer: dict[str, Any], why: str) -> dict[str, Any]:
        self._skipped += 1
        return {**answer, "why": why, "skipped": self._skipped}

    def _remember(self, key: tuple[int, bool], answer: dict[str, Any]) -> _Answer:
        self._answers.pop(key, None)
        self._answers[key] = known = _Answer(answer)
        for old in list(self._answers)[:-_REMEMBERED]:
            del self._answers[old]
        return known

    def _compare(self, rank: int, attempt: str, digest: str, now: float) -> list[Order]:
        if not (current := self._is_current(attempt)):
            return [Tell(rank, {"agreed": attempt, "why": "the attempt is over"})]
        current.plans[rank] = digest
        if len(set(current.plans.values())) > 1:
            why = self._differing(current)
            orders = self._answer_comparing({"agreed": attempt, "differs": why})
            failed = [order for other in self._everybody for order in self._fail(other, self._tiers, why)]
            return [*orders, *failed, *self._settle(now)]
        if len(current.plans) < len(self._host_of):
            lacking = self._lacking(current)
            return [*self._release(lacking), *self._settle(now)] if lacking else []
        if digest not in self._plans:
            why = "the checkpoints' coordinator does not know what is to be saved"
            orders = self._answer_comparing({"agreed": attempt, "why": why})
            failed = [order for other in self._everybody for order in self._fail(other, self._tiers, why)]
            return [*orders, *failed, *self._settle(now)]
        self._agreed, self._plans = digest, {digest: self._plans[digest]}
        return self._answer_comparing({"agreed": attempt})

    def _learn(self, digest: str, plan: Plan | None) -> None:
        if plan is not None:
            self._plans.setdefault(digest, plan)

    def _answer_comparing(self, answer: dict[str, Any]) -> list[Order]:
        assert self._current
        ranks, self._current.comparing = sorted(self._current.comparing), set()
        return [Tell(rank, answer) for rank in ranks]

    def _differing(self, current: _Attempt) -> str:
        """Which ranks have other tensors than the first, and which ones."""
        first, *others = sorted(current.plans)
        odd = next(rank for rank in others if current.plans[rank] != current.plans[first])
        known = [self._plans.get(current.plans[rank]) for rank in (first, odd)]
        detail = ""
        if known[0] is not None and known[1] is not None:
            ours, theirs = ({t.name: (t.dtype, p.layouts[t.layout].shape) for t in p.tensors} for p in known if p)
            names = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
            detail = f": {names[0]} is {ours.get(names[0])} here and {theirs.get(names[0])} there" if names else ""
        return f"rank {odd} has other tensors to save than rank {first}{detail}"

    def _fail(self, rank: int, tiers: Iterable[int], why: str) -> list[Order]:
        """The rank will give no receipt in these tiers, unless it has."""
        if (current := self._current) is None:
            return []
        orders: list[Order] = []
        for tier in tiers:
            place = current.places[tier]
            if rank in place.waiting:
                place.waiting.discard(rank)
                if place.failed is None:
                    place.failed = why
                    facts = {"attempt": current.name, "step": current.step, "tier": tier}
                    orders.append(Tell(EVERYBODY, {"failed": why, **facts}))
        return orders if rank in current.plans else [*orders, *self._release(why)]

    def _lacking(self, current: _Attempt) -> str | None:
        """Why there will never be the plans of all ranks; None while there may be."""
        if (failed := current.places[0].failed) is None:
            return None
        awaited = set().union(*(place.waiting for place in current.places)) | current.plans.keys()
        return failed if len(awaited) < len(self._host_of) else None

    def _release(self, why: str) -> list[Order]:
        """Those who wait for all plans hear that these will not come. They copy nothing, and give no receipts."""
        assert self._current
        ranks = self._current.comparing
        orders = self._answer_comparing({"agreed": self._current.name, "why": why})
        return [*orders, *(order for rank in sorted(ranks) for order in self._fail(rank, self._tiers, why))]

    def _settle(self, now: float) -> list[Order]:
        """End the current attempt where all is known of it, and answer those who waited for that."""
        current = self._current
        if current is None or not all(place.settled for place in current.places):
            return []
        kept = any(place.committed for place in current.places)
        self._last, self._current = (current.step, current.name, kept), None
        orders: list[Order] = [Tell(EVERYBODY, {"over": current.name, "step": current.step, "kept": kept})]
        for step, must in sorted(self._waiting):
            if (answer := self._decide(step, must=must, now=now)) is not None:
                orders += self._answer_waiting((step, must), self._remember((step, must), answer))
        for (step, _), ranks in self._waiting.items():
            for rank in [rank for rank in ranks if self._current and self._current.passed_by(rank, step)]:
                orders += self._fail(rank, self._tiers, _passed_by(rank))
        return [*orders, *self._settle(now)]

    def _answer_waiting(self, key: tuple[int, bool], known: _Answer) -> list[Order]:
        """What was decided for one who asked later is the answer of those who wait, too."""
        return self._answer(self._waiting.pop(key, set()), known)

    def _answer(self, ranks: set[int], known: _Answer) -> list[Order]:
        known.heard.update(ranks)
        if (current := self._is_current(str(known.message.get("attempt")))) and "begun" not in known.message:
            current.told.update(ranks)
        return [Tell(rank, known.message) for rank in sorted(ranks)]

    def _manifest(self, current: _Attempt, place: _Place) -> Manifest:
        plan = self._plans[current.plans[0]]
        if not any(file.is_copy for file in place.files):
            plan = plan.without_copies()  # a place that all hosts share, beside one that they do not
        return Manifest(
            step=current.step, attempt=current.name, job=self._job, at=self._wall(), hosts=self._hosts,
            host_of=self._host_of, plan=plan,
            files=tuple(sorted(place.files, key=lambda file: file.name)), metrics=current.metrics,
            alike=tuple(sorted(name for (name, _), ranks in place.own.items() if ranks == len(self._host_of))),
        )  # fmt: skip


def _passed_by(rank: int) -> str:
    return f"rank {rank} did not save it"
