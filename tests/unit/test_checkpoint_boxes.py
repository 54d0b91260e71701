"""Parts of tensors: what they have in common, and whether they are all of it."""

from __future__ import annotations

import itertools
import random

import pytest

from trainkit.checkpoint import boxes
from trainkit.checkpoint.boxes import Box, Shape


def elements(box: Box) -> set[Shape]:
    return set(itertools.product(*(range(o, o + n) for o, n in zip(*box, strict=True))))


def random_shape(dice: random.Random) -> Shape:
    return tuple(dice.randint(1, 6) for _ in range(dice.randint(0, 3)))


def random_box(dice: random.Random, shape: Shape) -> Box:
    offsets = tuple(dice.randrange(size) for size in shape)
    return Box(offsets, tuple(dice.randint(1, size - o) for o, size in zip(offsets, shape, strict=True)))


def random_partition(dice: random.Random, shape: Shape) -> list[Box]:
    """Cut again and again, here and there: no grid."""
    parts = [Box.whole(shape)]
    for _ in range(dice.randint(0, 6)):
        at = dice.randrange(len(parts))
        wide = [dimension for dimension, length in enumerate(parts[at].lengths) if length > 1]
        if wide:
            dimension = dice.choice(wide)
            box = parts.pop(at)
            parts += box.split(dice.randint(1, box.lengths[dimension]), dimension=dimension)
    dice.shuffle(parts)
    return parts


@pytest.mark.parametrize("seed", range(20))
def test_what_two_boxes_have_in_common_is_what_lies_in_both(seed: int) -> None:
    dice = random.Random(seed)
    for _ in range(50):
        shape = random_shape(dice)
        one, other = random_box(dice, shape), random_box(dice, shape)
        both = one.overlap(other)
        assert (elements(both) if both else set()) == elements(one) & elements(other)
        assert both == other.overlap(one)
        assert one.volume == len(elements(one))


@pytest.mark.parametrize("seed", range(20))
def test_parts_of_a_box_are_all_of_it_and_about_equal(seed: int) -> None:
    dice = random.Random(seed)
    for _ in range(50):
        shape = (*random_shape(dice), dice.randint(1, 9))
        box = random_box(dice, shape)
        dimension = dice.randrange(len(shape))
        parts = list(box.split(dice.randint(1, box.lengths[dimension]), dimension=dimension))
        assert set().union(*map(elements, parts)) == elements(box)
        assert sum(part.volume for part in parts) == box.volume
        lengths = [part.lengths[dimension] for part in parts]
        assert min(lengths) >= 1
        assert max(lengths) - min(lengths) <= 1


@pytest.mark.parametrize("seed", range(20))
def test_a_partition_is_told_from_anything_else(seed: int) -> None:
    dice = random.Random(seed)
    for _ in range(50):
        shape = random_shape(dice)
        parts = random_partition(dice, shape)
        assert boxes.problem(shape, parts) is None
        changed = list(parts)
        at = dice.randrange(len(changed))
        if dice.random() < 0.3:
            changed.pop(at)
        elif dice.random() < 0.5:
            changed.append(changed[at])
        else:
            changed[at] = random_box(dice, shape)
        once = sum(box.volume for box in changed) == len(set().union(*map(elements, changed)))
        exact = once and sum(box.volume for box in changed) == Box.whole(shape).volume
        assert (boxes.problem(shape, changed) is None) == exact, (shape, changed)


@pytest.mark.parametrize(
    ("box", "part"),
    [
        (Box((0,), (4, 1)), "another number of dimensions"),
        (Box((0, 0), (4, 0)), "is empty"),
        (Box((0, -1), (4, 1)), "reaches beyond"),
        (Box((1, 0), (4, 1)), "reaches beyond"),
    ],
)
def test_a_box_that_is_no_part_of_a_tensor_is_named(box: Box, part: str) -> None:
    assert part in (boxes.problem((4, 1), [box]) or "")


def test_a_scalar_and_an_empty_tensor_have_partitions_too() -> None:
    assert boxes.problem((), [Box.whole(())]) is None
    assert boxes.problem((), []) is not None
    assert boxes.problem((), [Box.whole(())] * 2) is not None
    assert boxes.problem((0, 3), []) is None


def test_a_pinwheel_is_a_partition() -> None:
    wheel = [Box((0, 0), (1, 2)), Box((0, 2), (2, 1)), Box((2, 1), (1, 2)), Box((1, 0), (2, 1)), Box((1, 1), (1, 1))]
    assert boxes.problem((3, 3), wheel) is None
    assert boxes.problem((3, 3), [*wheel[:4], Box((0, 0), (1, 1))]) is not None


def test_pieces_that_lie_like_bricks_are_compared_with_few_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each with each other would be 200 million times."""
    many = 20_000
    bricks = [Box((at, at % 2), (2, 1)) for at in range(many)] + [Box((0, 1), (1, 1)), Box((many, 0), (1, 1))]
    compared = 0
    overlap = Box.overlap

    def counted(one: Box, other: Box) -> Box | None:
        nonlocal compared
        compared += 1
        return overlap(one, other)

    monkeypatch.setattr(Box, "overlap", counted)
    assert boxes.problem((many + 1, 2), bricks) is None
    assert compared < many
    assert boxes.problem((many + 1, 2), [*bricks[:-1], Box((5, 0), (1, 1))]) == "two of its pieces overlap"
