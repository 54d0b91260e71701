"""Mixtures: by weight, in a schedule that survives anything, and none of a stream's samples lost or repeated."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_data_stream import Storage, flat, steps, streams

from trainkit.data.mixture import ROUND, Mixture, Schedule, Until
from trainkit.errors import DataError
from trainkit.job import facts
from trainkit.job.context import Context
from trainkit.job.signals import Stop


def mixtures(
    storages: dict[str, Storage], ranks: int, *, weights: Sequence[float] = (0.7, 0.3), until: Until = "last",
    seed: int = 5, **changed: Any,
) -> list[Mixture]:  # fmt: skip
    by_name = {name: streams(storage, ranks, **changed) for name, storage in storages.items()}
    return [
        Mixture(
            {name: (by_name[name][rank], weight) for name, weight in zip(storages, weights, strict=True)},
            until=until,
            seed=seed,
        )
        for rank in range(ranks)
    ]


def mixed(world: Sequence[Mixture], most: int | None = None) -> list[tuple[str, list[int]]]:
    """The global batches of a pass, or of its first few steps: where from, and the rows in the order of the epoch."""
    found: list[tuple[str, list[int]]] = []
    running = [iter(rank) for rank in world]
    while most is None or len(found) < most:
        parts = [next(rank, None) for rank in running]
        if parts[0] is None:
            assert parts == [None] * len(parts), "every rank has as many batches"
            break
        sources = {rank.source for rank in world}
        assert len(sources) == 1, "every rank has a batch of the same stream"
        rows = [part["n"].tolist() for part in parts if part is not None]
        found.append((sources.pop(), [row[at] for at in range(max(map(len, rows))) for row in rows if at < len(row)]))
    for rank in world:
        rank.close()
    return found


def of(found: Sequence[tuple[str, list[int]]], name: str) -> list[int]:
    return flat([rows for source, rows in found if source == name])


def epochs(storage: Storage, least: int) -> list[int]:
    """The uninterrupted order of a stream, over as many epochs as it takes."""
    (alone,) = streams(storage, 1, batch_size=1)
    order: list[int] = []
    while len(order) < least:
        order += flat(steps([alone]))
    return order


@given(
    sizes=st.tuples(st.integers(5, 40), st.integers(5, 40)), share=st.floats(0.05, 0.95), data=st.data(),
    until=st.one_of(st.sampled_from(["first", "last"]), st.integers(1, 30)),
    worlds=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 5)), min_size=3, max_size=3),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_a_mixture_interrupted_twice_and_resumed_by_other_worlds_takes_every_stream_as_it_would_come_alone(
    sizes: tuple[int, int], share: float, until: Until, data: st.DataObject, worlds: list[tuple[int, int]]
) -> None:
    storages = {"a": Storage([sizes[0]]), "b": Storage([sizes[1]])}
    seen: list[tuple[str, list[int]]] = []
    state: dict[str, Any] | None = None
    for leg, (ranks, batch) in enumerate(worlds):
        world = mixtures(storages, ranks, weights=(share, 1 - share), until=until, batch_size=batch)
        if state is not None:
            for rank in world:
                rank.load_state_dict(state)
        left = len(world[0])
        most = None if leg == 2 else data.draw(st.integers(0, left))
        found = mixed(world, most)
        assert len(found) == (left if most is None else most)
        seen += found
        states = [rank.state_dict() for rank in world]
        assert all(other == states[0] for other in states)
        state = states[0]
    names = ["a", "b"]
    schedule = Schedule((share, 1 - share), 5)
    assert [source for source, _ in seen] == [names[source] for source in islice(schedule.sources(0), len(seen))]
    for name, storage in storages.items():
        rows = of(seen, name)
        assert rows == epochs(storage, len(rows))[: len(rows)]


def test_per_cent_are_exact_in_every_hundred_steps_and_come_well_mixed() -> None:
    schedule = Schedule((7.0, 2.5, 0.5), 1)
    for number in range(20):
        assert Counter(schedule.round(number)) == {0: 70, 1: 25, 2: 5}
    assert schedule.round(0) != schedule.round(1)
    assert schedule.round(0)[:70] != [0] * 70
    assert Schedule((7.0, 2.5, 0.5), 2).round(0) != schedule.round(0)


def test_a_stream_of_tiny_weight_comes_in_the_long_run_as_often_as_it_should() -> None:
    schedule = Schedule((1.0, 0.002), 1)
    count = Counter(islice(schedule.sources(0), 1000 * ROUND))[1]
    assert 150 < count < 250


def test_a_pass_ends_where_the_first_the_last_or_so_many_steps_are_through_and_the_next_goes_on() -> None:
    storages = {"a": Storage([40]), "b": Storage([200])}
    (first,) = mixtures(storages, 1, until="first")
    found = mixed([first])
    assert sorted(of(found, "a")) == list(range(40))
    assert len(of(found, "b")) < 200
    assert found[-1][0] == "a"
    again = mixed([first])
    assert sorted(of(again, "a")) == list(range(40))
    assert not set(of(found, "b")) & set(of(again, "b"))
    assert first.epoch == 2
    (last,) = mixtures(storages, 1, until="last")
    found = mixed([last])
    assert sorted(of(found, "b")) == list(range(200))
    assert found[-1][0] == "b"
    assert len(of(found, "a")) > 200
    (counted,) = mixtures(storages, 1, until=7)
    assert [len(mixed([counted])), len(mixed([counted])), counted.epoch] == [7, 7, 2]


def test_a_state_is_small_and_the_order_of_names_makes_no_difference() -> None:
    storages = {name: Storage([40]) for name in ("web", "books", "code", "math")}
    (one,) = mixtures(storages, 1, weights=(0.4, 0.3, 0.2, 0.1))
    (other,) = mixtures(dict(reversed(storages.items())), 1, weights=(0.1, 0.2, 0.3, 0.4))
    assert mixed([one]) == mixed([other])
    assert len(str(one.state_dict())) < 1000


def test_on_more_ranks_what_is_left_of_a_stream_may_fill_no_batch_and_its_next_epoch_begins() -> None:
    storages = {"a": Storage([21]), "b": Storage([100])}
    (one,) = mixtures(storages, 1, weights=(1.0, 0.001), until=50, tail="drop", batch_size=4)
    found = mixed([one], 4)
    assert [source for source, _ in found] == ["a"] * 4
    world = mixtures(storages, 3, weights=(1.0, 0.001), until=50, tail="drop", batch_size=4)
    for rank in world:
        rank.load_state_dict(one.state_dict())
    found = mixed(world, 1)
    assert len(found[0][1]) == 12
    assert found[0][1] == epochs(storages["a"], 42)[21:33]


def test_a_pass_that_ends_so_on_more_ranks_gives_way_to_the_next() -> None:
    storages = {"a": Storage([21]), "b": Storage([100])}
    (one,) = mixtures(storages, 1, weights=(1.0, 0.001), until="first", tail="drop", batch_size=4)
    mixed([one], 4)
    assert (one.epoch, one.position) == (0, 4)
    world = mixtures(storages, 3, weights=(1.0, 0.001), until="first", tail="drop", batch_size=4)
    for rank in world:
        rank.load_state_dict(one.state_dict())
    assert (world[0].epoch, world[0].position, len(world[0])) == (1, 0, 1)
    assert len(mixed(world)) == 1


@pytest.mark.parametrize("until", ["first", "last", 9])
def test_the_state_after_a_passs_last_batch_is_the_next_ones_beginning(until: Until) -> None:
    (one,) = mixtures({"a": Storage([40]), "b": Storage([30])}, 1, until=until)
    running = iter(one)
    for _ in range(len(one)):
        next(running)
    state = one.state_dict()
    assert (state["epoch"], state["position"]) == (1, 0)
    assert next(running, None) is None
    assert one.state_dict() == state


def test_a_state_goes_with_its_streams_and_seed_and_other_weights_may_hold_from_there() -> None:
    storages = {"a": Storage([40]), "b": Storage([40])}
    (one,) = mixtures(storages, 1)
    mixed([one], 3)
    state = one.state_dict()
    with pytest.raises(DataError, match="cannot go on: it was one of a, b"):
        mixtures({"a": Storage([40]), "c": Storage([40])}, 1)[0].load_state_dict(state)
    with pytest.raises(DataError, match="its seed is 6, and was 5"):
        mixtures(storages, 1, seed=6)[0].load_state_dict(state)
    with pytest.raises(DataError, match="its fingerprint is"):
        mixtures({"a": Storage([40]), "b": Storage([41])}, 1)[0].load_state_dict(state)
    with pytest.raises(DataError, match="no state of a mixture"):
        one.load_state_dict({"step": 3})
    (other,) = mixtures(storages, 1, weights=(0.001, 1.0))
    other.load_state_dict(state)
    assert [source for source, _ in mixed([other], 5)] == ["b"] * 5


def test_a_job_mixes_its_channels_and_packs_what_comes_with_its_own_seed(tmp_path: Path) -> None:
    for name, start in (("web", 0), ("books", 1000)):
        (tmp_path / name).mkdir()
        lists = [list(range(start + 3 * row, start + 3 * row + 3)) for row in range(100)]
        table = pa.table({"ids": pa.array(lists, pa.list_(pa.int32())), "text": ["x"] * 100})
        pq.write_table(table, tmp_path / name / "a.parquet", row_group_size=10)

    def packed(rank: int, seed: str) -> list[tuple[str, list[int]]]:
        channels = {f"TRAINKIT_CHANNEL_{name.upper()}": str(tmp_path / name) for name in ("web", "books")}
        told = facts.read(
            {**channels, "RANK": str(rank), "WORLD_SIZE": "2"}, argv=["--seed", seed], cwd=tmp_path
        )  # fmt: skip
        job = Context(told, stop=Stop())
        parts = {
            name: job.stream(name, batch_size=16, shuffle=True, kind="numpy").packed("ids", length=10, batch_size=1)
            for name in ("web", "books")
        }
        both = job.mixture({"web": (parts["web"], 0.75), "books": (parts["books"], 0.25)}, until=18)
        return [(both.source, batch["tokens"].reshape(-1).tolist()) for _, batch in job.steps(both)]

    first, second = packed(0, "1"), packed(1, "1")
    assert [source for source, _ in first] == [source for source, _ in second]
    assert {name for name, _ in first} == {"web", "books"}
    for name in ("web", "books"):
        tokens = of(first, name) + of(second, name)
        few = tokens if name == "books" else tokens[:100]
        assert len(few) == len(set(few))
        assert all((token >= 1000) == (name == "books") for token in tokens)
    assert [source for source, _ in packed(0, "2")] != [source for source, _ in first]


def test_what_makes_no_mixture_is_said_at_once() -> None:
    storage = Storage([40])
    (stream,) = streams(storage, 1)
    with pytest.raises(ValueError, match="at least one stream"):
        Mixture({}, until=3, seed=0)
    with pytest.raises(ValueError, match="the weight of 'a' is 0"):
        Mixture({"a": (stream, 0)}, until=3, seed=0)
    with pytest.raises(ValueError, match="the same stream twice"):
        Mixture({"a": (stream, 1), "b": (stream, 1)}, until=3, seed=0)
    with pytest.raises(ValueError, match="until is 'longest'"):
        Mixture({"a": (stream, 1)}, until="longest", seed=0)  # type: ignore[arg-type]
