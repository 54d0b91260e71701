"""Packing: every token once, in sequences of one length, on any number of ranks; and transforms that filter."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_data_stream import Storage, choices, flat, steps, streams

from trainkit.data.batches import Ragged
from trainkit.data.mixture import Mixture
from trainkit.data.packing import PADDING, Packed
from trainkit.data.stream import All, Stream
from trainkit.errors import DataError

MOST = 16  # tokens of a document


def tokens(row: int) -> list[int]:
    """A document: each of its tokens tells which one it is of; some have none."""
    return [row * MOST + at for at in range(row * 7 % 11)]


def tokenized(table: pa.Table) -> pa.Table:
    """Rows as token lists, without those whose number ends with 3."""
    rows = [row for row in table["n"].to_pylist() if row % 10 != 3]
    return pa.table({"ids": pa.array([tokens(row) for row in rows], pa.list_(pa.int32()))})


def packed(
    storage: Storage, ranks: int, *, length: int = 5, batch: int = 2, tail: str = "pad", **changed: Any
) -> list[Packed]:
    # What a stream does at its own end must not matter: packing takes every row.
    given: dict[str, Any] = {"transform": tokenized, "tail": "drop", **changed}
    end = given.pop("end", None)
    return [
        stream.packed("ids", length=length, batch_size=batch, tail=tail, end=end)  # type: ignore[arg-type]
        for stream in streams(storage, ranks, **given)
    ]


def sequences(world: Sequence[Packed], most: int | None = None) -> list[list[int]]:
    """The tokens of each global batch, in order, without padding; what lies beside the tokens is checked."""
    found: list[list[int]] = []
    running = [iter(rank) for rank in world]
    while most is None or len(found) < most:
        parts = [next(rank, None) for rank in running]
        if parts[0] is None:
            assert parts == [None] * len(parts), "every rank has as many batches"
            break
        found.append(flat([checked(part) for part in parts if part is not None]))
    for rank in world:
        rank.close()
    return found


def checked(batch: dict[str, Any]) -> list[int]:
    bounds, size, length = [], batch["tokens"].size, batch["tokens"].shape[1]
    for number, (row, segments, positions) in enumerate(
        zip(batch["tokens"], batch["segments"], batch["positions"], strict=True)
    ):
        real = segments != PADDING
        assert not row[~real].any()
        assert not positions[~real].any()
        assert real.tolist() == sorted(real.tolist(), reverse=True)
        segment, position, before = -1, 0, None
        for at, token in enumerate(row[real].tolist()):
            begins = token // MOST != before
            segment, position, before = segment + begins, 0 if begins else position + 1, token // MOST
            assert (segments[at], positions[at]) == (segment, position)
            bounds += [number * length + at] if begins else []
        if not real.all():
            bounds.append(number * length + int(real.sum()))
    least = [bound for bound in batch["cu_seqlens"].tolist() if bound in bounds or bound == size]
    assert least == [*bounds, size]
    assert set(batch["cu_seqlens"].tolist()) <= {*bounds, size, *range(0, size, length)}
    return [int(token) for token in batch["tokens"][batch["segments"] != PADDING]]


def epoch(storage: Storage, **changed: Any) -> list[int]:
    """All tokens of the first epoch, in its order."""
    (alone,) = streams(storage, 1, batch_size=1, **changed)
    return flat([tokens(row) for row in flat(steps([alone])) if row % 10 != 3])


@given(
    size=st.integers(20, 60), rows=st.integers(1, 9), shuffle=st.booleans(), data=st.data(),
    worlds=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 3), st.integers(1, 9)), min_size=3, max_size=3),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_every_token_comes_once_though_interrupted_twice_and_resumed_by_other_worlds_with_other_lengths(
    size: int, rows: int, shuffle: bool, data: st.DataObject, worlds: list[tuple[int, int, int]]
) -> None:
    storage = Storage([size])
    seen: list[int] = []
    state: dict[str, Any] | None = None
    for leg, (ranks, batch, length) in enumerate(worlds):
        world = packed(storage, ranks, length=length, batch=batch, rows=rows, shuffle=shuffle)
        if state is not None:
            for rank in world:
                rank.load_state_dict(state)
        most = None if leg == 2 else data.draw(st.integers(0, 6))
        seen += flat(sequences(world, most))
        states = [rank.state_dict() for rank in world]
        assert all(other == states[0] for other in states)
        state = states[0]
        assert len(str(state)) < 1000
        if state["rows"]["epoch"]:  # the last leg had none left to do
            break
    assert seen == epoch(storage, rows=rows, shuffle=shuffle)


def test_the_tail_is_dropped_or_padded_and_epochs_begin_anew() -> None:
    storage = Storage([40])
    whole = epoch(storage)
    dropped = packed(storage, 2, tail="drop")
    found = sequences(dropped)
    assert flat(found) == whole[: len(whole) // 20 * 20]
    assert {len(batch) for batch in found} == {20}
    padded = packed(storage, 2, tail="pad")
    first, second = flat(sequences(padded)), flat(sequences(padded))
    assert first == whole
    assert second != whole
    assert sorted(second) == sorted(whole)
    assert padded[0].epoch == padded[1].epoch == 2


def test_the_state_after_an_epochs_last_batch_is_the_next_epochs_beginning() -> None:
    storage = Storage([40])
    (one,) = packed(storage, 1, tail="drop")
    count = len(sequences([one]))
    (other,) = packed(storage, 1, tail="drop")
    running = iter(other)
    for _ in range(count):
        next(running)
    assert other.state_dict() == one.state_dict()
    assert other.epoch == 1
    other.close()


def test_on_more_ranks_what_is_left_may_fill_no_step_and_that_epoch_is_over() -> None:
    storage = Storage([40])
    (one,) = packed(storage, 1, tail="drop", length=7, batch=1)
    sequences([one], len(epoch(storage)) // 7 - 1)
    world = packed(storage, 4, tail="drop", length=7, batch=2)
    for rank in world:
        rank.load_state_dict(one.state_dict())
    assert sequences(world) == []
    assert {rank.epoch for rank in world} == {1}
    assert sequences(world)


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_an_end_is_put_behind_each_row_and_belongs_to_it(kind: str) -> None:
    (one,) = packed(Storage([5]), 1, end=9999, shuffle=False, length=20, batch=1, kind=kind)
    (batch,) = one
    rows = [[*tokens(row), 9999] for row in (0, 1, 2, 4)]
    assert batch["tokens"].tolist() == [flat(rows)]
    assert batch["segments"].tolist() == [[at for at, row in enumerate(rows) for _ in row]]
    assert batch["positions"].tolist() == [[at for row in rows for at in range(len(row))]]
    assert batch["cu_seqlens"].tolist() == [0, 1, 9, 13, 20]
    assert [str(batch[name].dtype).removeprefix("torch.") for name in ("tokens", "cu_seqlens")] == ["int64", "int32"]


def test_lists_of_a_fixed_size_are_packed_too() -> None:
    def pairs(table: pa.Table) -> pa.Table:
        numbers = table["n"].to_numpy()
        return pa.table({"ids": pa.FixedSizeListArray.from_arrays(np.stack([numbers, -numbers], 1).reshape(-1), 2)})

    (one,) = packed(Storage([6]), 1, transform=pairs, shuffle=False, length=3, batch=1)
    assert np.concatenate([batch["tokens"][0] for batch in one]).tolist() == [0, 0, 1, -1, 2, -2, 3, -3, 4, -4, 5, -5]


def test_packed_streams_can_be_mixed() -> None:
    a, b = (packed(Storage([size]), 1)[0] for size in (30, 50))
    both = Mixture({"a": (a, 0.5), "b": (b, 0.5)}, until="last", seed=1)
    found = [checked(batch) for batch in both if both.source == "b"]
    assert flat(found)[: len(epoch(Storage([50])))] == epoch(Storage([50]))
    with pytest.raises(TypeError, match="Packed"):
        len(both)


def test_what_cannot_be_packed_is_said() -> None:
    storage = Storage([40])
    (stream,) = streams(storage, 1)
    with pytest.raises(DataError, match="has no column 'ids'; it has n"):
        stream.packed("ids", length=5, batch_size=1)
    with pytest.raises(DataError, match="'n' has the type int64, and packing needs lists"):
        next(iter(stream.packed("n", length=5, batch_size=1)))
    with pytest.raises(DataError, match="of token lists, and transform returned columns n"):
        next(iter(packed(storage, 1, transform=lambda table: table)[0]))
    with pytest.raises(DataError, match="of token lists, and transform returned int"):
        next(iter(packed(storage, 1, transform=lambda table: 7)[0]))
    with pytest.raises(DataError, match=r"too few tokens for one step of 1 ranks, which takes 9000.*tail='pad'"):
        next(iter(packed(storage, 1, length=9000, batch=1, tail="drop")[0]))
    shared = Stream(storage.index(5), storage, choices(), rank=0, ranks=1, all=All((40, 41), "f" * 16))
    with pytest.raises(DataError, match=r"each host has other files.*Use FullyReplicated"):
        shared.packed("n", length=5, batch_size=1)
    for wrong in ({"length": 0}, {"batch": 0}, {"tail": "exact"}, {"kind": "arrow"}):
        with pytest.raises(ValueError, match=r"must be|make the stream with"):
            packed(storage, 1, **wrong)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("trainkit")]


def test_a_state_goes_with_its_data_and_a_transform_that_makes_fewer_tokens_is_found_out() -> None:
    storage = Storage([40])
    (one,) = packed(storage, 1, length=9, batch=1)
    sequences([one], 4)
    state = one.state_dict()
    assert state["tokens"] > 0
    with pytest.raises(DataError, match="its fingerprint is"):
        packed(Storage([41]), 1)[0].load_state_dict(state)
    with pytest.raises(DataError, match="no state of a packed stream"):
        one.load_state_dict(streams(storage, 1)[0].state_dict())
    (other,) = packed(storage, 1, transform=lambda table: tokenized(table).slice(0, 0))
    other.load_state_dict(state)
    with pytest.raises(DataError, match="transform must make the same"):
        next(iter(other))


def test_a_transform_may_return_fewer_rows_or_none_or_more_and_every_rank_has_as_many_batches() -> None:
    def some(table: pa.Table) -> pa.Table:
        numbers = table["n"].to_numpy()
        return table.take(np.repeat(np.arange(len(numbers)), np.where(numbers < 20, 0, numbers % 3)))

    world = streams(Storage([37]), 2, transform=some, shuffle=False, batch_size=2)
    batches = [[batch["n"].tolist() for batch in rank] for rank in world]
    assert len(batches[0]) == len(batches[1]) == 10
    assert batches[0][0] == []
    assert sorted(flat(flat(batches))) == [row for row in range(20, 37) for _ in range(row % 3)]


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_a_batch_without_rows_has_the_columns_of_any_other(kind: str) -> None:
    def none(table: pa.Table) -> pa.Table:
        count = table.num_rows
        more = {"lists": pa.array([[1]] * count), "pairs": pa.array([[1, 2]] * count, pa.list_(pa.int64(), 2))}
        return pa.table({"n": table["n"], "text": ["x"] * count, **more}).filter(pa.array([False] * count))

    (alone,) = streams(Storage([12]), 1, transform=none, kind=kind)
    batch = next(iter(alone))
    alone.close()
    assert (batch["n"].shape, batch["pairs"].shape, batch["text"]) == ((0,), (0, 2), [])
    assert isinstance(batch["lists"], Ragged)
    assert (batch["lists"].values.shape, batch["lists"].offsets.tolist()) == ((0,), [0])


def test_a_transform_that_returns_nothing_is_an_error_with_its_remedy() -> None:
    (alone,) = streams(Storage([12]), 1, transform=lambda table: None)
    with pytest.raises(DataError, match=r"transform returned None, which is no batch.*table\.filter"):
        next(iter(alone))
