"""The order of an epoch: every row once, the same for everyone, computed and not simulated."""

from __future__ import annotations

import time

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from trainkit.data.order import Order

SIZES = st.lists(st.integers(0, 9), max_size=40).map(lambda rows: np.array(rows, dtype=np.int64))


def whole(order: Order, rows: np.ndarray) -> list[tuple[int, int]]:
    places = order.places(np.arange(order.total))
    found = []
    for block, turn in zip(places.blocks.tolist(), places.turns.tolist(), strict=True):
        mixed = order.mixed(block, int(rows[block]))
        found.append((block, turn if mixed is None else int(mixed[turn])))
    return found


@given(
    rows=SIZES, seed=st.integers(0, 2**63), epoch=st.integers(0, 99), lanes=st.integers(1, 50), shuffle=st.booleans()
)
@settings(deadline=None)
def test_every_row_comes_once(rows: np.ndarray, seed: int, epoch: int, lanes: int, shuffle: bool) -> None:
    order = Order.of(rows, seed=seed, epoch=epoch, lanes=lanes, shuffle=shuffle)
    found = whole(order, rows)
    assert sorted(found) == [(block, row) for block, count in enumerate(rows.tolist()) for row in range(count)]
    if not shuffle:
        assert found == sorted(found)


def test_the_order_is_one_that_was_written_down() -> None:
    """A resumed job goes on in the order of another day and another version: it may not change unnoticed."""
    rows = np.array([3, 3, 2, 3, 3], dtype=np.int64)
    order = Order.of(rows, seed=7, epoch=2, lanes=2)
    assert whole(order, rows) == WRITTEN_DOWN


WRITTEN_DOWN = [
    (1, 2), (4, 1), (1, 0), (4, 2), (1, 1), (4, 0), (0, 0), (3, 2), (0, 1), (3, 0), (0, 2), (3, 1), (2, 0), (2, 1),
]  # fmt: skip


def test_epochs_and_seeds_differ() -> None:
    rows = np.full(20, 5)
    orders = [Order.of(rows, seed=seed, epoch=epoch, lanes=4) for seed in (1, 2) for epoch in (0, 1)]
    assert len({tuple(whole(order, rows)) for order in orders}) == 4


def test_a_rank_meets_its_own_lanes_only_where_their_number_is_a_multiple_of_the_ranks() -> None:
    rows = np.full(600, 40)
    order = Order.of(rows, seed=1, epoch=0, lanes=24)
    met = [set(order.places(np.arange(rank, order.total, 8)).blocks.tolist()) for rank in range(8)]
    assert sum(map(len, met)) == 600


def test_a_batch_holds_rows_of_as_many_blocks_as_there_are_lanes() -> None:
    order = Order.of(np.full(600, 40), seed=1, epoch=0, lanes=64)
    for start in (0, 640, 12_345):
        assert len(set(order.places(np.arange(start, start + 64)).blocks.tolist())) == 64


def test_a_million_blocks_are_planned_and_sought_in_an_instant() -> None:
    """Bounds are ten times what it takes here, since machines are busy; benchmarks say the figures."""
    rows = np.full(1_000_000, 1000)
    began = time.process_time()
    order = Order.of(rows, seed=1, epoch=0, lanes=4096)
    planned = time.process_time()
    order.places(np.arange(900_000_000, 900_000_512))
    assert planned - began < 3
    assert time.process_time() - planned < 0.1
