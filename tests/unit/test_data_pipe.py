"""Pipe channels: real FIFOs, and ranks in processes of their own."""

from __future__ import annotations

import gzip
import os
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from trainkit.data.sources.pipe import Pipe, Place, lines, recordio
from trainkit.errors import StorageError

OTHER_RANK = """
import sys
from pathlib import Path
from trainkit.data.sources.pipe import Pipe, Place, lines

stem, rank, ranks, take = sys.argv[1], *map(int, sys.argv[2:])
for number, record in enumerate(Pipe(Path(stem), cut=lines, place=Place(rank, ranks, 0, ranks), wait=60).records(0), 1):
    print(record.decode())
    if number == take:
        break
"""


@pytest.fixture
def stem(tmp_path: Path) -> Path:
    return tmp_path / "train"


@pytest.fixture(autouse=True)
def no_thread_stays() -> Iterator[None]:
    before = set(threading.enumerate())  # other tests' servers
    yield
    for thread in set(threading.enumerate()) - before:
        thread.join(20)
        assert not thread.is_alive(), thread.name


def write(path: Path, content: bytes) -> threading.Thread:
    """As the service does: a FIFO that is written to when somebody reads."""
    os.mkfifo(path)

    def serve() -> None:
        try:
            with path.open("wb") as out:
                out.write(content)
        except BrokenPipeError:
            pass  # closed early, which is allowed

    thread = threading.Thread(target=serve, name="service")
    thread.start()
    return thread


def another(stem: Path, *, rank: int, ranks: int, take: int = 0) -> subprocess.Popen[str]:
    """A further rank of this host, which prints what it is dealt."""
    arguments = [str(stem), *map(str, (rank, ranks, take))]
    return subprocess.Popen([sys.executable, "-c", OTHER_RANK, *arguments], stdout=subprocess.PIPE, text=True)


def numbers(count: int) -> bytes:
    return b"".join(b"%d\n" % number for number in range(count))


def alone(stem: Path, **options: object) -> Pipe:
    return Pipe(stem, cut=lines, place=Place(), wait=20, **options)  # type: ignore[arg-type]


def test_one_rank_reads_epoch_after_epoch(stem: Path) -> None:
    pipe = alone(stem)
    for epoch in range(2):
        write(stem.with_name(f"train_{epoch}"), numbers(5 + epoch))
        assert list(pipe.records(epoch)) == numbers(5 + epoch).split()


def test_an_epoch_may_be_left_early(stem: Path) -> None:
    pipe = alone(stem)
    write(stem.with_name("train_0"), numbers(2_000_000))
    write(stem.with_name("train_1"), numbers(3))
    reading = pipe.records(0)
    assert [next(reading), next(reading)] == [b"0", b"1"]
    reading.close()
    assert list(pipe.records(1)) == [b"0", b"1", b"2"]


def test_what_is_there_is_handed_over_while_the_service_takes_a_break(stem: Path) -> None:
    fifo = stem.with_name("train_0")
    os.mkfifo(fifo)
    reading = alone(stem).records(0)
    left = threading.Event()

    def serve() -> None:
        with fifo.open("wb", buffering=0) as out:
            out.write(b"first\n")
            left.wait(40)

    service = threading.Thread(target=serve)
    service.start()
    assert next(reading) == b"first"
    assert service.is_alive(), "it came only with the end"
    reading.close()
    for thread in threading.enumerate():
        if thread.name == "pipe-dealer":
            thread.join(20)
            assert not thread.is_alive(), "it waits for a service that nobody listens to"
    left.set()


def test_a_fifo_may_come_late(stem: Path) -> None:
    timer = threading.Timer(0.3, write, (stem.with_name("train_0"), b"late\n"))
    timer.start()
    assert list(alone(stem).records(0)) == [b"late"]


def test_a_fifo_that_does_not_come_is_named(stem: Path) -> None:
    with pytest.raises(StorageError, match=r"train_0: cannot read it: it did not appear"):
        next(Pipe(stem, cut=lines, place=Place(), wait=0.2).records(0))


def test_a_fifo_that_nobody_writes_to_is_named(stem: Path) -> None:
    os.mkfifo(stem.with_name("train_0"))
    with pytest.raises(StorageError, match=r"train_0: cannot read it: nothing was written to it"):
        next(Pipe(stem, cut=lines, place=Place(), wait=0.2).records(0))


def test_objects_that_were_compressed_one_by_one_are_one_stream(stem: Path) -> None:
    write(stem.with_name("train_0"), gzip.compress(b"a\nb\n") + gzip.compress(b"c\n"))
    assert list(alone(stem, gzipped=True).records(0)) == [b"a", b"b", b"c"]


def test_a_gzip_that_is_none_is_an_error(stem: Path) -> None:
    write(stem.with_name("train_0"), b"a\nb\n")
    with pytest.raises(StorageError, match=r"train_0: cannot read it: .*[Nn]ot a gzipped file"):
        list(alone(stem, gzipped=True).records(0))


def test_records_go_in_turn_to_the_ranks_of_a_host(stem: Path) -> None:
    write(stem.with_name("train_0"), numbers(100_000))
    with another(stem, rank=1, ranks=3) as first, another(stem, rank=2, ranks=3) as second:
        mine = list(Pipe(stem, cut=lines, place=Place(0, 3, 0, 3), wait=60).records(0))
        theirs = [process.communicate(timeout=60)[0].split() for process in (first, second)]
    assert [list(map(int, got)) for got in (mine, *theirs)] == [list(range(rank, 100_000, 3)) for rank in range(3)]


def test_what_other_hosts_read_and_what_was_read_before_is_passed_over(stem: Path) -> None:
    write(stem.with_name("train_0"), numbers(20))
    second_host = Place(0, 1, first=1, lanes=2)
    assert list(Pipe(stem, cut=lines, place=second_host, wait=60).records(0, skip=10)) == [
        b"11",
        b"13",
        b"15",
        b"17",
        b"19",
    ]


def test_a_rank_that_leaves_early_ends_the_epoch_for_its_host(stem: Path) -> None:
    write(stem.with_name("train_0"), numbers(3_000_000))
    with another(stem, rank=1, ranks=2, take=5) as process:
        mine = sum(1 for _ in Pipe(stem, cut=lines, place=Place(0, 2, 0, 2), wait=60).records(0))
        assert process.communicate(timeout=60)[0].split() == ["1", "3", "5", "7", "9"]
    assert 5 <= mine < 1_500_000


def test_a_reader_that_is_killed_is_an_error_at_the_other_ranks(stem: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from trainkit.data.sources.pipe import *\n"
        "reading = Pipe(Path(sys.argv[1]), cut=lines, place=Place(0, 2, 0, 2), wait=60).records(0)\n"
        "next(reading); __import__('os').kill(__import__('os').getpid(), 9)"
    )
    write(stem.with_name("train_0"), numbers(2_000_000))
    with (
        subprocess.Popen([sys.executable, "-c", script, str(stem)]),
        pytest.raises(StorageError, match="train_0: cannot read it: the rank that reads it for this host ended"),
    ):
        list(Pipe(stem, cut=lines, place=Place(1, 2, 0, 2), wait=60).records(0))


def wrap(part: int, body: bytes) -> bytes:
    return struct.pack("<II", 0xCED7230A, part << 29 | len(body)) + body + b"\0" * (-len(body) % 4)


def test_recordio_is_unwrapped_and_its_parts_are_put_together(stem: Path) -> None:
    write(stem.with_name("train_0"), wrap(0, b"one") + wrap(1, b"tw") + wrap(2, b"oo") + wrap(3, b"ooo") + wrap(0, b""))
    pipe = Pipe(stem, cut=recordio, place=Place(), wait=20)
    assert list(pipe.records(0)) == [b"one", b"twooooo", b""]


@pytest.mark.parametrize("content", [b"no recordio at all", wrap(0, b"cut off")[:-3], b"123"])
def test_what_is_no_recordio_is_an_error(stem: Path, content: bytes) -> None:
    write(stem.with_name("train_0"), content)
    with pytest.raises(StorageError, match="no RecordIO: set RecordWrapperType"):
        list(Pipe(stem, cut=recordio, place=Place(), wait=20).records(0))
