"""Arrow IPC: what is read, that nothing is copied, and what is refused."""

from __future__ import annotations

import decimal
import json

import numpy as np
import pyarrow as pa
import pytest
from formats_kit import ROOT, Shelf, arrow, stream, table

from trainkit.errors import DataError


def plain_table(rows: int = 900) -> pa.Table:
    return table(rows).drop_columns("kind")


def test_a_footer_that_tells_the_rows_makes_one_read_enough() -> None:
    data = arrow(plain_table(), rows=[200, 200, 200, 200, 100])
    shelf = Shelf({"a.arrow": data})
    spans = shelf.find().spans(shelf.listing.items[0], shelf.get)

    assert [span.rows for span in spans] == [200, 200, 200, 200, 100]
    assert shelf.asked == [("a.arrow", len(data) - 65536, 65536)]


def test_without_that_the_head_of_each_batch_is_read_and_no_body() -> None:
    shelf = Shelf({"a.arrow": arrow(plain_table())})
    shelf.find().spans(shelf.listing.items[0], shelf.get)

    assert len(shelf.asked) == 1 + 5
    assert all(length <= 4096 for _, _, length in shelf.asked[1:])


def test_a_stream_is_hopped_through_and_no_body_is_read() -> None:
    data = stream(plain_table(), batch=100)
    shelf = Shelf({"a.arrow": data})
    assert len(shelf.find().spans(shelf.listing.items[0], shelf.get)) == 9

    assert sum(length for _, _, length in shelf.asked) < 65536 + 16 * 4096


@pytest.mark.parametrize("write", [arrow, stream])
def test_tables_lie_in_the_bytes_that_were_fetched(write: object) -> None:
    shelf = Shelf({"a.arrow": write(plain_table())})
    found = shelf.find()
    (item,) = shelf.listing.items
    span = found.spans(item, shelf.get)[0]
    data = shelf.bytes_of(item, span)
    begin = pa.py_buffer(data).address

    decoded = found.decode(item, span, data, None)

    for column in decoded.columns:
        for buffer in column.chunk(0).buffers():
            assert buffer is None or buffer.size == 0 or begin <= buffer.address < begin + len(data)


@pytest.mark.parametrize("write", [arrow, stream])
def test_dictionaries_that_grow_come_as_plain_values(write: object) -> None:
    chunks = [pa.array(words).dictionary_encode() for words in (["a", "b"], ["a", "b", "c"], ["a", "b", "c", "d"])]
    data = pa.table({"x": pa.chunked_array(chunks), "y": range(9)})
    out = pa.BufferOutputStream()
    writer = pa.ipc.new_file if write is arrow else pa.ipc.new_stream
    with writer(out, data.schema, options=pa.ipc.IpcWriteOptions(emit_dictionary_deltas=True)) as sink:
        for batch in data.to_batches():
            sink.write_batch(batch)

    whole = Shelf({"a.arrow": bytes(out.getvalue())}).whole()

    assert whole["x"].to_pylist() == ["a", "b", "a", "b", "c", "a", "b", "c", "d"]
    assert whole.schema.field("x").type == pa.string()


def test_dictionaries_that_a_stream_replaces_are_those_of_their_batch() -> None:
    chunks = [pa.array(words).dictionary_encode() for words in (["a", "b"], ["c", "b"], ["z"])]
    data = pa.table({"x": pa.chunked_array(chunks)})
    shelf = Shelf({"a.arrow": stream(data)})

    assert shelf.whole()["x"].to_pylist() == ["a", "b", "c", "b", "z"]
    found = shelf.find()
    (item,) = shelf.listing.items
    second = found.spans(item, shelf.get)[1]
    assert found.decode(item, second, shelf.bytes_of(item, second), None)["x"].to_pylist() == ["c", "b"]


def test_dictionaries_within_lists_and_structs_come_as_plain_values() -> None:
    words = pa.array(["a", "b", "a"]).dictionary_encode()
    columns = {
        "list": pa.ListArray.from_arrays([0, 1, 3], words),
        "struct": pa.StructArray.from_arrays([words[:2]], names=["w"]),
    }

    assert Shelf({"a.arrow": arrow(pa.table(columns))}).whole().to_pylist() == [
        {"list": ["a"], "struct": {"w": "a"}},
        {"list": ["b", "a"], "struct": {"w": "b"}},
    ]


def test_offsets_that_lead_out_of_a_buffer_are_refused_before_anyone_follows_them() -> None:
    data = bytearray(arrow(pa.table({"x": ["some", "words"]})))
    place = data.index(np.array([0, 4, 9], np.int32).tobytes())
    data[place + 8 : place + 12] = (2_000_000_000).to_bytes(4, "little")

    with pytest.raises(DataError, match=r"a.arrow, bytes .*is no readable record batch"):
        Shelf({"a.arrow": bytes(data)}).tables()


def test_what_is_no_arrow_is_refused_with_the_remedy() -> None:
    good, flow = arrow(table(5)), stream(table(5))
    told = b"trainkit.rows"
    wrong_rows = arrow(table(5), rows=[5]).replace(json.dumps([5]).encode(), b"[x]")
    for data, words in [
        (good[:-3], "begins as an Arrow file and does not end as one"),
        (flow[: len(flow) // 2], ".*it ends within a message"),
        (b"FEA1" + good[4:-6] + b"------", "is Feather of version 1"),
        (b"some text that is no table", "is no Arrow IPC file, and no stream"),
        (good[:-10] + b"\xff\xff\xff\x7fARROW1", "its footer would be 2147483647 bytes long"),
        (flow[8:], "is no Arrow IPC file"),
        (wrong_rows, "is no readable Arrow IPC file"),
        (arrow(table(5), rows=[4]), ".*there are 5 rows, where 4 were counted"),
        (arrow(table(5), rows=[2, 3]), rf".*{told.decode()} in its footer is no list of 1 numbers"),
    ]:
        with pytest.raises(DataError, match=f"^{ROOT}a.arrow(, .*)?: ?({words})"):
            Shelf({"a.arrow": data}).tables()


def test_a_batch_of_other_types_than_its_footer_says_is_refused_and_not_cast() -> None:
    """Between types that garbage makes up, Arrow's casts crash."""

    def write(scale: int) -> bytes:
        words = pa.array(["a"]).dictionary_encode()
        return arrow(pa.table({"x": words, "d": pa.array([decimal.Decimal(1)], pa.decimal128(20, scale))}))

    one, other = write(3), write(4)
    footer = int.from_bytes(one[-10:-6], "little") + 10
    assert len(one) == len(other)

    with pytest.raises(
        DataError, match=r"there is a column of decimal128\(20, 4\) where decimal128\(20, 3\) was announced"
    ):
        Shelf({"a.arrow": other[:-footer] + one[-footer:]}).tables()
