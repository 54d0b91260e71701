"""Which format a listing has, and which of its items are data."""

from __future__ import annotations

import gzip

import pytest
from formats_kit import (
    ROOT,
    Shelf,
    arrow,
    comma,
    json_lines,
    parquet,
    recordio,
    rows_of_text,
    stream,
    table,
    tar,
    tfrecord,
)

from trainkit.data import formats
from trainkit.data.items import Item, Listing
from trainkit.errors import DataError

ROWS = rows_of_text(5)


def test_what_is_hidden_empty_or_beside_the_data_is_passed_over() -> None:
    hidden = (
        "_SUCCESS", ".part-0.parquet.crc", "part-0.parquet.crc", ".hidden", ".ipynb_checkpoints/a.parquet", "_metadata",
        "_delta_log/0.json", "_temporary/0/a.parquet", "_draft.parquet", "rows.idx",
    )  # fmt: skip
    kept = ("a.parquet", "day=1/b.parquet", "folder/_photograph.jpg")
    items = [Item(ROOT + name, 9) for name in (*hidden, *kept)] + [Item(ROOT + "empty.parquet", 0)]

    assert [item.url for item in formats.visible(Listing(tuple(items), ROOT)).items] == [ROOT + name for name in kept]


def test_a_listing_without_data_is_an_error() -> None:
    with pytest.raises(DataError, match=rf"^{ROOT}: there is no data"):
        Shelf({"_SUCCESS": b"", ".x": b"1"}).find()


def test_several_formats_in_one_listing_are_refused_with_one_item_of_each() -> None:
    with pytest.raises(DataError, match=rf"{ROOT}a.csv: is CSV, and {ROOT}b.jsonl is JSON lines. Give each"):
        Shelf({"a.csv": b"x\n1\n", "a2.csv": b"x\n1\n", "b.jsonl": b"{}"}).find()
    with pytest.raises(DataError, match=r"is JSON lines in gzip, and .* is JSON lines"):
        Shelf({"a.jsonl.gz": gzip.compress(b'{"a":1}'), "b.jsonl": b'{"a":1}'}).find()


BYTES = {
    "Parquet": parquet(table(5)),
    "Arrow IPC": arrow(table(5)),
    "JSON lines": json_lines(ROWS),
    "WebDataset": tar({"a.jpg": b"1"}),
    "RecordIO": recordio([b"1"]),
    "TFRecord": tfrecord([b"1"]),
    "files": b"GIF89a",
}


@pytest.mark.parametrize("name", BYTES)
def test_items_without_a_telling_name_are_known_by_their_first_bytes(name: str) -> None:
    assert Shelf({"part-0000": BYTES[name], "part-0001.v2": BYTES[name]}).find().name == name


def test_a_stream_of_arrow_is_known_by_its_first_bytes() -> None:
    assert Shelf({"part": stream(table(5))}).find().name == "Arrow IPC"


def test_the_content_type_counts_where_names_say_nothing() -> None:
    shelf = Shelf({"part-0000": comma(ROWS)})

    assert shelf.find("text/csv; charset=utf-8").name == "CSV"
    assert shelf.find("text/plain").name == "text"
    assert shelf.find("image/jpeg").name == "files"
    assert Shelf({"part-0000.jsonl": json_lines(ROWS)}).find("text/csv").name == "JSON lines"


def test_what_is_compressed_says_in_its_name_what_it_is() -> None:
    rows = gzip.compress(json_lines(ROWS))

    assert Shelf({"a.JSONL.GZ": rows}).find().name == "JSON lines in gzip"
    assert Shelf({"a.tgz": gzip.compress(tar({"a.jpg": b"1"}))}).find().name == "WebDataset in gzip"
    with pytest.raises(DataError, match="is compressed, and its name does not say"):
        Shelf({"part-0000.gz": rows}).find()
    with pytest.raises(DataError, match=r"is Parquet in gzip. Decompress it"):
        Shelf({"a.parquet.gz": gzip.compress(BYTES["Parquet"])}).find()


def test_files_are_rows_with_path_bytes_and_the_folder_as_label() -> None:
    shelf = Shelf({"cat/1.jpg": b"\xff\xd8one", "dog/big/2.png": b"two", "3.jpg": b"three"})

    assert sorted(shelf.whole().to_pylist(), key=str) == [
        {"path": "3.jpg", "data": b"three", "label": None},
        {"path": "cat/1.jpg", "data": b"\xff\xd8one", "label": "cat"},
        {"path": "dog/big/2.png", "data": b"two", "label": "big"},
    ]
