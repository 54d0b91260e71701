"""WebDataset tars, RecordIO and TFRecord."""

from __future__ import annotations

import io
import tarfile

import pytest
from formats_kit import ROOT, Shelf, recordio, tar, tfrecord

from trainkit.data.formats import BLOCK
from trainkit.data.formats.records import MAGIC, begins_tfrecord, crc32c
from trainkit.errors import DataError

LONG = "folder/" * 30 + "0001"


@pytest.mark.parametrize("kind", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_names_of_any_length_and_script_are_keys(kind: int) -> None:
    members = {
        f"{LONG}.jpg": b"1",
        f"{LONG}.cls": b"2",
        "größe.jpg": b"3",
        "b/c.d/e.JPG": b"4",
        "b/c.d/e.seg.png": b"5",
    }

    assert Shelf({"a.tar": tar(members, kind=kind)}).whole().to_pylist() == [
        {"__key__": LONG, "cls": b"2", "jpg": b"1", "seg.png": None},
        {"__key__": "größe", "cls": None, "jpg": b"3", "seg.png": None},
        {"__key__": "b/c.d/e", "cls": None, "jpg": b"4", "seg.png": b"5"},
    ]


def test_folders_links_and_members_without_an_extension_are_passed_over() -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, kind in [
            ("d", tarfile.DIRTYPE),
            ("d/1.jpg", tarfile.REGTYPE),
            ("l.jpg", tarfile.SYMTYPE),
            ("README", tarfile.REGTYPE),
            (".hidden", tarfile.REGTYPE),
            ("2.jpg", tarfile.REGTYPE),
        ]:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "elsewhere" if kind == tarfile.SYMTYPE else ""
            info.size = 3 if kind == tarfile.REGTYPE else 0
            archive.addfile(info, io.BytesIO(b"abc"))

    assert Shelf({"a.tar": out.getvalue()}).whole()["__key__"].to_pylist() == ["d/1", "2"]


def test_a_span_is_a_run_of_whole_samples() -> None:
    members = {f"{n:03}.{name}": bytes(200_000) for n in range(9) for name in ("a", "b")} | {"big.a": bytes(3 * BLOCK)}
    shelf = Shelf({"a.tar": tar(members)})
    spans = shelf.find().spans(shelf.listing.items[0], shelf.get)

    assert [span.rows for span in spans] == [2, 2, 2, 2, 1, 1]
    assert [part.num_rows for part in shelf.tables()] == [2, 2, 2, 2, 1, 1]


def test_of_large_members_only_the_heads_are_read() -> None:
    shelf = Shelf({"a.tar": tar({f"{n}.bin": bytes(30 * BLOCK) for n in range(3)})})
    found = shelf.find()
    shelf.asked.clear()
    found.spans(shelf.listing.items[0], shelf.get)

    assert sum(length for _, _, length in shelf.asked) < 9 * BLOCK


def test_an_extension_that_comes_late_is_refused_unless_columns_are_chosen() -> None:
    shelf = Shelf({"a.tar": tar({"1.jpg": bytes(2 * BLOCK), "2.jpg": b"x", "2.txt": b"new"})})

    assert [len(row["jpg"]) for row in shelf.whole(["jpg"]).to_pylist()] == [2 * BLOCK, 1]
    with pytest.raises(
        DataError, match=rf"^{ROOT}a.tar, bytes .*: 2 has a member .txt, and no sample of the first block"
    ):
        shelf.tables()


def test_what_is_no_such_tar_is_refused() -> None:
    good = tar({"1.jpg": b"x" * 1000, "2.jpg": b"x"})
    twice = io.BytesIO()
    with tarfile.open(fileobj=twice, mode="w") as archive:
        for _ in range(2):
            archive.addfile(tarfile.TarInfo("1.jpg"))
    for data, words in [
        (good[:1000], ", byte 0: is no readable tar archive .it ends within a member"),
        (good[:1700], ", byte 1536: .*it ends within a head"),
        (good[:1] + b"!" + good[2:], ", byte 0: .*the checksum of a head is wrong"),
        (twice.getvalue(), ": 1 has two members .jpg"),
        (tar({"README": b"x"}), ": has no rows, and no other item has"),
    ]:
        with pytest.raises(DataError, match=f"^{ROOT}a.tar{words}"):
            Shelf({"a.tar": data}).tables()


@pytest.mark.parametrize("record", [b"", b"1", MAGIC, MAGIC * 3, b"x" + MAGIC + b"y", b"1234" + MAGIC, MAGIC + b"1"])
def test_a_record_is_whole_wherever_it_holds_the_magic_number(record: bytes) -> None:
    assert Shelf({"a.rec": recordio([record, b"next"])}).whole()["data"].to_pylist() == [record, b"next"]


def test_a_tfrecord_s_length_is_checked() -> None:
    """With the polynomial of RFC 3720, whose examples these are."""
    assert (crc32c(bytes(32)), crc32c(bytes(range(32)))) == (0x8A9136AA, 0x46DD794E)
    written = tfrecord([b"hello"])

    assert begins_tfrecord(written)
    assert not begins_tfrecord(b"\x06" + written[1:])


def test_what_is_no_file_of_records_is_refused() -> None:
    rec, tfr = recordio([b"one", b"two"]), tfrecord([b"one", b"two"])
    for name, data, words in [
        ("a.rec", rec[:-6], "is no readable RecordIO .(no record begins|the record) at its byte 12"),
        ("a.rec", rec[:12] + b"XXXX" + rec[16:], "is no readable RecordIO .no record begins at its byte 12"),
        ("a.rec", recordio([MAGIC])[:8], "is no readable RecordIO .it ends within a record"),
        ("a.tfrecord", tfr[:-2], "is no readable TFRecord .it ends within a record"),
        ("a.tfrecord", b"\x04" + tfr[1:], "is no readable TFRecord .no record begins at its byte 0"),
    ]:
        with pytest.raises(DataError, match=f"^{ROOT}{name}: {words}"):
            Shelf({name: data}).tables()
