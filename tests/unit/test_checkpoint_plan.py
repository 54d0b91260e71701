"""Who writes what: alike on all ranks, whole, fair, and cheap for many ranks and tensors."""

from __future__ import annotations

import json
import random
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from checkpoint_made import random_tensors

from trainkit.checkpoint import boxes, image, manifest, plan
from trainkit.checkpoint.boxes import Box
from trainkit.checkpoint.plan import Held, Holdings, Plan


def calls_of(work: Callable[[], Any]) -> int:
    """How many Python functions it calls: a measure that a busy machine does not change."""
    count = 0

    def note(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event == "call"

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(before)
    return count


@pytest.mark.parametrize("seed", range(20))
def test_each_element_is_in_one_rank_s_file_whatever_lies_where(seed: int) -> None:
    dice = random.Random(seed)
    ranks = dice.choice((1, 2, 3, 4, 7))
    held = random_tensors(dice, ranks, count=20)
    made = plan.make(held, host_of=[rank // 2 for rank in range(ranks)], copies=dice.random() < 0.5)
    assert sorted(tensor.name for tensor in made.tensors) == sorted(one.name for one in held)
    for layout in made.layouts:
        assert boxes.problem(layout.shape, [piece.box for piece in layout.pieces]) is None
    shapes = {one.name: one.shape for one in held}
    for tensor in made.tensors:
        assert made.layouts[tensor.layout].shape == shapes[tensor.name]
    for rank in range(ranks):
        holds = {one.name: [box for box, holders in one.holdings.boxes if rank in holders] for one in held}
        for tensor, box in made.pieces(rank):
            assert any(outer.overlap(box) == box for outer in holds[tensor.name]), "a rank writes what it does not hold"


@pytest.mark.parametrize("seed", range(20))
def test_the_plan_is_the_same_for_any_order_of_the_tensors_and_however_they_share_their_holdings(seed: int) -> None:
    dice = random.Random(seed)
    held = random_tensors(dice, 3, count=20)
    made = plan.make(held, host_of=[0, 0, 1], copies=True)
    apart = [one._replace(holdings=Holdings(one.holdings.boxes)) for one in held]
    shared: dict[Any, Holdings] = {}
    alike = [one._replace(holdings=shared.setdefault(one.holdings.boxes, one.holdings)) for one in held]
    for others in (apart, alike):
        dice.shuffle(others)
        other = plan.make(others, host_of=[0, 0, 1], copies=True)
        assert other == made
        assert other.digest == made.digest


@pytest.mark.parametrize("seed", range(10))
def test_each_host_has_all_that_its_ranks_hold(seed: int) -> None:
    dice = random.Random(seed)
    ranks, host_of = 4, [0, 0, 1, 1]
    held = random_tensors(dice, ranks, count=12)
    made = plan.make(held, host_of=host_of, copies=True)
    for host in (0, 1):
        there = [rank for rank in range(ranks) if host_of[rank] == host]
        for one in held:
            wanted = [box for box, holders in one.holdings.boxes if any(rank in holders for rank in there)]
            kept = [
                box
                for rank in there
                for copies in (False, True)
                for tensor, box in made.pieces(rank, copies=copies)
                if tensor.name == one.name
            ]
            for box in wanted:
                inside = [both for piece in kept if (both := box.overlap(piece))]
                assert sum(both.volume for both in inside) == box.volume


def test_what_all_ranks_hold_is_shared_out_evenly() -> None:
    whole, ranks = Holdings(((Box.whole((100, 100)), tuple(range(8))),)), 8
    large = Holdings(((Box.whole((4096, 256)), tuple(range(8))),))
    held = [Held(f"small.{n}", "F32", (100, 100), whole) for n in range(64)]
    held += [Held(f"large.{n}", "F32", (4096, 256), large) for n in range(3)]
    made = plan.make(held, host_of=[0] * ranks, copies=False)
    sizes = [image.of(made, rank).size for rank in range(ranks)]
    assert max(sizes) < 1.05 * min(sizes)


def test_counters_are_all_in_one_file_and_lie_together_with_other_small_ones() -> None:
    every = tuple(range(8))
    scalar, bias = Holdings(((Box.whole(()), every),)), Holdings(((Box.whole((900,)), every),))
    large = Holdings(((Box.whole((4096, 256)), every),))
    held = [Held(f"layer{n}.step", "F32", (), scalar) for n in range(40)]
    held += [Held(f"layer{n}.bias", "F32", (900,), bias) for n in range(40)]
    held += [Held(f"layer{n}.weight", "F32", (4096, 256), large) for n in range(40)]
    made = plan.make(held, host_of=[0] * 8, copies=False)
    assert {piece.rank for layout in made.layouts if layout.shape != (4096, 256) for piece in layout.pieces} == {0}
    order = [tensor.name.endswith("weight") for tensor in made.tensors]
    assert order == sorted(order), "what a rank of another job needs of them is in a block or two"


def test_what_ranks_may_have_different_values_of_is_written_by_the_first_alone() -> None:
    held = [Held("buffer", "F32", (4096, 256), Holdings(((Box.whole((4096, 256)), (2, 3)),)), first=True)]
    (layout,) = plan.make(held, host_of=[0] * 4, copies=False).layouts
    assert layout.pieces == ((Box.whole((4096, 256)), 2),)


def sharded(tensors: int, ranks: int) -> list[Held]:
    """As FSDP2 leaves them: few kinds of shapes, cut by rows among all ranks."""
    shapes = [(ranks * (number + 1), 8) for number in range(10)]
    kinds = {
        shape: Holdings(tuple((box, (rank,)) for rank, box in enumerate(Box.whole(shape).split(ranks))))
        for shape in shapes
    }
    return [Held(f"t{n:05d}", "F32", shapes[n % 10], kinds[shapes[n % 10]]) for n in range(tensors)]


@pytest.mark.parametrize(("tensors", "ranks"), [(10_000, 16), (200, 1024)])
def test_a_plan_for_many_ranks_or_tensors_costs_a_few_calls_for_each_of_either(tensors: int, ranks: int) -> None:
    """So 1,024 ranks and 10,000 tensors are a matter of the sum, and not of the product: 0.2 s of CPU."""
    held, made = sharded(tensors, ranks), list[Plan]()
    pieces = 10 * ranks
    calls = calls_of(lambda: made.append(plan.make(held, host_of=[r // 8 for r in range(ranks)], copies=False)))
    assert calls < 12 * tensors + 12 * pieces
    assert len(made[0].layouts) == 10
    document = json.loads(json.dumps(made[0].document))
    assert calls_of(lambda: manifest.plan_of(document, ranks=ranks)) < 12 * tensors + 60 * pieces
    assert calls_of(lambda: image.of(made[0], ranks - 1)) < 20 * tensors + 2 * pieces


def test_a_rank_s_file_begins_its_data_at_a_multiple_of_64_and_has_no_gaps() -> None:
    dice = random.Random(3)
    made = plan.make(random_tensors(dice, 3, count=30), host_of=[0] * 3, copies=False)
    seen: Counter[str] = Counter()
    for rank in range(3):
        whole = image.of(made, rank)
        at = len(whole.header)
        assert at % 64 == 0
        for slot in whole.slots:
            assert slot.start == at
            at += slot.size
            seen[slot.name] += 1
        assert at == whole.size
    assert set(seen) == {tensor.name for tensor in made.tensors}
