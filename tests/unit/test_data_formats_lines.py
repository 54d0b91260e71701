"""JSON lines, CSV and text: where rows are cut, how many there are, and what is refused."""

from __future__ import annotations

import gzip
import json

import pyarrow as pa
import pytest
from formats_kit import ROOT, Shelf, comma, json_lines, rows_of_text
from hypothesis import given, settings
from hypothesis import strategies as st

from trainkit.data.formats import BLOCK
from trainkit.errors import DataError

VALUES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
PACKED = pytest.mark.parametrize("packed", [False, True])


@given(
    st.lists(st.text(st.characters(codec="utf-8"), max_size=20), max_size=40),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
)
@settings(deadline=None, max_examples=200)
def test_lines_of_any_text_come_as_they_are(texts: list[str], end: str, ended: bool) -> None:
    texts = [text.replace("\n", "").rstrip("\r") for text in texts]
    data = (end.join(texts) + (end if ended else "")).encode()
    expected = texts or [""]
    if not ended and not expected[-1]:
        expected = expected[:-1]
    if not data:
        return
    shelf = Shelf({"a.txt": data})

    found = [row for part in shelf.tables() for row in part["text"].to_pylist()]
    assert found == [text.removeprefix("\ufeff") if n == 0 else text for n, text in enumerate(expected)]


@given(st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=30), st.sampled_from([",", "\t"]))
@settings(deadline=None, max_examples=200)
def test_csv_of_any_text_comes_as_it_is(pairs: list[tuple[str, str]], delimiter: str) -> None:
    rows: list[dict[str, object]] = [{"word": f"w{a}", "other": f"o{b}"} for a, b in pairs]
    name = "a.csv" if delimiter == "," else "a.tsv"

    assert Shelf({name: comma(rows, delimiter=delimiter)}).whole().to_pylist() == rows


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.txt"])
def test_rows_longer_than_a_block_are_spans_of_their_own(name: str) -> None:
    texts = ["short", "x" * (3 * BLOCK), "y" * (9 * BLOCK), "short again"]
    rows: list[dict[str, object]] = [{"text": text} for text in texts]
    data = {"a.jsonl": json_lines(rows), "a.csv": comma(rows), "a.txt": "\n".join(texts).encode()}[name]
    shelf = Shelf({name: data})

    assert [part.to_pylist() for part in shelf.tables()] == [[row] for row in rows]


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_blank_lines_are_no_rows(name: str) -> None:
    rows = rows_of_text(3)
    data = json_lines(rows) if name == "a.jsonl" else comma(rows)
    lines = data.splitlines(keepends=True)
    spaced = b"\n\r\n".join(lines) + b"\r\n\n"

    assert Shelf({name: spaced}).whole().to_pylist() == rows


def test_a_byte_order_mark_is_passed_over() -> None:
    mark = b"\xef\xbb\xbf"
    rows = rows_of_text(2)

    assert Shelf({"a.jsonl": mark + json_lines(rows)}).whole().to_pylist() == rows
    assert Shelf({"a.csv": mark + comma(rows)}).whole().to_pylist() == rows
    assert Shelf({"a.txt": mark + b"one"}).whole().to_pylist() == [{"text": "one"}]


@PACKED
def test_the_first_item_with_rows_decides_the_types(packed: bool) -> None:
    rows = rows_of_text(2)
    files = {
        "a.csv": b"id,text,score\n",
        "b.csv": comma(rows),
        "c.csv": b"score,id,text\n0.5,7,x\n",
        "d.csv": b"text,id,score",
    }
    if packed:
        files = {f"{name}.gz": gzip.compress(data) for name, data in files.items()}

    assert Shelf(files).whole().to_pylist() == [*rows, {"id": 7, "text": "x", "score": 0.5}]
    with pytest.raises(DataError, match=f"^{ROOT}a.csv.*: has no rows, and no other item has"):
        Shelf({name: data for name, data in files.items() if name.startswith(("a", "d"))}).find()


def test_keys_that_a_row_lacks_are_null_and_new_ones_are_refused_unless_columns_are_chosen() -> None:
    first = json_lines([{"a": 1, "b": "x"}, {"a": 2}])
    shelf = Shelf({"a.jsonl": first, "b.jsonl": json_lines([{"b": "y"}, {"a": 3, "new": 1}])})

    assert shelf.whole(["a", "b"]).to_pylist()[1:] == [{"a": 2, "b": None}, {"a": None, "b": "y"}, {"a": 3, "b": None}]
    with pytest.raises(
        DataError, match=f"^{ROOT}b.jsonl, byte 11 \\(line 2 of .*unexpected field.* choose other columns"
    ):
        shelf.tables()


def test_what_looks_like_a_date_stays_a_text() -> None:
    dates: list[dict[str, object]] = [{"day": "2024-05-01"}, {"day": "2024-05-01 10:00:00"}]
    nested: list[dict[str, object]] = [{"day": {"s": "2024-05-01"}, "list": ["2024-05-01"]}]

    assert Shelf({"a.csv": comma(dates[:1]), "b.csv": b"day\nsometime\n"}).whole().to_pylist() == [
        *dates[:1],
        {"day": "sometime"},
    ]
    assert Shelf({"a.jsonl": json_lines(dates)}).whole().to_pylist() == dates
    assert Shelf({"a.jsonl": json_lines(nested)}).whole().to_pylist() == nested


@PACKED
def test_a_value_of_another_type_is_refused_with_its_place(packed: bool) -> None:
    rows = rows_of_text(100)
    late = [*rows[:50], {**rows[50], "id": "fifty"}, *rows[51:]]

    def second(name: str, first: bytes, data: bytes) -> Shelf:
        files = {f"a.{name}": first, f"b.{name}": data}
        return Shelf({f"{name}.gz": gzip.compress(data) for name, data in files.items()} if packed else files)

    suffix = ".gz" if packed else ""
    for name, write in (("jsonl", json_lines), ("csv", comma)):
        place = write(late).index(b'{"id": "fifty"' if name == "jsonl" else b"fifty")
        words = (
            rf"^{ROOT}b.{name}{suffix}, byte {place} \((line|row) 51 of .*column 'id' is string, "
            rf"and int64 in {ROOT}a.{name}{suffix} \(.*Write that"
        )
        with pytest.raises(DataError, match=words):
            second(name, write(rows), write(late)).tables()


@pytest.mark.parametrize(
    ("name", "first", "other", "words"),
    [
        ("jsonl", '{"x": 1}', '{"x": 1.5}', "column 'x' is double, and int64 in the-first"),
        ("jsonl", '{"x": [1]}', '{"x": ["a"]}', "column 'x' is list<item: string>, and list<item: int64> in the-first"),
        ("jsonl", '{"s": {"a": 1, "b": 2}, "x": 1}', '{"s": {"b": 2}, "x": true}', "column 'x' is bool, and int64 in"),
        ("jsonl", '{"x": 1}', '{"x": 1, "y": 2}', "has a column 'y', which the-first does not have"),
        ("jsonl", '{"x": null}', '{"x": 1}', "column 'x' is int64, and null in the-first"),
        ("csv", "x,y\n1,2.5", "y,x\n,1.5", "column 'x' is double, and int64 in the-first"),
        ("csv", "x,y\n1,2.5", "x,y\nNA,north", "column 'y' is string, and double in the-first"),
        ("csv", "x,y\ntrue,a", "x,y\n2,b", "column 'x' is int64, and bool in the-first"),
    ],
)
def test_a_file_with_another_type_is_refused_with_the_column_both_types_and_the_first_file(
    name: str, first: str, other: str, words: str
) -> None:
    shelf = Shelf({f"a.{name}": f"{first}\n".encode(), f"b.{name}": f"{other}\n".encode()})
    with pytest.raises(DataError) as refused:
        shelf.tables()
    assert str(refused.value).startswith(f"{ROOT}b.{name}, byte ")
    assert words.replace("the-first", f"{ROOT}a.{name}") in str(refused.value)


def test_whole_numbers_are_numbers_and_in_csv_anything_is_text() -> None:
    assert Shelf({"a.jsonl": b'{"x": 1.5}\n', "b.jsonl": b'{"x": 1}\n'}).whole()["x"].to_pylist() == [1.5, 1.0]
    assert Shelf({"a.csv": b"x\n1.5\n", "b.csv": b"x\n1\n"}).whole()["x"].to_pylist() == [1.5, 1.0]
    assert Shelf({"a.csv": b"x\na\n", "b.csv": b"x\n1\n"}).whole()["x"].to_pylist() == ["a", "1"]


def test_what_is_no_such_file_is_refused_with_the_remedy() -> None:
    for name, data, words in [
        ("a.jsonl", json.dumps([{"a": 1}]).encode(), "is one JSON list. Write each"),
        ("a.json", json.dumps({"a": 1}, indent=1).encode(), ".*Write one object in each line|.*is no row"),
        ("a.jsonl", b'{"a":1}\n{"a":2} {"a":3}\n', ".*there are 3 rows, where 2 were counted"),
        ("a.jsonl", b'{"a":1}\n{"a":"\xff"}\n', ".*is no row like"),
        ("a.jsonl", b'{"\xff":1}\n', "is no readable JSON lines .*utf-8"),
        ("a.jsonl", b"plain words\n", ".*is no row like"),
        ("a.csv", b"1,2\n3,4\n", "its first line has '1' where the name of a column is expected"),
        ("a.csv", b"a,,b\n3,4,5\n", "its first line has '' where"),
        ("a.csv", b"a,a\n3,4\n", "two columns are called 'a'"),
        ("a.csv", b"a\xff\n3\n", "is no readable header of CSV .*as UTF-8"),
        ("a.csv", b"a,b\n1,\xff\n", ".*invalid UTF8"),
        ("a.csv", b"a,b\n1,2\n1,2,3\n", r" ?byte 8 \(row 2 .*Expected 2 columns, got 3"),
        ("a.csv", b'a,b\n1,5"\n2,3\n4,5"\n', ".*where 1 were counted"),
        ("a.csv", b'a,b\n1,"x\n2,3\n', ".*a quoted value does not end"),
        ("a.txt", b"fine\n\xff\n", ".*is no readable UTF-8 .*iconv"),
    ]:  # fmt: skip
        with pytest.raises(DataError, match=f"^{ROOT}{name}(:|,) ?({words})"):
            Shelf({name: data}).tables()


def test_columns_of_csv_items_must_be_the_same() -> None:
    first = b"a,b\n1,2\n"
    with pytest.raises(DataError, match=f"^{ROOT}b.csv: has no column 'b', which {ROOT}a.csv has"):
        Shelf({"a.csv": first, "b.csv": b"a\n1\n"}).tables()
    with pytest.raises(DataError, match=r"b.csv: has a column 'c'"):
        Shelf({"a.csv": first, "b.csv": b"a,c,b\n1,2,3\n"}).tables()


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst"])
def test_compressed_items_may_be_made_of_several_parts_and_may_not_be_cut(name: str) -> None:
    def pack(data: bytes) -> bytes:
        return gzip.compress(data) if name.endswith("gz") else pa.compress(data, "zstd", asbytes=True)

    rows = rows_of_text(500)
    whole = pack(json_lines(rows[:300])) + pack(json_lines(rows[300:]))

    assert Shelf({name: whole}).whole().to_pylist() == rows
    with pytest.raises(DataError, match=f"^{ROOT}{name}: is no readable (gzip|zstd)"):
        Shelf({name: whole[:-20]}).tables()


def test_spans_are_as_long_as_they_may_be_across_the_pieces_that_are_read() -> None:
    line = b"x" * 249_999 + b"\n"
    shelf = Shelf({"a.txt": line * 70})

    assert [span.rows for span in shelf.find().spans(shelf.listing.items[0], shelf.get)] == [4] * 17 + [2]
