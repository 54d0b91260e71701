"""Parquet: what is read, and what is refused."""

from __future__ import annotations

import io
import os
import signal
import threading

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from formats_kit import ROOT, Shelf, arrow, parquet, table

from trainkit.data.formats import BLOCK, thrift
from trainkit.data.items import Item
from trainkit.errors import DataError

both = pytest.mark.parametrize(("write", "name"), [(parquet, "parquet"), (arrow, "arrow")])


def test_one_read_at_the_end_of_each_item_tells_its_spans() -> None:
    data = parquet(table())
    shelf = Shelf({"a.parquet": data, "b.parquet": data})
    found = shelf.find()
    spans = [span for item in shelf.listing.items for span in found.spans(item, shelf.get)]

    assert shelf.asked == [(name, len(data) - 65536, 65536) for name in ("a.parquet", "b.parquet")]
    assert [span.rows for span in spans] == [200, 200, 200, 200, 100] * 2


def test_a_footer_that_is_longer_than_the_first_read_is_read_on() -> None:
    shelf = Shelf({"a.parquet": parquet(table(3000), group=3)})

    assert shelf.whole().num_rows == 3000
    assert len(shelf.find().spans(shelf.listing.items[0], shelf.get)) == 1000
    assert shelf.asked[1][1] + shelf.asked[1][2] == shelf.asked[0][1]


def test_a_child_that_is_forked_while_a_footer_is_looked_up_looks_up_its_own() -> None:
    shelf = Shelf({"a.parquet": parquet(table(5))})
    found, (item,) = shelf.find(), shelf.listing.items
    (span,) = found.spans(item, shelf.get)
    data, looking, forked = shelf.bytes_of(item, span), threading.Event(), threading.Event()

    class Slow(Item):
        def __hash__(self) -> int:
            looking.set()
            forked.wait(60)
            return super().__hash__()

    thread = threading.Thread(target=lambda: found.decode(Slow(*item), span, data, None))
    thread.start()
    assert looking.wait(60)
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        os._exit(0 if found.decode(item, span, data, ["id"]).num_rows == 5 else 1)
    forked.set()
    thread.join(60)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_files_without_rows_have_no_spans() -> None:
    shelf = Shelf({"a.parquet": parquet(table(5)), "b.parquet": parquet(table(0))})

    assert shelf.whole().num_rows == 5
    assert Shelf({"b.parquet": parquet(table(0))}).tables() == []


def test_a_large_row_group_is_one_span() -> None:
    shelf = Shelf({"a.parquet": parquet(table(3000), group=3000)})
    (span,) = shelf.find().spans(shelf.listing.items[0], shelf.get)

    assert span.length > 4 * BLOCK
    assert shelf.whole().num_rows == 3000


def test_a_checksum_that_a_writer_has_put_is_looked_at() -> None:
    out = io.BytesIO()
    pq.write_table(table(), out, compression="none", use_dictionary=False, write_page_checksum=True)
    data = bytearray(out.getvalue())
    data[len(data) // 2] ^= 1

    with pytest.raises(DataError, match=r"a.parquet, bytes .*is no readable row group .*CRC"):
        Shelf({"a.parquet": bytes(data)}).tables()


@both
def test_other_items_may_have_their_columns_in_another_order(write: object, name: str) -> None:
    one, other = table(5), table(7)
    shelf = Shelf({f"a.{name}": write(one), f"b.{name}": write(other.select(one.column_names[::-1]))})

    assert shelf.whole().to_pylist() == one.to_pylist() + other.to_pylist()


@both
def test_a_column_of_nulls_fits_the_type_that_the_first_item_has(write: object, name: str) -> None:
    one = pa.table({"x": ["a"], "y": [1]})
    shelf = Shelf({f"a.{name}": write(one), f"b.{name}": write(pa.table({"x": pa.nulls(1), "y": [2]}))})

    assert shelf.whole().to_pylist() == [{"x": "a", "y": 1}, {"x": None, "y": 2}]


@both
def test_items_with_other_columns_are_refused_and_both_are_named(write: object, name: str) -> None:
    one = table(5)

    def beside(other: pa.Table) -> Shelf:
        return Shelf({f"a.{name}": write(one), f"b.{name}": write(other)})

    first, second = f"{ROOT}a.{name}", f"{ROOT}b.{name}"
    with pytest.raises(DataError, match=f"^{second}: has no column 'score', which {first} has. Write both"):
        beside(one.drop_columns("score")).tables()
    with pytest.raises(DataError, match=f"^{second}: has a column 'new', which {first} does not have"):
        beside(one.append_column("new", one["id"])).tables()
    with pytest.raises(DataError, match=f"^{second}: column 'id' is double, and int64 in {first}"):
        beside(one.set_column(0, "id", one["id"].cast(pa.float64()))).tables()


@both
def test_how_a_file_was_written_makes_no_other_schema(write: object, name: str) -> None:
    """Metadata, nullability and dictionaries differ between writers, and between the files of one."""
    plain = pa.table({"x": ["a", "b"], "y": [1, 2]})
    fields = [
        pa.field("x", pa.dictionary(pa.int8(), pa.string()), metadata={"k": "v"}),
        pa.field("y", pa.int64(), False),
    ]
    other = plain.cast(pa.schema(fields, metadata={"pandas": "{}"}))

    assert Shelf({f"a.{name}": write(plain), f"b.{name}": write(other)}).whole().to_pylist() == plain.to_pylist() * 2


@both
def test_two_columns_of_one_name_are_refused(write: object, name: str) -> None:
    column = pa.array([1])
    with pytest.raises(DataError, match="two columns are called 'x'"):
        Shelf({f"a.{name}": write(pa.Table.from_arrays([column, column], names=["x", "x"]))}).find()


def test_what_is_no_parquet_is_refused_with_the_remedy() -> None:
    good = parquet(table(5))
    for data, words in [
        (good[:-4], "does not end as Parquet files do"),
        (b"PAR1", "does not end as Parquet files do"),
        (good[:-4] + b"PARE", "its footer is encrypted.*SSE-KMS"),
        (good[:-8] + b"\xff\xff\xff\x7fPAR1", "its footer would be 2147483647 bytes long"),
        (good[:-9] + b"\xff" + good[-8:], "is no readable Parquet file|would lie outside"),
        (good[20000:], "row group 0 would lie outside of the file"),
    ]:
        with pytest.raises(DataError, match=f"^{ROOT}a.parquet: ({words})"):
            Shelf({"a.parquet": data}).tables()


def test_footers_that_are_many_are_packed_and_still_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainkit.data.formats.parquet.PARSED", 20)
    one = table(50)
    shelf = Shelf({f"{n}.parquet": parquet(one, group=20) for n in range(4)})
    found = shelf.find()
    spans = [(item, span) for item in shelf.listing.items for span in found.spans(item, shelf.get)]
    asked = len(shelf.asked)

    decoded = [found.decode(item, span, shelf.bytes_of(item, span), None) for _ in range(2) for item, span in spans]

    assert pa.concat_tables(decoded).num_rows == 400
    assert len(shelf.asked) == asked + len(decoded)


@pytest.mark.parametrize(
    "options", [{}, {"write_statistics": False}, {"use_dictionary": False}, {"write_page_index": True}]
)
def test_row_groups_lie_where_pyarrow_says(options: dict[str, bool]) -> None:
    out = io.BytesIO()
    pq.write_table(table(200), out, row_group_size=30, **options)
    data = out.getvalue()
    metadata = pq.read_metadata(io.BytesIO(data))
    groups = [metadata.row_group(index).to_dict() for index in range(metadata.num_row_groups)]
    starts = [min(x["dictionary_page_offset"] or x["data_page_offset"] for x in group["columns"]) for group in groups]
    sizes = [sum(x["total_compressed_size"] for x in group["columns"]) for group in groups]

    found = thrift.row_groups(data[-8 - int.from_bytes(data[-8:-4], "little") : -8])

    assert [(one.start, one.end - one.start) for one in found] == list(zip(starts, sizes, strict=True))
    assert [one.rows for one in found] == [group["num_rows"] for group in groups]


def test_no_flipped_bit_in_a_footer_ends_the_process() -> None:
    """pyarrow aborts where it is asked for a column whose statistics were damaged."""
    data = parquet(pa.table({"x": [1, None, 3], "s": [["a"], [], None]}), group=2)
    for place in range(len(data) - 8 - int.from_bytes(data[-8:-4], "little"), len(data)):
        for bit in (0, place % 8):
            damaged = bytearray(data)
            damaged[place] ^= 1 << bit
            try:
                Shelf({"a.parquet": bytes(damaged)}).tables()
            except DataError as error:
                assert str(error).startswith(ROOT)
