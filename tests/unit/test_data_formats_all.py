"""What holds for every format: all rows, in order, alike; and nothing but DataError where bytes are wrong."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pyarrow as pa
import pytest
from formats_kit import ROOT, Sample, Shelf, samples

from trainkit.data.formats import BLOCK
from trainkit.errors import DataError

ALL = samples()
every_format = pytest.mark.parametrize("sample", ALL, ids=[sample.name for sample in ALL])


@every_format
def test_every_row_comes_once_and_in_order(sample: Sample) -> None:
    assert Shelf({sample.name: sample.data}).whole().to_pylist() == sample.rows


@every_format
def test_all_spans_have_one_schema_and_the_rows_that_were_counted(sample: Sample) -> None:
    shelf = Shelf({sample.name: sample.data})
    found = shelf.find()
    (item,) = shelf.listing.items
    spans = found.spans(item, shelf.get)
    tables = shelf.tables()

    assert len(spans) >= sample.spans
    assert [table.num_rows for table in tables] == [span.rows for span in spans]
    assert all(table.schema.equals(found.schema, check_metadata=True) for table in tables)
    assert all(span.start >= 0 and span.length > 0 and span.start + span.length <= item.size for span in spans)
    assert all(one.start + one.length <= other.start for one, other in pairwise(spans))
    assert found.name in ("Parquet", "Arrow IPC") or max(span.length for span in spans) <= BLOCK or len(spans) == 1
    assert found.seeks == (len(spans) > 1 or found.name == "files")


@every_format
def test_only_the_columns_that_are_asked_for_come_in_the_data_s_order(sample: Sample) -> None:
    shelf = Shelf({sample.name: sample.data})
    names = shelf.find().schema.names
    asked = [names[-1], names[0]] if len(names) > 1 else names

    some = shelf.whole(asked)

    assert some.column_names == [name for name in names if name in asked]
    assert some.to_pylist() == [{name: row[name] for name in some.column_names} for row in sample.rows]
    with pytest.raises(DataError, match=f"has no column 'nothing'. Its columns are {names[0]}"):
        shelf.tables(["nothing"])


@every_format
def test_threads_decode_at_once_what_another_object_has_counted(sample: Sample) -> None:
    """The index may come from another process: what an item must be known for is learned again."""
    shelf = Shelf({sample.name: sample.data})
    (item,) = shelf.listing.items
    spans = shelf.find().spans(item, shelf.get)
    found = shelf.find()

    def one(span: object) -> pa.Table:
        found.learn(item, shelf.get)
        return found.decode(item, span, shelf.bytes_of(item, span), None)

    with ThreadPoolExecutor(4) as pool:
        assert pa.concat_tables(pool.map(one, [*spans] * 3)).num_rows == 3 * len(sample.rows)


@every_format
def test_rows_that_were_counted_otherwise_are_refused(sample: Sample) -> None:
    shelf = Shelf({sample.name: sample.data})
    found = shelf.find()
    (item,) = shelf.listing.items
    span = found.spans(item, shelf.get)[0]

    with pytest.raises(DataError, match=rf"^{ROOT}{sample.name}, bytes .*where {span.rows + 1} were counted"):
        found.decode(item, span._replace(rows=span.rows + 1), shelf.bytes_of(item, span), None)


@every_format
def test_spans_that_were_cut_or_flipped_are_refused_or_have_as_many_rows(sample: Sample) -> None:
    """No format but some has checksums: a flipped bit in a value is another value. But nothing may crash."""
    shelf = Shelf({sample.name: sample.data})
    found = shelf.find()
    (item,) = shelf.listing.items
    chance = random.Random(sample.name)
    spans = found.spans(item, shelf.get)
    for turn in range(60):
        span = chance.choice(spans)
        data = bytearray(shelf.bytes_of(item, span))
        spoil(data, chance, cut=turn % 3 == 0)
        try:
            table = found.decode(item, span, memoryview(data), None)
        except DataError as error:
            assert str(error).startswith(ROOT + sample.name)
        else:
            table.validate(full=True)
            assert (table.num_rows, table.schema) == (span.rows, found.schema)
            assert len(table.to_pylist()) == span.rows


@every_format
def test_items_that_were_cut_or_flipped_are_refused_or_read(sample: Sample) -> None:
    chance = random.Random(sample.name)
    for turn in range(40):
        data = bytearray(sample.data)
        spoil(data, chance, cut=turn % 3 == 0)
        beside = {f"a-{sample.name}": sample.data} if turn % 2 else {}
        shelf = Shelf({sample.name: bytes(data), **beside})
        try:
            for table in shelf.tables():
                table.validate(full=True)
        except DataError as error:
            assert str(error).startswith(ROOT)


def spoil(data: bytearray, chance: random.Random, *, cut: bool) -> None:
    """Cut it somewhere, or flip bits: anywhere, or near its ends, where heads and footers are."""
    if cut:
        del data[chance.randrange(len(data)) :]
        return
    for _ in range(chance.choice([1, 3, 40])):
        near = min(len(data), chance.choice([64, 1024, len(data)]))
        place = chance.randrange(near)
        data[chance.choice([place, len(data) - 1 - place])] ^= 1 << chance.randrange(8)
