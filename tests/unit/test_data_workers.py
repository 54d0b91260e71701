"""Transforms in processes: the same batches as in threads, and nothing left behind."""

from __future__ import annotations

import gc
import os
import re
import select
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import transforms_kit as kit
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_data_stream import SIZES, Storage, choices, streams

from trainkit.data.processes import Processes
from trainkit.errors import DataError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memfd_create is Linux's")
DEADLINE = 60


@pytest.fixture(scope="module")
def pools() -> Iterator[dict[tuple[Any, int], Processes]]:
    """Processes that serve many examples."""
    made: dict[tuple[Any, int], Processes] = {}
    yield made
    for pool in made.values():
        pool.close()


def same(one: Any, other: Any) -> bool:
    """Bit for bit, types too."""
    if isinstance(one, np.ndarray):
        alike: bool = (
            one.dtype == other.dtype and one.shape == other.shape and one.flags.writeable == other.flags.writeable
        )
        return alike and bool(one.tobytes() == other.tobytes())
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one.equals(other) if isinstance(one, pa.Table) else one == other)


@given(
    sizes=SIZES, rows=st.integers(1, 9), batch=st.integers(1, 7), shuffle=st.booleans(), count=st.integers(1, 3),
    transform=st.sampled_from([kit.identity, kit.all_kinds, kit.arrays]), kind=st.sampled_from(["numpy", "arrow"]),
    stop=st.integers(0, 6),
)  # fmt: skip
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_number_of_processes_gives_the_batches_and_states_of_none(
    pools: dict[tuple[Any, int], Processes], sizes: list[int], rows: int, batch: int, shuffle: bool, count: int,
    transform: Callable[[pa.Table], Any], kind: str, stop: int,
) -> None:  # fmt: skip
    given = {"batch_size": batch, "shuffle": shuffle, "transform": transform, "kind": kind}
    (threads,) = streams(Storage(sizes), 1, rows=rows, **given)
    (processes,) = streams(Storage(sizes), 1, rows=rows, processes=count, **given)
    if (transform, count) not in pools:
        pools[transform, count] = Processes(transform, count)
    processes._processes = pools[transform, count]
    for steps in (stop, None):  # left in the middle, and taken up again
        pairs = zip(threads, processes, strict=True)
        for step, (one, other) in enumerate(pairs):
            assert same(one, other)
            assert threads.state_dict() == processes.state_dict()
            if step == steps:
                break
    processes.close()
    threads.close()


def test_what_a_transform_raises_is_raised_in_the_loop_as_from_there() -> None:
    (stream,) = streams(Storage([40]), 1, shuffle=False, transform=kit.fails, processes=1)
    with pytest.raises(ValueError, match="row 0 is no good") as caught:
        next(iter(stream))
    shown = "".join(traceback.format_exception(caught.value))
    assert f'File "{kit.__file__}", line ' in shown
    assert 'return {}["missing"]' in shown
    assert "KeyError: 'missing'" in shown
    assert traceback.extract_tb(caught.value.__traceback__)[-1].name == "fails"
    with pytest.raises(ValueError, match="row 0 is no good"):  # the process is well, and so is the stream
        next(iter(stream))
    stream.close()


@pytest.mark.parametrize(
    ("transform", "said"), [(kit.nothing, "transform returned None"), (kit.unsendable, "cannot pickle 'generator'")]
)
def test_what_is_no_batch_or_cannot_come_back_is_said(transform: Any, said: str) -> None:
    (stream,) = streams(Storage([40]), 1, transform=transform, processes=1)
    with pytest.raises((DataError, TypeError), match=said):
        next(iter(stream))
    stream.close()


def test_a_process_that_dies_is_an_error_with_its_signal_and_the_transform_and_the_next_epoch_has_new_ones() -> None:
    (stream,) = streams(Storage([40]), 1, shuffle=False, transform=kit.killed_at_20, processes=2)
    found: list[int] = []
    with pytest.raises(DataError, match=rf"killed_at_20 \({re.escape(kit.__file__)}:\d+\) was killed by SIGSEGV"):
        found.extend(batch["n"][0] for batch in stream)
    assert found == list(range(0, 4 * len(found), 4))
    stream.set_epoch(0)
    assert next(iter(stream))["n"].tolist() == [0, 1, 2, 3]
    stream.close()


@pytest.mark.parametrize(
    ("transform", "how"),
    [(kit.killed_with_a_child, "was killed by SIGKILL"), (kit.cut_off_and_never_ends, "is cut off, and did not end")],
)
def test_a_process_is_known_to_be_gone_whatever_it_has_left_behind(
    transform: Any, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainkit.data.processes._LEAVING", 0.5)
    (stream,) = streams(Storage([40]), 1, transform=transform, processes=1)
    with pytest.raises(DataError, match=how):
        next(iter(stream))
    stream.close()


def test_what_cannot_be_sent_is_named_before_anything_starts() -> None:
    lock = threading.Lock()
    (stream,) = streams(Storage([40]), 1, transform=lambda table: (lock, table)[1], processes=2)
    with pytest.raises(
        DataError, match=r"<lambda> \(.*test_data_workers.py:\d+\) cannot be sent .* lock, which it uses"
    ):
        iter(stream).__next__()
    with pytest.raises(ValueError, match="processes is 2, and there is no transform"):
        choices(processes=2)
    with pytest.raises(ValueError, match="processes is -1"):
        choices(processes=-1)


def descriptors() -> list[Path]:
    return list(Path("/proc/self/fd").iterdir())


def memory_held() -> int:
    """Pieces of shared memory that this process has open or mapped."""
    count = Path("/proc/self/maps").read_text(encoding="ascii").count("/memfd:trainkit")
    for one in descriptors():
        with suppress(FileNotFoundError):  # the feeding thread has closed it meanwhile
            count += "memfd:trainkit" in str(one.readlink())
    return count


def test_memory_goes_with_the_batches_and_what_is_kept_costs_no_descriptor() -> None:
    (stream,) = streams(Storage([400]), 1, transform=kit.arrays, processes=2)
    gc.collect()  # what earlier tests have left in cycles
    others, most = memory_held(), 0
    for _batch in stream:
        most = max(most, memory_held())
    del _batch
    assert most - others <= 20  # of 100: eight for each process, and the rows and answers that are on their way
    before = len(descriptors())
    kept = list(stream)
    assert len(descriptors()) == before
    assert len(kept) == 100
    del kept
    stream.close()
    del stream
    assert memory_held() <= others


def test_a_forked_child_leaves_the_parents_processes_alone_and_starts_its_own() -> None:
    (stream,) = streams(Storage([40]), 1, transform=kit.who, processes=1)
    running = iter(stream)
    ours = next(running)
    child = os.fork()
    if child == 0:
        try:  # without the parent's threads
            stream.set_epoch(0)
            theirs = set(stream)
            os._exit(0 if len(theirs) == 1 and ours not in theirs else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert set(running) == {ours}
    stream.close()


def test_a_batch_that_a_forked_child_looks_at_stays_as_it_is_when_the_parent_has_dropped_it() -> None:
    (stream,) = streams(Storage([400]), 1, transform=kit.arrays, processes=1)
    running = iter(stream)
    batch = next(running)
    expected = batch["large"].copy()
    look, looked = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(looked)
        os.read(look, 1)
        os._exit(0 if (batch["large"] == expected).all() else 1)
    os.close(look)
    del batch
    assert sum(1 for _ in running) == 99
    os.close(looked)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    stream.close()


SCRIPT = """
import dataclasses
import os.path
import sys

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

import trainkit

print("script", flush=True)
FACTOR = 3


class Scale:
    def __init__(self, by):
        self.by = by

    def __call__(self, value):
        return twice(value) * self.by


@dataclasses.dataclass(frozen=True)
class Batch:
    x: np.ndarray
    name: str = "batch"


def twice(value):
    return 2 * value if value < 10**9 else twice(value - 1)


scale = Scale(FACTOR)


def transform(table):
    rows = table.filter(pc.less(table["id"], 10**6))
    return Batch(np.array([scale(n) for n in rows["id"].to_pylist()]), os.path.join("a", "b"))


job = trainkit.job()
found = {}
for processes in (0, 2):
    stream = job.stream(sys.argv[1], batch_size=8, shuffle=True, transform=transform, kind="numpy", processes=processes)
    found[processes] = [(batch.x.tolist(), batch.name, type(batch) is Batch) for batch in stream]
assert found[0] == found[2] and len(found[0]) == 12, found
offset = 5
stream = job.stream(sys.argv[1], batch_size=8, transform=lambda t: t["id"].to_numpy() + offset, processes=1)
assert next(iter(stream)).tolist() == list(range(5, 13))
stream.close()
"""


def data(tmp_path: Path) -> Path:
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"id": np.arange(100)}), tmp_path / "a.parquet", row_group_size=10)
    return tmp_path / "a.parquet"


def test_functions_and_classes_of_the_script_itself_go_along_without_a_guard_and_it_runs_once(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(SCRIPT, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, script, data(tmp_path)], capture_output=True, text=True, timeout=DEADLINE, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "script\n", "")


BUSY = """
import os, sys
import trainkit

def busy(table):
    os.write(1, b"%d\\n" % os.getpid())  # one write: two processes share the pipe
    if 50 in table["id"].to_pylist():
        sum(range(10**12))  # native code that holds Python's lock
    return table

stream = trainkit.job().stream(sys.argv[1], batch_size=25, transform=busy, kind="numpy", processes=2)
for batch in stream:
    pass
"""


@pytest.mark.parametrize("whom", ["rank", "worker", "all"])
def test_whoever_is_killed_no_process_and_no_file_is_left(tmp_path: Path, whom: str) -> None:
    script, temporary = tmp_path / "train.py", tmp_path / "tmp"
    script.write_text(BUSY, encoding="utf-8")
    temporary.mkdir()
    shared = set(Path("/dev/shm").iterdir())
    with subprocess.Popen(
        [sys.executable, script, data(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "TMPDIR": str(temporary)},
    ) as rank:  # fmt: skip
        assert rank.stdout and rank.stderr
        workers = {int(rank.stdout.readline()) for _ in range(3)}  # the third batch is the one that takes forever
        watched = {pid: os.pidfd_open(pid) for pid in workers}
        for pid in {"rank": [rank.pid], "worker": list(workers)[:1], "all": [rank.pid, *workers]}[whom]:
            with suppress(ProcessLookupError):  # gone with the rank already
                os.kill(pid, signal.SIGKILL)
        for gone in watched.values():
            assert select.select([gone], [], [], DEADLINE)[0], "a worker outlives its rank"
            os.close(gone)
        said = rank.communicate(timeout=DEADLINE)[1]
    assert rank.returncode == (1 if whom == "worker" else -signal.SIGKILL)
    if whom == "worker":
        assert re.search(r"transform busy \(.*train.py:5\) was killed by SIGKILL", said)
    deadline = time.monotonic() + DEADLINE
    while left := set(Path("/dev/shm").iterdir()) - shared:  # others on this machine have some for a moment
        assert time.monotonic() < deadline, left
        time.sleep(0.01)
    assert list(temporary.iterdir()) == []
