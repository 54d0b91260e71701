"""Packing: the same rows in the same order, in blocks of one size; whole, or nothing at all."""

from __future__ import annotations

import datetime
import decimal
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from formats_kit import Sample, arrow, parquet, samples, table
from harness import DEADLINE, environment
from servers.s3 import S3Server

from trainkit.data.open import PACKING, open_index
from trainkit.data.pack import Packing, Progress, pack
from trainkit.data.shards import KINDS, Kind
from trainkit.errors import DataError, StorageError, UsageError
from trainkit.storage import files

ALL = samples()
KIB = 1 << 10
every_kind = pytest.mark.parametrize("kind", KINDS)


def nobody(progress: Progress) -> None:
    """Hears of each block."""


def rows(where: Path | str, columns: list[str] | None = None) -> pa.Table:
    """All that a stream would read there, block after block."""
    index, fetcher = open_index(str(where))
    tables = []
    for block in range(len(index.rows)):
        span = index.span(block)
        tables.append(index.decode(block, memoryview(fetcher.get(index.item(block), span.start, span.length)), columns))
    fetcher.close()
    return pa.concat_tables(tables)


def laid(folder: Path, **data: bytes) -> Path:
    folder.mkdir()
    for name, content in data.items():
        (folder / name.replace("_", ".")).write_bytes(content)
    return folder


def numbers(count: int, *, start: int = 0) -> pa.Table:
    """Sixteen bytes a row, half of which no compression shortens."""
    rng = np.random.default_rng(start)
    return pa.table({"id": np.arange(start, start + count), "x": rng.random(count)})


@every_kind
@pytest.mark.parametrize("sample", ALL, ids=[sample.name for sample in ALL])
def test_rows_of_every_format_are_the_same_in_the_same_order(sample: Sample, kind: Kind, tmp_path: Path) -> None:
    source = laid(tmp_path / "source")
    (source / sample.name).write_bytes(sample.data)

    done = pack(str(source), str(tmp_path / "dest"), Packing(kind, block=64 * KIB, shard=300 * KIB), nobody)

    names = sorted(path.name for path in (tmp_path / "dest").iterdir())
    assert names == [f"part-{number:06}.{kind}" for number in range(done.shards)]
    assert rows(tmp_path / "dest").to_pylist() == sample.rows
    assert (done.rows_done, done.rows) == (len(sample.rows), len(sample.rows))
    assert done.written == sum(path.stat().st_size for path in (tmp_path / "dest").iterdir())


@every_kind
def test_many_files_become_few_and_a_large_block_many(kind: Kind, tmp_path: Path) -> None:
    source = laid(tmp_path / "source")
    for number in range(40):
        (source / f"a-{number:02}.parquet").write_bytes(parquet(numbers(100, start=number * 100)))
    (source / "b.parquet").write_bytes(parquet(numbers(200_000, start=4000), group=200_000))

    done = pack(str(source), str(tmp_path / "dest"), Packing(kind, block=128 * KIB, shard=1 << 20), nobody)

    assert rows(tmp_path / "dest").column("id").to_pylist() == list(range(204_000))
    index, fetcher = open_index(str(tmp_path / "dest"))
    fetcher.close()
    assert done.shards == len(index.listing.items) > 1
    assert done.blocks == len(index.lengths)
    assert index.lengths.max() < 1.1 * 128 * KIB
    assert np.median(index.lengths) > 0.9 * 128 * KIB


def test_row_groups_are_measured_as_they_are_stored_and_not_beyond_reason(tmp_path: Path) -> None:
    same = pa.table({"text": pa.array(["the same over and over again"] * 2_000_000)})
    source = laid(tmp_path / "source", rows_arrow=arrow(same, batch=100_000))

    pack(str(source), str(tmp_path / "dest"), Packing("parquet", block=64 * KIB), nobody)

    metadata = pq.read_metadata(tmp_path / "dest/part-000000.parquet")
    sizes = [metadata.row_group(number).num_rows * 32 for number in range(metadata.num_row_groups)]
    assert max(sizes) <= 16 * 64 * KIB
    assert np.median(sizes) > 15 * 64 * KIB


def test_a_row_larger_than_a_block_is_one_and_none_is_split(tmp_path: Path) -> None:
    sizes = [10, 90_000, 20, 300_000, 30, 5000, 70_000]
    source = laid(tmp_path / "source", rows_arrow=arrow(pa.table({"data": [bytes(size) for size in sizes]})))

    pack(str(source), str(tmp_path / "dest"), Packing(block=64 * KIB), nobody)

    assert [len(row["data"]) for row in rows(tmp_path / "dest").to_pylist()] == sizes
    index, fetcher = open_index(str(tmp_path / "dest"))
    fetcher.close()
    assert index.rows.tolist() == [1, 1, 1, 1, 2, 1]


def test_the_rows_of_arrow_s_batches_are_known_from_the_footer_and_pyarrow_reads_it(tmp_path: Path) -> None:
    source = laid(tmp_path / "source", rows_arrow=arrow(table()))
    pack(str(source), str(tmp_path / "dest"), Packing(block=64 * KIB), nobody)
    (item,) = open_index(str(tmp_path / "dest"))[0].listing.items

    index, fetcher = open_index(str(tmp_path / "dest"))

    assert len(index.lengths) > 30
    assert fetcher.counters.requests <= 2  # what the first item is, and its end
    fetcher.close()
    with pa.OSFile(item.url) as source_file, pa.ipc.open_file(source_file) as reader:
        assert [reader.get_batch(number).num_rows for number in range(reader.num_record_batches)] == index.rows.tolist()
        assert reader.read_all().column("id").to_pylist() == list(range(900))
    with pa.memory_map(item.url) as mapped:
        assert pa.ipc.open_file(mapped).read_all().num_rows == 900


@every_kind
def test_types_and_gaps_survive(kind: Kind, tmp_path: Path) -> None:
    day = datetime.date(2024, 2, 29)
    columns = {
        "flag": pa.array([None if n % 3 == 0 else n % 2 == 0 for n in range(999)]),
        "small": pa.array([n % 200 for n in range(999)], pa.uint8()),
        "half": pa.array(np.arange(999, dtype=np.float16)),
        "when": pa.array(
            [datetime.datetime(2024, 1, 1, 0, 0, n % 60, n) for n in range(999)], pa.timestamp("ns", "UTC")
        ),
        "day": pa.array([day] * 999),
        "price": pa.array([decimal.Decimal(n) / 100 for n in range(999)], pa.decimal128(12, 2)),
        "image": pa.array([[[n, n + 1]] * 2 for n in range(999)], pa.list_(pa.list_(pa.float32(), 2), 2)),
        "ragged": pa.array(
            [None if n % 5 == 0 else ["a" * n] * (n % 4) for n in range(999)], pa.large_list(pa.string())
        ),
        "pair": pa.array([{"a": n, "b": [n] * (n % 3)} for n in range(999)]),
        "nothing": pa.nulls(999),
        "kind": pa.array(["cat", None, "dog"] * 333).dictionary_encode(),
    }
    source = laid(tmp_path / "source", rows_arrow=arrow(pa.table(columns), batch=333))

    pack(str(source), str(tmp_path / "dest"), Packing(kind, block=16 * KIB), nobody)

    before, after = rows(source), rows(tmp_path / "dest")
    assert after.schema.equals(before.schema)
    for name in before.column_names:
        assert after.column(name).to_pylist() == before.column(name).to_pylist(), name
        assert after.column(name).combine_chunks().equals(before.column(name).combine_chunks()), name


def test_only_the_columns_that_are_asked_for_are_written(tmp_path: Path) -> None:
    source = laid(tmp_path / "source", rows_parquet=parquet(table()))
    pack(str(source), str(tmp_path / "dest"), Packing(columns=("score", "id")), nobody)
    assert rows(tmp_path / "dest").equals(rows(source, ["id", "score"]))
    with pytest.raises(DataError, match="has no column 'ID'; it has id, text"):
        pack(str(source), str(tmp_path / "other"), Packing(columns=("ID",)), nobody)
    assert not (tmp_path / "other").exists()


def test_a_folder_with_something_in_it_or_within_the_source_is_refused_and_left_alone(tmp_path: Path) -> None:
    source = laid(tmp_path / "source", rows_parquet=parquet(table()))
    full = laid(tmp_path / "full", notes_txt=b"mine")
    with pytest.raises(StorageError, match=r"cannot pack into it: it is not empty: there is .*notes.txt"):
        pack(str(source), str(full), Packing(), nobody)
    with pytest.raises(StorageError, match="it is not empty"):
        pack(str(source), str(full / "notes.txt"), Packing(), nobody)
    with pytest.raises(UsageError, match="lies within"):
        pack(str(source), str(source / "packed"), Packing(), nobody)
    assert {path.name for path in tmp_path.rglob("*.*")} == {"rows.parquet", "notes.txt"}
    assert (full / "notes.txt").read_bytes() == b"mine"


def test_no_rows_are_an_error_and_leave_nothing(tmp_path: Path) -> None:
    source = laid(tmp_path / "source", rows_parquet=parquet(table(rows=0)))
    with pytest.raises(DataError, match="there are no rows to pack"):
        pack(str(source), str(tmp_path / "dest"), Packing(), nobody)
    assert not (tmp_path / "dest").exists()


@every_kind
def test_what_goes_wrong_in_the_middle_takes_its_shards_with_it(kind: Kind, tmp_path: Path, s3: S3Server) -> None:
    lines = [b'{"id": %d, "x": %f}' % (n, x) for n, x in enumerate(np.random.default_rng(1).random(200_000))]
    source = laid(tmp_path / "source", rows_jsonl=b"\n".join([*lines, b'{"id": "the last one", "x": 0.5}']))
    seen: list[int] = []

    with pytest.raises(DataError, match=r"rows.jsonl, byte .* is no row like"):
        pack(str(source), f"{s3.bucket}/dest", Packing(kind, block=64 * KIB, shard=200 * KIB),
             lambda progress: seen.append(progress.shards))  # fmt: skip

    assert max(seen) > 1
    assert files.list(f"{s3.bucket}/dest") == ()
    assert (
        s3.counts["CreateMultipartUpload"] == s3.counts["AbortMultipartUpload"] + s3.counts["CompleteMultipartUpload"]
    )


def test_an_interruption_leaves_nothing(tmp_path: Path) -> None:
    source = laid(tmp_path / "source", rows_parquet=parquet(table()))

    def stop(progress: Progress) -> None:
        if progress.shards == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(str(source), str(tmp_path / "dest"), Packing(block=32 * KIB, shard=64 * KIB), stop)
    assert list((tmp_path / "dest").iterdir()) == []


KILLED = """
import os, signal, sys
from trainkit.data.pack import Packing, pack
def die(progress):
    if progress.shards == 2:
        os.kill(os.getpid(), signal.SIGKILL)
pack(sys.argv[1], sys.argv[2], Packing(block=32 << 10, shard=64 << 10), die)
"""


def test_what_a_killed_process_left_is_taken_for_no_data_set(tmp_path: Path) -> None:
    source = laid(tmp_path / "source", rows_parquet=parquet(table()))
    dest = tmp_path / "dest"

    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(source), str(dest)], env=environment(), timeout=DEADLINE, check=False
    )

    assert done.returncode == -9
    assert (dest / "part-000001.arrow").exists()
    with pytest.raises(DataError, match=rf"{PACKING}: `trainkit data pack` writes here, or was killed"):
        open_index(str(dest))
    with pytest.raises(StorageError, match="it is not empty"):
        pack(str(source), str(dest), Packing(), nobody)


def test_two_do_not_pack_into_one_folder(tmp_path: Path) -> None:
    source = laid(tmp_path / "source", rows_parquet=parquet(table()))
    dest = str(tmp_path / "dest")
    tried: list[str] = []

    def another(progress: Progress) -> None:
        if not tried:
            with pytest.raises(StorageError) as refused:
                pack(str(source), dest, Packing(), nobody)
            tried.append(str(refused.value))

    done = pack(str(source), dest, Packing(), another)
    assert "it is not empty" in tried[0]
    assert done.rows_done == 900
    assert os.listdir(dest) == [f"part-{number:06}.arrow" for number in range(1)]  # noqa: PTH208


def test_other_protocols_are_packed_too(tmp_path: Path) -> None:
    source = laid(tmp_path / "source", rows_parquet=parquet(table()))
    (tmp_path / "cached").mkdir()
    # memory:// can create; of two writers to the other, the last one would win, and it is taken all the same
    for url in ("memory://packed/here", f"simplecache::file://{tmp_path}/cached"):
        pack(str(source), url, Packing("parquet"), nobody)
        assert rows(url).equals(rows(source))
        assert [Path(entry.url).name for entry in files.list(url)] == ["part-000000.parquet"]
        for entry in files.list(url):
            files.delete(entry.url)
