"""Pipe channels: real FIFOs, and ranks in processes of their own."""

from __future__ import annotations

import gzip
import os
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from trainkit.data.share import Tail
from trainkit.data.sources.dealer import Epoch, Place
from trainkit.data.sources.fifo import lines, mixed, recordio
from trainkit.data.sources.pipe import Pipe, Reading, Records, Sample
from trainkit.errors import StorageError

OTHER_RANK = """
import sys
from pathlib import Path
from trainkit.data.sources.dealer import Epoch, Place
from trainkit.data.sources.fifo import lines
from trainkit.data.sources.pipe import Pipe

stem, rank, ranks, batch, take = sys.argv[1], *map(int, sys.argv[2:])
pipe = Pipe(Path(stem), cut=lines, place=Place(rank, ranks, 0, ranks), wait=60)
for number, step in enumerate(pipe.read(Epoch(batch)), 1):
    sys.stdout.write(bytes(step.data).decode())
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


def another(stem: Path, *, rank: int, ranks: int, batch: int = 1, take: int = 0) -> subprocess.Popen[str]:
    """A further rank of this host, which prints what it is dealt."""
    arguments = [str(stem), *map(str, (rank, ranks, batch, take))]
    return subprocess.Popen([sys.executable, "-c", OTHER_RANK, *arguments], stdout=subprocess.PIPE, text=True)


def numbers(count: int) -> bytes:
    return b"".join(b"%d\n" % number for number in range(count))


def alone(stem: Path, **options: object) -> Pipe:
    return Pipe(stem, cut=lines, place=Place(), wait=20, **options)  # type: ignore[arg-type]


def steps(reading: Reading) -> list[list[bytes]]:
    """The records of each step."""
    found = []
    for one in reading:
        assert isinstance(one, Records)
        ends = np.cumsum(np.frombuffer(one.lengths, "<u8")).tolist()
        found.append([bytes(one.data[begin:end]) for begin, end in pairwise([0, *ends])])
    return found


def ints(reading: Reading) -> list[int]:
    return [int(record) for step in steps(reading) for record in step]


def test_one_rank_reads_epoch_after_epoch(stem: Path) -> None:
    pipe = alone(stem)
    for epoch in range(2):
        write(stem.with_name(f"train_{epoch}"), numbers(5 + epoch))
        reading = pipe.read(Epoch(1))
        assert ints(reading) == list(range(5 + epoch))
        assert reading.total == 5 + epoch


def test_an_epoch_may_be_left_early_and_the_next_fifo_is_read_then(stem: Path) -> None:
    pipe = alone(stem)
    write(stem.with_name("train_0"), numbers(2_000_000))
    write(stem.with_name("train_1"), numbers(3))
    reading = pipe.read(Epoch(1))
    some = iter(reading)
    assert [bytes(next(some).data), bytes(next(some).data)] == [b"0\n", b"1\n"]
    reading.stop()
    assert ints(pipe.read(Epoch(1))) == [0, 1, 2]


def test_ranks_that_are_started_again_do_not_wait_for_a_fifo_that_is_used_up(stem: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from trainkit.data.sources.pipe import *\n"
        "from trainkit.data.sources.fifo import lines\n"
        "pipe = Pipe(Path(sys.argv[1]), cut=lines, place=Place(), wait=60, used_up=Path(sys.argv[2]))\n"
        "next(iter(pipe.read(Epoch(1)))); __import__('os').kill(__import__('os').getpid(), 9)"
    )
    write(stem.with_name("train_0"), numbers(2_000_000))
    kept = stem.with_name("kept")
    assert subprocess.run([sys.executable, "-c", script, str(stem), str(kept)], check=False).returncode == -9
    write(stem.with_name("train_1"), numbers(3))
    assert ints(alone(stem, used_up=kept).read(Epoch(1))) == [0, 1, 2]


def test_what_is_there_is_handed_over_while_the_service_takes_a_break(stem: Path) -> None:
    fifo = stem.with_name("train_0")
    os.mkfifo(fifo)
    left = threading.Event()

    def serve() -> None:
        with fifo.open("wb", buffering=0) as out:
            out.write(b"first\n")
            left.wait(40)

    service = threading.Thread(target=serve)
    service.start()
    reading = alone(stem).read(Epoch(1))
    assert bytes(next(iter(reading)).data) == b"first\n"
    assert service.is_alive(), "it came only with the end"
    reading.stop()
    for thread in threading.enumerate():
        if thread.name == "pipe-dealer":
            thread.join(20)
            assert not thread.is_alive(), "it waits for a service that nobody listens to"
    left.set()


def test_a_fifo_may_come_late(stem: Path) -> None:
    timer = threading.Timer(0.3, write, (stem.with_name("train_0"), b"late\n"))
    timer.start()
    assert steps(alone(stem).read(Epoch(1))) == [[b"late\n"]]


def impatient(stem: Path) -> Reading:
    return Pipe(stem, cut=lines, place=Place(), wait=0.2).read(Epoch(1))


def test_a_fifo_that_does_not_come_or_that_nobody_writes_to_is_named(stem: Path) -> None:
    with pytest.raises(StorageError, match=r"train_0: cannot read it: it did not appear"):
        steps(impatient(stem))
    os.mkfifo(stem.with_name("train_0"))
    with pytest.raises(StorageError, match=r"train_0: cannot read it: nothing was written to it"):
        steps(impatient(stem))


def test_a_rank_that_does_not_ask_is_named(stem: Path) -> None:
    with pytest.raises(StorageError, match=r"train_0: cannot deal it: of the host's ranks, \[1\] did not ask"):
        steps(Pipe(stem, cut=lines, place=Place(0, 2, 0, 2), wait=0.2).read(Epoch(1)))


def test_objects_that_were_compressed_one_by_one_are_one_stream(stem: Path) -> None:
    write(stem.with_name("train_0"), gzip.compress(b"1\n2\n") + gzip.compress(b"3\n"))
    assert ints(alone(stem, gzipped=True).read(Epoch(1))) == [1, 2, 3]


def test_a_gzip_that_is_none_or_that_is_cut_off_is_an_error(stem: Path) -> None:
    write(stem.with_name("train_0"), b"a\nb\n")
    write(stem.with_name("train_1"), gzip.compress(numbers(10_000))[:-9])
    pipe = alone(stem, gzipped=True)
    with pytest.raises(StorageError, match=r"train_0: cannot read it: .*[Nn]ot a gzipped file"):
        steps(pipe.read(Epoch(1)))
    with pytest.raises(StorageError, match=r"train_1: cannot read it: .*ended before the end-of-stream"):
        steps(pipe.read(Epoch(1)))


@pytest.mark.parametrize(
    ("tail", "expected"),
    [
        ("drop", [[[0, 3], [1, 4], [2, 5]], [[6, 9], [7, 10], [8, 11]]]),
        ("exact", [[[0, 3], [1, 4], [2, 5]], [[6, 9], [7, 10], [8, 11]], [[12], [], []]]),
        ("pad", [[[0, 3], [1, 4], [2, 5]], [[6, 9], [7, 10], [8, 11]], [[12, 2], [0, 3], [1, 4]]]),
    ],
)
def test_every_rank_has_as_many_steps(stem: Path, tail: Tail, expected: list[list[list[int]]]) -> None:
    """13 records for three ranks in batches of two, as the ranks of three hosts see them."""
    for rank in range(3):
        here = stem.with_name(f"host{rank}")
        write(here.with_name(f"{here.name}_0"), numbers(13))
        reading = Pipe(here, cut=lines, place=Place(0, 1, rank, 3), wait=60).read(Epoch(2, tail))
        assert [list(map(int, step)) for step in steps(reading)] == [step[rank] for step in expected]
        assert reading.total == 13


def test_records_go_in_turn_to_the_ranks_of_a_host(stem: Path) -> None:
    write(stem.with_name("train_0"), numbers(20_000))
    with another(stem, rank=1, ranks=3, batch=7) as first, another(stem, rank=2, ranks=3, batch=7) as second:
        mine = ints(Pipe(stem, cut=lines, place=Place(0, 3, 0, 3), wait=60).read(Epoch(7)))
        theirs = [list(map(int, process.communicate(timeout=60)[0].split())) for process in (first, second)]
    assert [mine, *theirs] == [list(range(rank, 20_000 - 20_000 % 21, 3)) for rank in range(3)]


def test_what_was_read_before_is_passed_over_mixed_or_not(stem: Path) -> None:
    """By other ranks than before: the position counts records of all."""
    for window in (0, 3000):
        orders = []
        for number, (lanes, skip) in enumerate(((1, 0), (2, 1200))):
            order: list[list[int]] = []
            for lane in range(lanes):
                here = stem.with_name(f"w{window}-{number}-{lane}")
                write(here.with_name(f"{here.name}_0"), numbers(4000))
                pipe = Pipe(here, cut=lines, place=Place(0, 1, lane, lanes), wait=60)
                order.append(ints(pipe.read(Epoch(10, "exact", skip, window, "seed 3"))))
            orders.append([one for turn in zip(*order, strict=True) for one in turn])
        assert orders[0][1200:] == orders[1]
        assert sorted(orders[0]) == list(range(4000))
        assert (orders[0] == list(range(4000))) is (window == 0)


def test_a_window_mixes_what_it_holds() -> None:
    records = [b"%04d" % number for number in range(5000)]
    order = [int(one) for one in mixed(records, window=4000, key="a")]
    assert sorted(order) == list(range(5000))
    assert order == [int(one) for one in mixed(records, window=4000, key="a")]
    assert order != [int(one) for one in mixed(records, window=4000, key="b")]
    assert max(one - at for at, one in enumerate(order)) <= 1000, "further ahead than the window"
    assert 500 < np.abs(np.array(order) - np.arange(5000)).mean() < 1000


def test_all_ranks_are_shown_the_first_records(stem: Path) -> None:
    write(stem.with_name("train_0"), numbers(100))
    first, *others = alone(stem, sample=6).read(Epoch(50))
    assert first == Sample(3, memoryview(b"0\n1\n2\n"))
    assert [one.rows for one in others] == [50, 50]


def test_a_rank_that_leaves_early_ends_the_epoch_for_its_host(stem: Path) -> None:
    write(stem.with_name("train_0"), numbers(3_000_000))
    with another(stem, rank=1, ranks=2, take=5) as process:
        reading = Pipe(stem, cut=lines, place=Place(0, 2, 0, 2), wait=60).read(Epoch(1))
        mine = ints(reading)
        assert process.communicate(timeout=60)[0].split() == ["1", "3", "5", "7", "9"]
    assert 5 <= len(mine) < 1_500_000
    assert reading.total is None


@pytest.mark.parametrize("end", ["__import__('os').kill(__import__('os').getpid(), 9)", "kept = reading; 1 / 0"])
def test_a_reader_that_dies_in_whatever_way_is_an_error_at_the_other_ranks(stem: Path, end: str) -> None:
    script = (
        "import sys; from pathlib import Path; from trainkit.data.sources.pipe import *\n"
        "from trainkit.data.sources.fifo import lines\n"
        "reading = iter(Pipe(Path(sys.argv[1]), cut=lines, place=Place(0, 2, 0, 2), wait=60).read(Epoch(1)))\n"
        f"next(reading); {end}"
    )
    write(stem.with_name("train_0"), numbers(2_000_000))
    with (
        subprocess.Popen([sys.executable, "-c", script, str(stem)], stderr=subprocess.DEVNULL) as reader,
        pytest.raises(StorageError, match="train: cannot read it: the rank that reads it for this host ended"),
    ):
        late = threading.Timer(20, reader.kill)
        late.start()
        try:
            steps(Pipe(stem, cut=lines, place=Place(1, 2, 0, 2), wait=60).read(Epoch(1)))
        finally:
            code = reader.wait()
            late.cancel()
    assert code == (1 if "1 / 0" in end else -9), "it waited for ranks that wait for it"


@pytest.mark.parametrize("end", ["1 / 0", "Path(sys.argv[2]).touch(); sys.exit(1)"])
def test_a_reader_that_fails_does_not_wait_for_ranks_that_wait_for_it_though_its_loop_is_closed(
    stem: Path, end: str
) -> None:
    script = (
        "import sys; from pathlib import Path; from trainkit.data.sources.pipe import *\n"
        "from trainkit.data.sources.fifo import lines\n"
        "reading = Pipe(Path(sys.argv[1]), cut=lines, place=Place(0, 2, 0, 2), wait=60).read(Epoch(50_000))\n"
        f"some = iter(reading); next(some); next(some); reading.stop(); {end}"
    )
    record = stem.with_name("error.json")
    argv = [sys.executable, "-c", script, str(stem), str(record)]
    environ = {**os.environ, "TORCHELASTIC_ERROR_FILE": str(record)}
    write(stem.with_name("train_0"), numbers(2_000_000))
    with subprocess.Popen(argv, stderr=subprocess.DEVNULL, env=environ) as reader:
        reading = Pipe(stem, cut=lines, place=Place(1, 2, 0, 2), wait=60).read(Epoch(50_000))
        some = iter(reading)
        next(some)
        try:
            assert (
                reader.wait(30) == 1
            )  # we are in a collective, as it were, and the next step is more than a socket holds
        finally:
            reading.stop()
            reader.kill()


def wrap(part: int, body: bytes) -> bytes:
    return struct.pack("<II", 0xCED7230A, part << 29 | len(body)) + body + b"\0" * (-len(body) % 4)


def test_recordio_is_unwrapped_and_its_parts_are_put_together(stem: Path) -> None:
    """With the magic number between them, which its writer split them at."""
    write(stem.with_name("train_0"), wrap(0, b"one") + wrap(1, b"tw") + wrap(2, b"oo") + wrap(3, b"ooo") + wrap(0, b""))
    magic = struct.pack("<I", 0xCED7230A)
    pipe = Pipe(stem, cut=recordio, place=Place(), wait=20)
    assert steps(pipe.read(Epoch(3))) == [[b"one", magic.join((b"tw", b"oo", b"ooo")), b""]]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"no recordio at all", "no RecordIO: set RecordWrapperType"),
        (b"123", "no RecordIO"),
        (wrap(0, b"cut off")[:-3], "it ends within a record"),
        (wrap(0, b"whole") + wrap(1, b"half"), "it ends within a record"),
    ],
)
def test_what_is_no_recordio_or_is_cut_off_is_an_error(stem: Path, content: bytes, problem: str) -> None:
    write(stem.with_name("train_0"), content)
    with pytest.raises(StorageError, match=f"train_0: cannot read it: .*{problem}"):
        steps(Pipe(stem, cut=recordio, place=Place(), wait=20).read(Epoch(1)))
