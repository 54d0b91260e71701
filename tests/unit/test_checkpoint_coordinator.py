"""The coordinator as a machine of its own: every order of events of some ranks, with losses, comes to an end."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import pytest

from trainkit.checkpoint import image, plan
from trainkit.checkpoint.boxes import Box
from trainkit.checkpoint.coordinator import EVERYBODY, Commit, Coordinator, Order, Retire, Tell
from trainkit.checkpoint.manifest import File
from trainkit.checkpoint.plan import Held, Holdings, Plan
from trainkit.checkpoint.schedule import Schedule


def plan_of(ranks: int, *, width: int = 4) -> Plan:
    boxes = tuple((box, (rank,)) for rank, box in enumerate(Box.whole((ranks, width)).split(ranks)))
    return plan.make([Held("w", "F32", (ranks, width), Holdings(boxes))], host_of=[0] * ranks, copies=False)


def coordinator(ranks: int, *, tiers: int = 1, every: int | None = 1) -> Coordinator:
    names = (f"{number:024x}" for number in range(1 << 30))
    made = Coordinator(
        job="job", hosts=("host",), host_of=(0,) * ranks, tiers=tiers, schedule=Schedule(every=every),
        wall=lambda: 0.0, new_name=lambda: next(names),
    )  # fmt: skip
    for rank in range(ranks):
        made.joined(rank)
    return made


def files_of(rank: int, whole: Plan) -> list[File]:
    laid = image.of(whole, rank)
    return [
        File(image.file_name(rank), laid.size, 0, (0,), len(laid.header)),
        File(image.state_name(rank), 5, 0, (0,)),
    ]


def told(orders: Iterable[Order], rank: int) -> list[dict[str, Any]]:
    return [order.message for order in orders if isinstance(order, Tell) and order.rank in (rank, EVERYBODY)]


def begun(orders: Iterable[Order], rank: int) -> str:
    return next(message["attempt"] for message in told(orders, rank) if "attempt" in message)


def test_an_attempt_is_committed_once_all_ranks_gave_receipts_of_one_plan() -> None:
    made, whole = coordinator(2), plan_of(2)
    attempt = begun(made.asked(0, 1, now=0, metrics={"loss": 0.5}), 0)
    assert begun(made.asked(1, 1, now=0), 1) == attempt
    assert made.planned(0, attempt, whole.digest, whole, now=0) == []
    assert len(made.planned(1, attempt, whole.digest, whole, now=0)) == 2
    for rank in (0, 1):
        assert made.staged(rank, attempt, whole.digest, now=0) == []
    assert made.receipt(1, attempt, 0, files_of(1, whole), now=1) == []
    (commit,) = made.receipt(0, attempt, 0, files_of(0, whole), now=1)
    assert isinstance(commit, Commit)
    assert [file.name for file in commit.manifest.files] == [
        "r00000.safetensors", "r00000.state", "r00001.safetensors", "r00001.state",
    ]  # fmt: skip
    assert commit.manifest.metrics == {"loss": 0.5}
    told_all, retire, over = made.committed(0, None, now=3)
    assert isinstance(told_all, Tell)
    assert told_all.message == {"committed": True, "seconds": 3, "attempt": attempt, "step": 1, "tier": 0}
    assert retire == Retire(0)
    assert over == Tell(EVERYBODY, {"over": attempt, "step": 1, "kept": True})
    assert not made.busy


def test_a_loss_that_is_no_number_costs_no_checkpoint() -> None:
    made, whole = coordinator(1), plan_of(1)
    attempt = begun(made.asked(0, 1, now=0, metrics={"loss": float("nan"), "lr": 0.1}), 0)
    made.planned(0, attempt, whole.digest, whole, now=0)
    (commit,) = made.receipt(0, attempt, 0, files_of(0, whole), now=0)
    assert isinstance(commit, Commit)
    assert '"metrics":{"lr":0.1}' in commit.manifest.text()


def test_ranks_with_other_tensors_hear_which_ones_differ() -> None:
    made = coordinator(2)
    attempt = begun(made.asked(0, 1, now=0), 0)
    first, second = plan_of(2), plan_of(2, width=5)
    made.planned(0, attempt, first.digest, first, now=0)
    orders = made.planned(1, attempt, second.digest, second, now=0)
    for rank in (0, 1):
        heard = next(message for message in told(orders, rank) if "agreed" in message)
        assert heard["differs"] == (
            "rank 1 has other tensors to save than rank 0: w is ('F32', (2, 4)) here and ('F32', (2, 5)) there"
        )
    assert next(message for message in told(orders, 0) if "over" in message)["kept"] is False
    assert not made.busy


def test_a_coordinator_that_began_later_says_that_it_knows_no_plan_and_fails_what_is_staged_by_one() -> None:
    made, whole = coordinator(2), plan_of(2)
    (answer,) = made.asked(0, 1, now=0)
    assert isinstance(answer, Tell)
    assert answer.message["plan"] is None
    attempt = answer.message["attempt"]
    made.staged(0, attempt, whole.digest, now=0)
    orders = made.staged(1, attempt, whole.digest, now=0)
    (failed,) = [message for message in told(orders, 0) if "failed" in message]
    assert failed["failed"] == "the checkpoints' coordinator does not know what is to be saved"
    for rank in (0, 1):
        made.receipt(rank, attempt, 0, files_of(rank, whole), now=0)
    assert not made.busy


def test_a_plan_that_was_agreed_on_is_named_in_the_next_answer() -> None:
    made, whole = coordinator(1), plan_of(1)
    attempt = begun(made.asked(0, 1, now=0), 0)
    made.planned(0, attempt, whole.digest, whole, now=0)
    made.receipt(0, attempt, 0, files_of(0, whole), now=0)
    made.committed(0, None, now=0)
    (answer,) = made.asked(0, 2, now=0)
    assert isinstance(answer, Tell)
    assert answer.message["plan"] == whole.digest


def test_a_rank_that_ends_before_it_has_copied_its_state_ends_the_attempt() -> None:
    made, whole = coordinator(2), plan_of(2)
    attempt = begun(made.asked(1, 1, now=0), 1)
    made.staged(1, attempt, whole.digest, now=0)
    orders = made.ended(0, now=0)
    assert told(orders, 1)[0]["failed"] == "rank 0 has ended before it had copied its state"
    made.receipt(1, attempt, 0, files_of(1, whole), now=0)
    assert not made.busy


def test_a_rank_that_ends_after_it_has_copied_its_state_is_saved() -> None:
    made, whole = coordinator(2), plan_of(2)
    attempt = begun(made.asked(0, 1, now=0), 0)
    for rank in (0, 1):
        made.planned(rank, attempt, whole.digest, whole, now=0)
        made.staged(rank, attempt, whole.digest, now=0)
        assert made.ended(rank, now=0) == []
    made.receipt(0, attempt, 0, files_of(0, whole), now=0)
    assert isinstance(made.receipt(1, attempt, 0, files_of(1, whole), now=0)[0], Commit)


def test_a_rank_that_waits_for_its_last_save_hears_that_another_has_ended() -> None:
    made, whole = coordinator(2), plan_of(2)
    attempt = begun(made.asked(0, 1, now=0), 0)
    for rank in (0, 1):
        made.planned(rank, attempt, whole.digest, whole, now=0)
    made.staged(1, attempt, whole.digest, now=0)
    assert made.asked(1, 2, must=True, now=0) == []  # it waits for the end of the first
    orders = [*made.ended(0, now=0), *made.receipt(1, attempt, 0, files_of(1, whole), now=0)]
    (answer,) = [message for message in told(orders, 1) if "answer" in message]
    assert answer["why"] == "rank 0 has ended"
    assert not made.busy


def test_a_training_that_goes_back_saves_its_old_steps_anew() -> None:
    made, whole = coordinator(2), plan_of(2)
    seen = set()
    for step in [*range(1, 30), *range(5, 30)]:
        names = {begun(made.asked(rank, step, now=0), rank) for rank in (0, 1)}
        (name,) = names
        seen.add(name)
        for rank in (0, 1):
            made.planned(rank, name, whole.digest, whole, now=0)
            made.receipt(rank, name, 0, files_of(rank, whole), now=0)
        made.committed(0, None, now=0)
    assert len(seen) == 29 + 25


@pytest.mark.parametrize("first", [0, 1])
def test_where_one_rank_cannot_save_those_who_wait_for_its_plan_hear_it_and_the_next_save_is_made(first: int) -> None:
    made, whole = coordinator(2), plan_of(2)
    attempt = begun(made.asked(0, 1, now=0), 0)
    made.asked(1, 1, now=0)
    orders: list[Order] = []
    for rank in (first, 1 - first):
        if rank:
            orders += made.unable(1, attempt, "rank 1 has no memory", now=0)
        else:
            orders += made.planned(0, attempt, whole.digest, whole, now=0)
    assert {"agreed": attempt, "why": "rank 1 has no memory"} in told(orders, 0)
    assert told(orders, 0)[-1] == {"over": attempt, "step": 1, "kept": False}
    assert not made.busy
    assert begun(made.asked(0, 2, now=0), 0) == begun(made.asked(1, 2, now=0), 1) != attempt


def test_a_rank_that_gives_up_after_it_has_told_its_plan_ends_the_attempt_when_it_asks_again() -> None:
    made, whole = coordinator(2), plan_of(2)
    attempt = begun([*made.asked(0, 1, now=0), *made.asked(1, 1, now=0)], 1)
    for rank in (0, 1):
        made.planned(rank, attempt, whole.digest, whole, now=0)
    made.staged(0, attempt, whole.digest, now=0)
    made.receipt(0, attempt, 0, files_of(0, whole), now=0)
    failed, over, answer = told(made.asked(1, 2, now=0), 1)
    assert (failed["failed"], over["over"]) == ("rank 1 did not save it", attempt)
    assert answer["attempt"] != attempt


def test_a_rank_whose_answer_came_too_late_does_not_wait_at_the_stop_for_what_only_it_can_do() -> None:
    made, whole = coordinator(2), plan_of(2)
    attempt = begun([*made.asked(0, 1, now=0), *made.asked(1, 1, now=0)], 1)
    made.staged(0, attempt, whole.digest, now=0)
    made.receipt(0, attempt, 0, files_of(0, whole), now=0)
    failed, over, answer = told(made.asked(1, 1, must=True, now=0), 1)
    assert (failed["failed"], over["over"]) == ("rank 1 did not save it", attempt)
    assert answer["attempt"] != attempt


def test_a_rank_that_waits_at_a_later_step_is_not_waited_for_at_an_earlier_one() -> None:
    made, whole = coordinator(2), plan_of(2)
    first = begun([*made.asked(0, 1, now=0), *made.asked(1, 1, now=0)], 1)
    for rank in (0, 1):
        made.staged(rank, first, whole.digest, plan=whole, now=0)
        made.asked(rank, 2, must=True, now=0)
    made.lost(1, "is gone", now=0)
    made.joined(1)
    assert made.asked(1, 3, must=True, now=0) == []
    over, answer, failed = told(made.receipt(0, first, 0, files_of(0, whole), now=0), 0)
    assert (over["over"], answer["answer"]) == (first, 2)
    assert (failed["failed"], failed["attempt"]) == ("rank 1 did not save it", answer["attempt"])
    orders = made.planned(0, answer["attempt"], whole.digest, whole, now=0)
    assert told(orders, 0)[0] == {"agreed": answer["attempt"], "why": "rank 1 did not save it"}
    assert [message["answer"] for message in told(orders, 1) if "answer" in message] == [3]
    assert made.busy


def test_the_receipt_of_a_writer_that_was_lost_and_came_again_does_not_count() -> None:
    made, whole = coordinator(2), plan_of(2)
    attempt = begun(made.asked(0, 1, now=0), 0)
    for rank in (0, 1):
        made.planned(rank, attempt, whole.digest, whole, now=0)
    made.lost(1, "is gone", now=0)
    made.joined(1)
    assert made.receipt(1, attempt, 0, files_of(1, whole), now=0) == []
    orders = made.receipt(0, attempt, 0, files_of(0, whole), now=0)
    assert told(orders, 0) == [{"over": attempt, "step": 1, "kept": False}]


@dataclass
class World:
    """Ranks with their writers as they behave: some slow, some lost, in any order."""

    dice: random.Random
    ranks: int
    tiers: int
    made: Coordinator = field(init=False)
    answers: dict[tuple[int, bool], set[str]] = field(default_factory=dict)
    waiting: dict[int, tuple[int, bool]] = field(default_factory=dict)
    comparing: dict[int, str] = field(default_factory=dict)
    to_do: dict[int, deque[Callable[[], list[Order]]]] = field(default_factory=dict)
    committing: deque[Commit] = field(default_factory=deque)
    begun: list[str] = field(default_factory=list)
    over: list[str] = field(default_factory=list)
    receipts: dict[tuple[str, int], set[int]] = field(default_factory=dict)
    steps: dict[int, int] = field(default_factory=dict)
    unstaged: set[Callable[[], list[Order]]] = field(default_factory=set)
    """What ranks have to do before their writers do the rest."""
    dead: set[int] = field(default_factory=set)
    given_up: set[int] = field(default_factory=set)
    """Ranks that save no more of what they were told, until they ask again."""
    commits: int = 0

    def __post_init__(self) -> None:
        self.made = coordinator(self.ranks, tiers=self.tiers, every=self.dice.choice((1, 2, 3)))
        self.plans = [plan_of(self.ranks, width=width) for width in (4, 5)]
        self.other = plan_of(self.ranks, width=7)
        self.to_do = {rank: deque() for rank in range(self.ranks)}
        self.steps = dict.fromkeys(range(self.ranks), 0)

    def carry_out(self, orders: list[Order]) -> None:
        for order in orders:
            match order:
                case Commit():
                    assert order.manifest.attempt == self.begun[-1], "an order for what is over"
                    assert self.receipts[order.manifest.attempt, order.tier] == set(range(self.ranks))
                    assert len(order.manifest.files) == 2 * self.ranks
                    self.committing.append(order)
                case Tell(rank, message):
                    for each in range(self.ranks) if rank == EVERYBODY else (rank,):
                        if each not in self.dead:
                            self.hear(each, message)
                    self.note(message)

    def note(self, message: dict[str, Any]) -> None:
        if "over" in message:
            assert message["over"] not in self.over, "it ends twice"
            self.over.append(message["over"])
        if "attempt" in message and "answer" in message and message["attempt"] not in self.begun:
            assert self.begun == self.over, "two attempts at once"
            self.begun.append(message["attempt"])

    def hear(self, rank: int, message: dict[str, Any]) -> None:
        if "answer" in message and self.waiting.get(rank) == (message["answer"], message["must"]):
            del self.waiting[rank]
            key = (message["answer"], message["must"])
            core = {name: message.get(name) for name in ("attempt", "why", "next", "begun", "over")}
            self.answers.setdefault(key, set()).add(repr(core))
            if "attempt" in message and "begun" not in message:
                self.save(rank, message["attempt"], agreed=message["plan"])
        if "agreed" in message and self.comparing.get(rank) == message["agreed"]:
            del self.comparing[rank]
            if "why" not in message and "differs" not in message:
                self.stage(rank, message["agreed"])

    def save(self, rank: int, attempt: str, *, agreed: str | None) -> None:
        mine = self.other if self.dice.random() < 0.02 else self.plan_of(attempt)
        if self.dice.random() < 0.05:
            self.to_do[rank].append(lambda: self.made.unable(rank, attempt, "no memory", now=0))
        elif agreed != mine.digest:

            def say() -> list[Order]:
                self.comparing[rank] = attempt
                return self.made.planned(rank, attempt, mine.digest, mine, now=0)

            self.unstaged.add(say)
            self.to_do[rank].append(say)
        else:
            self.stage(rank, attempt)

    def stage(self, rank: int, attempt: str) -> None:
        copy = lambda: self.made.staged(rank, attempt, self.plan_of(attempt).digest, now=0)  # noqa: E731
        self.unstaged.add(copy)
        self.to_do[rank].append(copy)
        for tier in range(self.tiers):
            self.to_do[rank].append(lambda tier=tier: self.written(rank, attempt, tier))  # type: ignore[misc]

    def written(self, rank: int, attempt: str, tier: int) -> list[Order]:
        if self.dice.random() < 0.05:
            return self.made.refused(rank, attempt, tier, "the disk is full", now=0)
        self.receipts.setdefault((attempt, tier), set()).add(rank)
        return self.made.receipt(rank, attempt, tier, files_of(rank, self.plan_of(attempt)), now=0)

    def plan_of(self, attempt: str) -> Plan:
        """What is to be saved changes now and then, for all ranks alike."""
        return self.plans[int(attempt, 16) // 2 % 2]

    def turn(self, *, losses: bool) -> bool:
        """One event, whichever. Returns whether there was one."""
        alive = [rank for rank in range(self.ranks) if rank not in self.dead]
        working = [rank for rank in alive if self.to_do[rank]]
        events: list[tuple[str, int]] = [("work", rank) for rank in working]
        events += [("commit", 0)] * bool(self.committing)
        free = [r for r in alive if r not in self.waiting and r not in self.comparing and not self.to_do[r]]
        if losses:
            events += [("give_up", rank) for rank in alive if self.dice.random() < 0.01]
            front = min(self.steps.values()) + 1  # a collective holds ranks together
            events += [("ask", rank) for rank in free if self.steps[rank] < front]
            if self.dice.random() < 0.02:
                events += [("lose", self.dice.randrange(self.ranks))]
            events += [("join", rank) for rank in self.dead]
        if not events:
            return False
        what, rank = self.dice.choice(events)
        getattr(self, f"_{what}")(rank)
        return True

    def _work(self, rank: int) -> None:
        self.carry_out(self.to_do[rank].popleft()())

    def _commit(self, _: int) -> None:
        commit = self.committing.popleft()
        why = "no answer" if self.dice.random() < 0.1 else None
        self.commits += why is None
        self.carry_out(self.made.committed(commit.tier, why, now=0))

    def _ask(self, rank: int) -> None:
        self.steps[rank] += 1
        self.given_up.discard(rank)
        step = self.steps[rank]
        must = step % 7 in (0, 1)
        self.waiting[rank] = (step, must)
        self.carry_out(self.made.asked(rank, step, must=must, now=0))

    def _lose(self, rank: int) -> None:
        if rank in self.dead:
            return
        self.dead.add(rank)
        self.to_do[rank].clear()
        self.waiting.pop(rank, None)
        self.comparing.pop(rank, None)
        gone = self.made.ended(rank, now=0) if self.dice.random() < 0.3 else []
        self.carry_out([*gone, *self.made.lost(rank, "is gone", now=0)])

    def _give_up(self, rank: int) -> None:
        """An exception that the script takes for harmless; or an answer that comes too late."""
        if not self.unstaged.isdisjoint(self.to_do[rank]):
            self.to_do[rank].clear()
        self.given_up.add(rank)
        self.waiting.pop(rank, None)
        self.comparing.pop(rank, None)

    def _join(self, rank: int) -> None:
        self.dead.discard(rank)
        self.made.joined(rank)


@pytest.mark.parametrize("seed", range(150))
def test_whatever_happens_in_whatever_order_all_hear_the_same_and_nobody_waits_for_ever(seed: int) -> None:
    dice = random.Random(seed)
    world = World(dice, ranks=dice.randint(1, 5), tiers=dice.randint(1, 2))
    for _ in range(600):
        world.turn(losses=True)
    while world.turn(losses=False):
        pass
    assert all(len(answers) == 1 for answers in world.answers.values()), world.answers
    if world.made.busy or world.comparing or world.waiting:
        late = {rank for rank, step in world.steps.items() if step < max(world.steps.values())} | world.given_up
        assert late - world.dead, f"{world.comparing} and {world.waiting} wait for nobody"
    # They wait for ranks that have not asked yet: that those die ends it, too.
    for rank in list(range(world.ranks)):
        world._lose(rank)
        while world.turn(losses=False):
            pass
    assert world.begun == world.over
    assert not world.made.busy
    assert not world.waiting
    assert not world.comparing


def test_most_saves_of_such_ranks_are_committed() -> None:
    """Else the test before this one shows nothing."""
    commits = 0
    for seed in range(30):
        dice = random.Random(seed)
        world = World(dice, ranks=3, tiers=1)
        for _ in range(600):
            world.turn(losses=True)
        commits += world.commits
    assert commits > 300
