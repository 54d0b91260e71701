"""What goes through the FIFOs of a channel in Pipe mode, and what manifests say."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from trainkit.data.formats.records import RECORDIO, Records
from trainkit.data.items import Item
from trainkit.errors import UsageError
from trainkit.local import feed, manifests, recordio

MAGIC = bytes.fromhex("0a23d7ce")


def rows(data: bytes) -> list[bytes]:
    """The records in `data`, as training scripts read them."""
    records = Records(RECORDIO)
    item = Item("memory:", len(data))
    spans = records.spans(item, lambda _, start, length: memoryview(data)[start : start + length])
    tables = [
        records.decode(item, span, memoryview(data)[span.start : span.start + span.length], None) for span in spans
    ]
    return [row.as_py() for row in pa.concat_tables(tables)["data"]]


@pytest.mark.parametrize(
    "data", [b"", b"x", b"four", MAGIC, b"a" + MAGIC, b"four" + MAGIC + b"x" + MAGIC, MAGIC * 3, b"12" + MAGIC + b"34"]
)
def test_a_record_is_read_as_it_was_written(data: bytes) -> None:
    assert rows(recordio.record(b"first") + recordio.record(data)) == [b"first", data]


def test_a_record_that_holds_the_magic_number_is_split_there() -> None:
    """Other readers go by that: a part that is no whole record has a flag in the length's highest bits."""
    written = recordio.record(b"four" + MAGIC + b"x" + MAGIC)
    parts = [(1 << 29 | 4, b"four"), (3 << 29 | 5, b"x" + MAGIC + b"\0\0\0")]
    assert written == b"".join(MAGIC + head.to_bytes(4, "little") + data for head, data in parts)


def spec(folder: Path, count: int, **changes: Any) -> dict[str, Any]:
    for number in range(count):
        (folder / str(number)).write_bytes(b"%d," % number)
    records = [[["place", str(folder / str(number))]] for number in range(count)]
    plain = {"records": records, "share": [0, 1], "seed": None, "gzip": False, "recordio": False}
    return plain | changes


def through(given: dict[str, Any], epoch: int = 0) -> bytes:
    return b"".join(feed.stream(given, epoch))


def test_objects_come_one_after_the_other_in_each_epoch_alike(tmp_path: Path) -> None:
    given = spec(tmp_path, 4)
    assert [through(given, epoch) for epoch in range(2)] == [b"0,1,2,3,"] * 2
    assert through({**given, "share": [1, 3]}) == b"1,"


def test_a_seed_gives_each_epoch_an_order_and_each_host_other_objects(tmp_path: Path) -> None:
    given = spec(tmp_path, 20, seed=7)
    epochs = [through(given, epoch) for epoch in range(3)]
    assert len(set(epochs)) == 3
    assert epochs[0] == through(given, 0)
    assert through({**given, "seed": 8}) != epochs[0]
    shares = [[through({**given, "share": [host, 2]}, epoch).split(b",") for host in range(2)] for epoch in range(2)]
    for both in shares:
        assert sorted(both[0][:-1] + both[1][:-1]) == sorted(b"%d" % number for number in range(20))
    assert sorted(shares[0][0]) != sorted(shares[1][0])


def test_gzip_is_unpacked_before_it_is_wrapped(tmp_path: Path) -> None:
    given = spec(tmp_path, 2, gzip=True, recordio=True)
    for number in range(2):
        (tmp_path / str(number)).write_bytes(gzip.compress(b"row %d " % number) + gzip.compress(b"more"))
    assert rows(through(given)) == [b"row 0 more", b"row 1 more"]


def test_an_augmented_manifest_is_the_attributes_of_its_lines(tmp_path: Path) -> None:
    (tmp_path / "cat.jpg").write_bytes(b"CAT")
    lines = [
        {"image-ref": "cat.jpg", "class": 1, "other": "unseen", "box": {"x": [1, 2]}},
        {"image-ref": (tmp_path / "cat.jpg").as_uri(), "class": "two", "box": None},
    ]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    records = manifests.augmented(tmp_path / "m.jsonl", ["class", "image-ref", "box"], base=tmp_path)
    given = {"records": records, "share": [0, 1], "seed": None, "gzip": False, "recordio": True}
    assert rows(through(given)) == [b"1", b"CAT", b'{"x": [1, 2]}', b"two", b"CAT", b"null"]
    assert through({**given, "recordio": False}) == b'1CAT{"x": [1, 2]}twoCATnull'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[]", "line 1 is no JSON object"),
        ("{}", "line 1 has no 'a-ref', one of AttributeNames; it has nothing"),
        ('{"a-ref": 1}', "a-ref is 1: it must be the URL of an object"),
        ('{"a-ref": "nowhere"}', "line 1: a-ref, and there is no "),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "m").write_text(text)
    with pytest.raises(UsageError) as refused:
        manifests.augmented(tmp_path / "m", ["a-ref"], base=tmp_path)
    assert says in str(refused.value)
