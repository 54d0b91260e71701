"""Blocks and indexes kept on disk: right bytes or none, whatever happened to the folder."""

from __future__ import annotations

import gzip
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from formats_kit import comma, json_lines, recordio, rows_of_text, tar
from servers.s3sim import S3Sim

from trainkit.data.fetch.cache import Cache, entry
from trainkit.data.items import Item
from trainkit.data.open import Keep, open_index, open_stream
from trainkit.data.stream import Choices
from trainkit.errors import StorageError

ROWS = 400
BLOCKS = 20


@pytest.fixture
def sim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Sim]:
    """A server with two Parquet files of 400 rows and 20 blocks in all, and a JSON lines file of 3 MB."""
    for name in tuple(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    write(tmp_path / "s3/bucket/train", seed=0)
    rows = "".join(f'{{"id": {row}, "text": "{"x" * (row % 500)}"}}\n' for row in range(10_000))
    (tmp_path / "s3/bucket/lines").mkdir()
    (tmp_path / "s3/bucket/lines/a.jsonl").write_text(rows)
    with S3Sim(tmp_path / "s3") as server:
        for name, value in server.environ.items():
            monkeypatch.setenv(name, value)
        yield server


def write(folder: Path, *, seed: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed)
    for file in range(2):
        ids = np.arange(file * ROWS // 2, (file + 1) * ROWS // 2) + 1000 * seed
        table = pa.table({"id": ids, "data": [noise.bytes(1000) for _ in ids]})
        pq.write_table(table, folder / f"{file}.parquet", row_group_size=ROWS // BLOCKS)


def epochs(
    folder: Path | None, *, limit: int | None = 1 << 30, where: str = "train", count: int = 1
) -> list[list[int]]:
    """The rows of some epochs, in their order, from a stream that is opened and closed."""
    choices = Choices(
        batch_size=10, shuffle=True, seed=3, tail="exact", lanes=4, columns=None, transform=None, kind="numpy",
        memory=1 << 20,
    )  # fmt: skip
    keep = None if folder is None else Keep(str(folder), limit)
    stream = open_stream(f"s3://bucket/{where}", choices, rank=0, ranks=1, keep=keep)
    found = [[row for batch in stream for row in batch["id"].tolist()] for _ in range(count)]
    stream._fetcher.close()
    return found


def kept(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("??/*") if path.is_file()]


def test_epochs_after_the_first_and_later_starts_fetch_nothing(sim: S3Sim, tmp_path: Path) -> None:
    without = epochs(None, count=2)
    sim.stats.clear()

    assert epochs(tmp_path / "cache", count=2) == without
    once = sim.stats["GetObject"]
    assert BLOCKS <= once <= BLOCKS + 4  # a footer each, and the first one's kind
    assert epochs(tmp_path / "cache", count=2) == without
    assert sim.stats["GetObject"] == once


def test_another_version_has_other_bytes_and_the_old_ones_are_tidied_up(sim: S3Sim, tmp_path: Path) -> None:
    (before,) = epochs(tmp_path / "cache")
    old = kept(tmp_path / "cache")
    write(tmp_path / "s3/bucket/train", seed=1)

    (after,) = epochs(tmp_path / "cache")

    assert after == [row + 1000 for row in before]
    assert len(kept(tmp_path / "cache")) == len(old)
    assert not set(old) & set(kept(tmp_path / "cache"))


def test_what_is_damaged_on_disk_is_fetched_again(sim: S3Sim, tmp_path: Path) -> None:
    (right,) = epochs(tmp_path / "cache")
    for number, path in enumerate(kept(tmp_path / "cache")):
        data = bytearray(path.read_bytes())
        data[-1 - number] ^= 1
        path.write_bytes([bytes(data), bytes(data[:-1]), b"", bytes(len(data))][number % 4])
    sim.stats.clear()

    assert epochs(tmp_path / "cache") == [right]
    assert sim.stats["GetObject"] >= BLOCKS
    sim.stats.clear()
    assert epochs(tmp_path / "cache") == [right]
    assert sim.stats["GetObject"] == 0


def test_no_more_is_kept_than_was_allowed_and_the_rest_is_fetched(sim: S3Sim, tmp_path: Path) -> None:
    right = epochs(None)
    limit = 300_000

    assert epochs(tmp_path / "cache", limit=limit) == right
    held = sum(path.stat().st_size for path in kept(tmp_path / "cache"))
    assert limit * 0.7 < held <= limit
    sim.stats.clear()
    assert epochs(tmp_path / "cache", limit=limit) == right
    assert 0 < sim.stats["GetObject"] < BLOCKS
    assert sum(path.stat().st_size for path in kept(tmp_path / "cache")) <= limit


def test_a_folder_that_nobody_may_write_to_is_said_at_the_start(sim: S3Sim, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"file: cannot keep blocks there: .*local disk"):
        epochs(tmp_path / "file")


def test_what_has_no_version_is_not_kept(sim: S3Sim, tmp_path: Path) -> None:
    index, fetcher = open_index(str(tmp_path / "s3/bucket/train"), keep=Keep(str(tmp_path / "cache")))
    assert index.total == ROWS
    fetcher.close()
    assert not (tmp_path / "cache").exists()


def test_only_who_is_alone_tidies_up(tmp_path: Path) -> None:
    scratch = tmp_path / "3f/.abc.4711.0123abcd.part"
    scratch.parent.mkdir()
    first = Cache(tmp_path, limit=1 << 20)
    scratch.touch()
    old = scratch.with_name("1-2-3")
    old.touch()
    os.utime(old, (0, 0))

    second = Cache(tmp_path, limit=1 << 20)
    assert scratch.exists() and old.exists()
    first.close()
    second.close()
    Cache(tmp_path, limit=1 << 20).close()
    assert not scratch.exists() and not old.exists()


FILL = textwrap.dedent("""
    import sys, threading
    from pathlib import Path
    from trainkit.data.fetch.cache import Cache
    cache = Cache(Path(sys.argv[1]), limit=int(sys.argv[2]))
    print("ready", flush=True)
    def fill():
        for number in range(int(sys.argv[3])):
            name = f"aa-bb-{number:x}"
            if cache.read(name) is None:
                cache.write(name, memoryview(b"%d " % number * 2000))
    threads = [threading.Thread(target=fill) for _ in range(3)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
""")


def filler(folder: Path, *, limit: int, count: int) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", FILL, str(folder), str(limit), str(count)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout and process.stdout.readline() == "ready\n"
    return process


def held(folder: Path) -> int:
    return sum(path.stat().st_size for path in kept(folder))


def test_ranks_that_fill_it_together_keep_to_the_limit_and_count_right(tmp_path: Path) -> None:
    limit = 2_000_000
    for process in [filler(tmp_path, limit=limit, count=1000) for _ in range(3)]:
        with process:
            assert process.wait(60) == 0

    assert limit - 11_000 < held(tmp_path) <= limit
    assert int.from_bytes((tmp_path / "used").read_bytes(), "little") == held(tmp_path)


def test_ranks_killed_at_any_moment_leave_nothing_torn_and_nothing_behind(tmp_path: Path) -> None:
    wait = np.random.default_rng(1)
    for _ in range(8):
        process = filler(tmp_path, limit=1 << 30, count=100_000)
        with process:
            seen = len(kept(tmp_path))
            aim = seen + int(wait.integers(1, 300))
            while len(kept(tmp_path)) < aim and process.poll() is None:
                pass
            process.send_signal(signal.SIGKILL)

    cache = Cache(tmp_path, limit=1 << 30)
    assert not list(tmp_path.rglob("*.part"))
    assert int.from_bytes((tmp_path / "used").read_bytes(), "little") == held(tmp_path)
    for path in kept(tmp_path):
        number = int(path.name.rpartition("-")[2], 16)
        found = cache.read(path.name)
        assert found is not None and bytes(found) == b"%d " % number * 2000
    cache.close()


@pytest.mark.skipif(not shutil.which("unshare"), reason="a disk of its own needs unshare")
def test_a_full_disk_is_said_once_and_the_stream_goes_on(sim: S3Sim, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    script = f"""
        import sys; sys.path[:0] = {sys.path!r}
        from pathlib import Path
        from test_data_cache import epochs, kept
        disk = Path({str(tmp_path / "disk")!r})
        right = epochs(None, count=2)
        assert epochs(disk, count=2) == right
        assert 0 < len(kept(disk)) < {BLOCKS}, len(kept(disk))
        assert not list(disk.rglob("*.part"))
        print("all is well")
    """
    mount = f'mount -t tmpfs -o size=200k tmpfs "{tmp_path}/disk" && exec "$0" -c "$1"'
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, sys.executable, textwrap.dedent(script)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    if "unshare" in done.stderr or "mount" in done.stderr:
        pytest.skip(done.stderr)
    assert "all is well" in done.stdout, done.stderr
    assert done.stderr.count("nothing more is kept there ([Errno 28]") == 1


def test_the_index_of_lines_is_read_from_the_folder_at_the_next_start(sim: S3Sim, tmp_path: Path) -> None:
    def start() -> Any:
        sim.stats.clear()
        index, fetcher = open_index("s3://bucket/lines", keep=Keep(str(tmp_path / "cache")))
        fetcher.close()
        return index

    first = start()
    assert sim.stats["GetObject"] > 1
    second = start()
    assert sim.stats["GetObject"] == 0
    assert second.fingerprint == first.fingerprint
    assert (second.starts == first.starts).all() and (second.lengths == first.lengths).all()

    (item,) = first.listing.items
    (path,) = (tmp_path / "cache").rglob(f"{entry(item, 'JSON_lines')}*")
    for nonsense in (
        b"",
        b"\x80\x04",
        pickled(),
        zipped(),
        saved([[0, 10, 1], [5, 10, 1]]),
        saved([[0, item.size + 1, 1]]),
    ):
        cache = Cache(tmp_path / "cache", limit=None)
        path.unlink(missing_ok=True)
        cache.write(path.name, memoryview(nonsense))
        assert path.exists()
        cache.close()
        assert start().fingerprint == first.fingerprint
        assert sim.stats["GetObject"] > 0

    with (tmp_path / "s3/bucket/lines/a.jsonl").open("a") as file:
        file.write('{"id": 10000, "text": ""}\n')
    assert start().total == first.total + 1


@pytest.mark.parametrize("name", ["a.csv", "a.tar", "a.txt", "a.rec", "a.jsonl.gz"])
def test_what_is_found_in_the_folder_is_what_a_reading_finds(sim: S3Sim, tmp_path: Path, name: str) -> None:
    rows = rows_of_text(6_000)
    members = {f"{row['id']}.txt": str(row["text"]).encode() for row in rows}
    made = {
        "a.csv": comma(rows), "a.tar": tar(members), "a.txt": b"\n".join(members.values()),
        "a.rec": recordio(list(members.values())), "a.jsonl.gz": gzip.compress(json_lines(rows)),
    }  # fmt: skip
    (tmp_path / "s3/bucket/one").mkdir()
    for item in (name, f"b{name}"):
        (tmp_path / "s3/bucket/one" / item).write_bytes(made[name])

    def start(keep: Keep | None) -> tuple[list[pa.Table], int]:
        sim.stats.clear()
        index, fetcher = open_index("s3://bucket/one", keep=keep)
        asked = sim.stats["bytes"]
        spans = [(block, index.item(block), index.span(block)) for block in range(len(index.rows))]
        tables = [index.decode(at, fetcher.get(item, span.start, span.length), None) for at, item, span in spans]
        fetcher.close()
        return tables, asked

    keep = Keep(str(tmp_path / "cache"), 1 << 30)
    right, read = start(None)
    assert read > 0
    assert start(keep)[0] == right
    assert start(keep) == (right, 0)


def saved(rows: list[list[int]]) -> bytes:
    from trainkit.data.formats.base import Span
    from trainkit.data.kept import _stored

    return bytes(_stored([Span(*row) for row in rows]))


def zipped() -> bytes:
    import io

    out = io.BytesIO()
    np.savez(out, np.zeros(3))
    return out.getvalue()


def pickled() -> bytes:
    import io

    out = io.BytesIO()
    np.save(out, np.array([{"a": print}], dtype=object), allow_pickle=True)
    return out.getvalue()


def test_two_items_that_share_a_name_or_a_version_are_told_apart() -> None:
    items = [Item("s3://b/a", 1, "x"), Item("s3://b/a", 1, "y"), Item("s3://b/c", 1, "x"), Item("s3://b/a", 2, "x")]
    assert len({entry(item, part) for item in items for part in ("0-1", "0-10", "1-0")}) == 12
