"""Streams: every sample once, in one order, whoever reads it, wherever it is taken up again."""

from __future__ import annotations

import gc
import itertools
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Generator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainkit.data import reader
from trainkit.data.feed import Feed
from trainkit.data.formats.base import Span
from trainkit.data.index import Index
from trainkit.data.items import Get, Item, Listing
from trainkit.data.stream import All, Choices, Stream
from trainkit.errors import DataError


class Numbers:
    """A format for tests: an item is its rows' numbers, eight bytes each, in spans of `rows`."""

    name = "numbers"
    seeks = True

    def __init__(self, rows: int) -> None:
        self._rows = rows

    def spans(self, item: Item, get: Get) -> Sequence[Span]:
        count = item.size // 8
        return [
            Span(start * 8, min(self._rows, count - start) * 8, min(self._rows, count - start))
            for start in range(0, count, self._rows)
        ]

    schema = pa.schema({"n": pa.int64()})

    def learn(self, item: Item, get: Get) -> None:
        pass

    def decode(self, item: Item, span: Span, data: memoryview, columns: Sequence[str] | None) -> pa.Table:
        return pa.table({"n": np.frombuffer(data, dtype=np.int64)})


class Storage:
    """Items in memory. `reads` counts what was fetched."""

    def __init__(self, sizes: Sequence[int]) -> None:
        ends = np.cumsum([0, *sizes])
        self.data = {
            f"mem/{number:03}": np.arange(start, end, dtype=np.int64).tobytes()
            for number, (start, end) in enumerate(itertools.pairwise(ends))
        }
        self.reads: list[tuple[str, int]] = []

    def get(self, item: Item, start: int, length: int) -> bytes:
        self.reads.append((item.url, start))
        return self.data[item.url][start : start + length]

    def close(self) -> None:
        pass

    def index(self, rows: int) -> Index:
        items = tuple(Item(url, len(data), "v1") for url, data in self.data.items())
        return Index.of(Listing(items, "mem/"), Numbers(rows), self.get)


def choices(**changed: Any) -> Choices:
    given: dict[str, Any] = {
        "batch_size": 4, "shuffle": True, "seed": 3, "tail": "exact", "lanes": 6, "columns": None, "transform": None,
        "kind": "numpy", "memory": 1 << 20,
    }  # fmt: skip
    return Choices(**{**given, **changed})


def streams(storage: Storage, ranks: int, *, rows: int = 5, **changed: Any) -> list[Stream]:
    index = storage.index(rows)
    return [Stream(index, storage, choices(**changed), rank=rank, ranks=ranks) for rank in range(ranks)]


def steps(ranks: Sequence[Stream], most: int | None = None, *, strided: bool = True) -> list[list[int]]:
    """The global batches, each in the order of the epoch: ranks take turns, or each has a run of neighbours."""
    batches: list[list[int]] = []
    running = [iter(rank) for rank in ranks]
    while most is None or len(batches) < most:
        parts = [next(rank, None) for rank in running]
        if parts[0] is None:
            assert parts == [None] * len(parts), "every rank has as many batches"
            break
        rows = [part["n"].tolist() for part in parts if part is not None]
        assert max(map(len, rows)) - min(map(len, rows)) <= 1
        dealt = [row[at] for at in range(max(map(len, rows))) for row in rows if at < len(row)]
        batches.append(dealt if strided else flat(rows))
    for rank in ranks:
        rank.close()
    return batches


def flat(batches: Sequence[Sequence[int]]) -> list[int]:
    return [sample for batch in batches for sample in batch]


SIZES = st.lists(st.integers(0, 25), min_size=1, max_size=8).filter(lambda sizes: sum(sizes) > 0)


@given(
    sizes=SIZES, rows=st.integers(1, 9), lanes=st.integers(1, 12), shuffle=st.booleans(), large=st.booleans(),
    data=st.data(),
    worlds=st.lists(st.tuples(st.integers(1, 5), st.integers(1, 7)), min_size=3, max_size=3),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_an_epoch_interrupted_twice_and_resumed_by_other_worlds_is_the_uninterrupted_one(
    sizes: list[int], rows: int, lanes: int, shuffle: bool, large: bool, data: st.DataObject,
    worlds: list[tuple[int, int]],
) -> None:  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        if large:  # rows of any size are cut out of their blocks
            patch.setattr(reader, "_LARGE", 1)
        _interrupted_twice(sizes, rows, lanes, shuffle, data, worlds)


def _interrupted_twice(
    sizes: list[int], rows: int, lanes: int, shuffle: bool, data: st.DataObject, worlds: list[tuple[int, int]]
) -> None:
    storage = Storage(sizes)
    (alone,) = streams(storage, 1, rows=rows, lanes=lanes, shuffle=shuffle, batch_size=1)
    order = flat(steps([alone]))
    assert sorted(order) == list(range(sum(sizes)))
    seen: list[int] = []
    state: dict[str, Any] | None = None
    for leg, (ranks, batch) in enumerate(worlds):
        world = streams(storage, ranks, rows=rows, lanes=lanes, shuffle=shuffle, batch_size=batch)
        if state is not None:
            for rank in world:
                rank.load_state_dict(state)
        most = None if leg == 2 else data.draw(st.integers(0, len(world[0])))
        seen += flat(steps(world, most, strided=shuffle))
        states = [rank.state_dict() for rank in world]
        assert all(other == states[0] for other in states)
        state = states[0]
        if state["epoch"]:  # the last leg had none left to do
            break
    assert seen == order


@pytest.mark.parametrize("shuffle", [True, False])
def test_cut_out_rows_have_the_order_of_copied_ones(shuffle: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for least in (1, 1 << 30):
        monkeypatch.setattr(reader, "_LARGE", least)
        (alone,) = streams(Storage([7, 30, 12]), 1, shuffle=shuffle)
        found.append(flat(steps([alone])))
    assert found[0] == found[1]


def test_without_shuffle_rows_come_as_they_lie() -> None:
    (alone,) = streams(Storage([7, 0, 12]), 1, shuffle=False)
    assert flat(steps([alone], strided=False)) == list(range(19))


def test_epochs_differ_and_each_is_whole() -> None:
    world = streams(Storage([40]), 2)
    first, second = flat(steps(world)), flat(steps(world))
    assert first != second
    assert sorted(first) == sorted(second) == list(range(40))
    assert world[0].epoch == 2


@pytest.mark.parametrize(("tail", "batches", "count"), [("drop", 4, 32), ("pad", 5, 40), ("exact", 5, 37)])
def test_the_tail_is_dropped_padded_or_dealt_out_and_every_rank_has_as_many_batches(
    tail: str, batches: int, count: int
) -> None:
    world = streams(Storage([37]), 2, tail=tail)
    assert len(world[0]) == batches
    found = steps(world)
    assert len(found) == batches
    assert len(flat(found)) == count
    assert len(set(flat(found))) == min(count, 37)
    assert world[0].epoch == 1


def test_each_block_is_read_once_by_one_rank_where_lanes_are_a_multiple_of_the_ranks() -> None:
    storage = Storage([50, 50, 50, 50])
    world = streams(storage, 4, lanes=8, batch_size=3)
    steps(world)
    assert len(storage.reads) == len(set(storage.reads)) == 40


def test_memory_bounds_what_is_read_ahead() -> None:
    storage = Storage([1000])
    (alone,) = streams(storage, 1, rows=10, lanes=2, memory=400)
    running = iter(alone)
    next(running)
    assert len(storage.reads) < 12
    alone.close()


def test_what_blocks_weigh_when_they_are_decoded_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten times what was fetched: after the first few, a tenth as many are read ahead."""
    storage = Storage([4000])
    decode = Numbers.decode

    def swollen(*arguments: Any) -> pa.Table:
        table = decode(*arguments)
        return table.append_column("more", pa.array([[0] * 9] * len(table)))

    monkeypatch.setattr(Numbers, "decode", swollen)
    (alone,) = streams(storage, 1, rows=10, lanes=2, memory=80 * 160)
    next(iter(alone))
    alone.close()
    assert 2 <= len(storage.reads) <= 3 * 16


class Mixed(Numbers):
    """Rows of every kind of column."""

    schema = pa.schema(
        {
            "n": pa.int64(), "even": pa.bool_(), "half": pa.float16(), "text": pa.string(),
            "three": pa.list_(pa.int32(), 3), "many": pa.list_(pa.int16()), "maybe": pa.large_string(),
        }
    )  # fmt: skip

    def decode(self, item: Item, span: Span, data: memoryview, columns: Sequence[str] | None) -> pa.Table:
        found = np.frombuffer(data, dtype=np.int64).tolist()
        rows = [
            {
                "n": n, "even": n % 2 == 0, "half": np.float16(n), "text": f"row {n}", "three": [n, n + 1, n + 2],
                "many": list(range(n % 4)), "maybe": None if n % 3 else str(n),
            }
            for n in found
        ]  # fmt: skip
        return pa.Table.from_pylist(rows, schema=self.schema)


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("large", [True, False])
@pytest.mark.parametrize("kind", ["numpy", "arrow"])
def test_rows_of_every_kind_come_as_they_are_whether_they_are_cut_out_or_copied(
    kind: str, large: bool, shuffle: bool, batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "_LARGE", 1 if large else 1 << 30)
    storage = Storage([23, 14])
    items = tuple(Item(url, len(data), "v1") for url, data in storage.data.items())
    index = Index.of(Listing(items, "mem/"), Mixed(5), storage.get)
    chosen = choices(kind=kind, shuffle=shuffle, batch_size=batch_size)
    seen = []
    for batch in Stream(index, storage, chosen, rank=0, ranks=1):
        if kind == "arrow":
            assert all(column.num_chunks == 1 for column in batch.columns)
            rows = batch.to_pylist()
        else:
            many = np.split(batch["many"].values, batch["many"].offsets[1:-1])
            columns = {**batch, "three": batch["three"].tolist(), "many": [part.tolist() for part in many]}
            rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        for row in rows:
            n = int(row["n"])
            assert row["even"] == (n % 2 == 0) and float(row["half"]) == n and row["text"] == f"row {n}"
            assert list(row["three"]) == [n, n + 1, n + 2] and row["many"] == list(range(n % 4))
            assert row["maybe"] == (None if n % 3 else str(n))
            seen.append(n)
    assert sorted(seen) == list(range(37))


def test_a_batch_is_made_without_pandas() -> None:
    """pyarrow imports it where it is installed, at the first array from Python: 0.2 s, and 0.5 among busy threads."""
    code = """
import sys, pathlib, numpy as np, pyarrow as pa
from trainkit.data.open import open_stream
from trainkit.data.stream import Choices
n = pa.Array.from_buffers(pa.int64(), 64, [None, pa.py_buffer(np.arange(64))])
with pa.OSFile("x.arrow", "wb") as file, pa.ipc.new_file(file, pa.schema({"n": pa.int64()})) as writer:
    writer.write_batch(pa.RecordBatch.from_arrays([n], names=["n"]))
chosen = Choices(8, True, 0, "drop", None, None, None, "numpy", 1 << 20)
assert sum(int(batch["n"].sum()) for batch in open_stream("x.arrow", chosen, rank=0, ranks=1)) == 2016
sys.exit("pandas" in sys.modules)
"""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-c", code], check=True, cwd=folder, timeout=120)


def test_a_state_goes_with_its_data_seed_and_shuffle_only() -> None:
    state = streams(Storage([40]), 1)[0].state_dict()
    assert len(str(state)) < 1000
    for other, word in [
        (streams(Storage([41]), 1)[0], "fingerprint"),
        (streams(Storage([40]), 1, seed=9)[0], "seed"),
        (streams(Storage([40]), 1, shuffle=False)[0], "shuffle"),
    ]:
        with pytest.raises(DataError, match=f"cannot go on: its {word} is"):
            other.load_state_dict(state)
    with pytest.raises(DataError, match="no state of a stream"):
        streams(Storage([40]), 1)[0].load_state_dict({"position": 3})


def test_too_little_data_for_one_step_is_said_at_the_start() -> None:
    with pytest.raises(DataError, match=r"holds 7 rows, and a step of 2 ranks takes 8.*tail='pad'"):
        streams(Storage([7]), 2, tail="drop")


def test_what_goes_wrong_in_a_thread_is_raised_in_the_loop_and_leaves_no_thread() -> None:
    storage = Storage([40])
    index = storage.index(5)

    class Broken:
        def get(self, item: Item, start: int, length: int) -> bytes:
            raise DataError("the disk is on fire")

        def close(self) -> None:
            pass

    stream = Stream(index, Broken(), choices(), rank=0, ranks=1)
    with pytest.raises(DataError, match="on fire"):
        next(iter(stream))
    stream.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("trainkit")]


@pytest.mark.parametrize("where", ["trainkit.fetch", "trainkit.feed"])
def test_a_lost_iterator_that_the_collector_finds_in_a_thread_of_ours_ends_and_holds_up_nobody(where: str) -> None:
    lost = threading.Event()

    def collect() -> None:
        if threading.current_thread().name.startswith(where):
            lost.wait(60)
            gc.collect()

    class Collecting(Storage):
        def get(self, item: Item, start: int, length: int) -> bytes:
            if start:
                collect()
            return super().get(item, start, length)

    def transform(table: pa.Table) -> pa.Table:
        if table["n"][0].as_py():
            collect()
        return table

    gc.disable()  # here
    try:
        (stream,) = streams(Collecting([400]), 1, shuffle=False, transform=transform)
        before = threading.enumerate()
        running = iter(stream)
        assert next(running)["n"].tolist() == [0, 1, 2, 3]
        cycle: list[Any] = [running]
        cycle.append(cycle)
        del running, cycle
        lost.set()
        for thread in set(threading.enumerate()) - set(before):
            thread.join(20)
            assert not thread.is_alive(), thread.name
        assert stream.position == 4
        stream.close()
    finally:
        gc.enable()


def test_a_source_that_cannot_be_closed_is_an_error_and_nobody_waits_for_more() -> None:
    held, taken = threading.Event(), threading.Event()

    def source() -> Generator[int, None, None]:
        try:
            yield 1
            taken.set()
            held.wait(60)
            yield 2
        finally:
            raise OSError("no room")

    feed, found = Feed(source(), ahead=1), list[object]()

    def consume() -> None:
        try:
            found.extend(feed)
        except OSError as error:
            found.append(str(error))

    consumer = threading.Thread(target=consume, daemon=True)
    consumer.start()
    assert taken.wait(60)
    closing = threading.Thread(target=feed.close)
    closing.start()
    while not feed._closed:
        closing.join(0.01)
    held.set()
    closing.join(20)
    consumer.join(20)
    assert not consumer.is_alive()
    assert found == [1, "no room"]


def test_a_transform_gets_arrow_and_its_result_is_the_batch() -> None:
    (alone,) = streams(Storage([12]), 1, transform=lambda table: table.num_rows)
    assert list(alone) == [4, 4, 4]


def test_a_stream_that_is_being_read_is_refused_in_a_forked_child_and_begun_anew_there_works() -> None:
    (alone,) = streams(Storage([40]), 1)
    running = iter(alone)
    next(running)
    child = os.fork()
    if child == 0:
        try:
            next(running)
        except DataError:
            alone.close()
            os._exit(0 if len(list(alone)) == 9 else 2)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    alone.close()


@pytest.mark.parametrize(("tail", "steps_of_all"), [("drop", 3), ("pad", 6)])
def test_hosts_with_other_shares_have_as_many_steps_and_one_state(tail: str, steps_of_all: int) -> None:
    """Two hosts with two ranks each; the first has 26 rows, the second 41, and a step takes 8 of each."""
    hosts = [Storage([26]), Storage([41])]
    both = All((26, 41), "f" * 16)
    world = [
        [Stream(index, host, choices(tail=tail), rank=rank, ranks=2, all=both) for rank in range(2)]
        for host in hosts
        for index in [host.index(5)]
    ]
    assert {len(rank) for ranks in world for rank in ranks} == {steps_of_all}
    for ranks, rows in zip(world, (26, 41), strict=True):
        found = steps(ranks, 2)
        assert len(set(flat(found))) == 16 == len(flat(found))
        assert set(flat(found)) <= set(range(rows))
    states = [rank.state_dict() for ranks in world for rank in ranks]
    assert all(state == states[0] for state in states)
    rest = [steps(ranks) for ranks in world]
    assert [len(found) for found in rest] == [steps_of_all - 2] * 2
    assert {rank.epoch for ranks in world for rank in ranks} == {1}
