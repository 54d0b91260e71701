from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainkit.contract import outcome
from trainkit.contract.blame import is_collateral
from trainkit.contract.outcome import LIMIT, Outcome, RankEnd, Record, explain, judge, read_record
from trainkit.contract.secrets import scrub

many = settings(max_examples=60, deadline=None, database=None)
TRACE = "Traceback (most recent call last):\n" + "".join(
    f'  File "/opt/ml/code/f{index}.py", line {index}, in f{index}\n    f{index + 1}()\n' for index in range(40)
)


def end(rank: int, status: int, time: float, **more: object) -> RankEnd:
    return RankEnd(rank=rank, host="algo-1", status=status, time=time, **more)  # type: ignore[arg-type]


def record(cause: str, time: float = 1.0, frame: str = "train.py:88 in loss_fn", trace: str = "") -> Record:
    return Record(cause=cause, frame=frame, trace=trace, time=time)


def test_a_job_whose_ranks_all_end_well_has_no_failure() -> None:
    assert judge([end(0, 0, 1.0), end(1, 0, 2.0)]) == Outcome(0, None)
    assert judge([end(0, 0, 1.0)]).cause == ""


def test_the_earliest_record_is_the_cause_even_where_another_rank_was_seen_to_end_first() -> None:
    first = end(1, 42, 9.0, record=record("ValueError: x", time=1.0))
    others = [end(0, 1, 5.0, record=record("RuntimeError: gloo lost a peer", time=4.0)), end(2, -6, 6.0)]

    judged = judge([*others, first])

    assert judged.exit_code == 42
    assert judged.cause == "ValueError: x"


def test_ranks_that_we_stopped_are_not_blamed_for_ending_earlier_or_worse() -> None:
    stopped = [end(0, -15, 1.0, stopped=True), end(1, -9, 1.5, stopped=True), end(2, 1, 0.5, stopped=True)]

    judged = judge([*stopped, end(3, 3, 2.0)])

    assert (judged.exit_code, judged.cause) == (3, "exit code 3: rank 3 on algo-1")


def test_a_job_that_was_told_to_stop_has_stopped_with_the_code_its_script_chose() -> None:
    ends = [end(0, 0, 1.0), end(1, -15, 1.0, stopped=True)]

    assert judge(ends, stop_signal=signal.SIGTERM) == Outcome(0)
    assert judge([*ends, end(2, 7, 1.0, stopped=True)], stop_signal=signal.SIGTERM) == Outcome(7)
    assert judge([*ends, end(2, 7, 1.0)], stop_signal=signal.SIGTERM).cause == "exit code 7: rank 2 on algo-1"


def test_ranks_that_were_ended_though_nobody_told_the_job_to_stop_are_no_success() -> None:
    judged = judge([end(0, -9, 1.0, stopped=True), end(1, 0, 1.0)])

    assert judged.exit_code == 137
    assert judged.failure is not None


def test_a_failure_says_cause_then_place_then_the_innermost_frames() -> None:
    text = explain(end(3, 1, 2.0, record=record("KeyError: 'lr'", trace=TRACE + "KeyError: 'lr'\n")))

    lines = text.splitlines()
    assert lines[0] == "KeyError: 'lr'"
    assert lines[1] == "rank 3 on algo-1, train.py:88 in loss_fn, exit code 1"
    assert lines[-1] == "    f40()"
    assert text.count("KeyError") == 1
    assert len(text) <= LIMIT


def test_of_a_long_output_the_end_is_kept() -> None:
    tail = tuple(f"line {index} " + "." * 90 for index in range(50))

    text = explain(end(0, 2, 1.0, tail=(*tail, "ld.so: cannot open libfoo.so")))

    assert text.splitlines()[0] == "exit code 2: rank 0 on algo-1"
    assert text.endswith("ld.so: cannot open libfoo.so")
    assert len(text) == LIMIT


@pytest.mark.parametrize("length", [LIMIT - 60, LIMIT - 1, LIMIT, LIMIT + 1, 50_000])
def test_the_cause_and_then_the_place_stand_first_however_long_they_are(length: int) -> None:
    cause = ("RuntimeError: " + "shape mismatch, " * length)[:length]

    text = explain(end(7, 1, 1.0, step=1200, record=record(cause, trace=TRACE)))

    first, second = text.splitlines()[:2]
    assert cause.startswith(first.removesuffix("…"))
    assert len(first) > LIMIT - 80
    assert second == "rank 7 on algo-1, step 1200, train.py:88 in loss_fn, exit code 1"
    assert len(text) <= LIMIT
    text = explain(end(7, 1, 1.0, record=record(cause, frame="deep/" * length)))
    assert cause.startswith(text.splitlines()[0].removesuffix("…"))
    assert text.splitlines()[1].startswith("rank 7 on algo-1, deep/deep/")
    assert len(text) <= LIMIT


def test_of_a_cause_of_many_lines_the_first_stands_before_the_place_and_the_rest_after() -> None:
    cause = "RuntimeError: Error(s) in loading state_dict for Net:\n" + "\n".join(f"\tMissing {n}" for n in range(200))

    lines = explain(end(0, 1, 1.0, record=record(cause, trace=TRACE))).splitlines()

    assert lines[:2] == [cause.partition("\n")[0], "rank 0 on algo-1, train.py:88 in loss_fn, exit code 1"]
    assert lines[2] == "\tMissing 0"
    assert lines[-1] == "    f40()"


def test_the_remedy_stands_between_place_and_evidence() -> None:
    cause = "OSError: [Errno 28] No space left on device: '/opt/ml/model/model.pt'"

    lines = explain(end(0, 1, 1.0, step=3, record=record(cause, trace=TRACE))).splitlines()

    assert lines[:2] == [cause, "rank 0 on algo-1, step 3, train.py:88 in loss_fn, exit code 1"]
    assert "VolumeSizeInGB" in lines[2]
    assert lines[3] == ""
    assert lines[-1] == "    f40()"
    lines = explain(end(0, 1, 1.0, record=record(f"{cause}\nwhile saving", trace=TRACE))).splitlines()
    assert "VolumeSizeInGB" in lines[2]
    assert lines[3:5] == ["while saving", ""]


def test_a_bus_error_is_told_with_the_size_of_shared_memory_that_the_host_has() -> None:
    worker = record("RuntimeError: DataLoader worker (pid 7) is killed by signal: Bus error. It is possible …")

    for killed in (end(0, -7, 1.0, shm_bytes=2**26), end(0, 1, 1.0, shm_bytes=2**26, record=worker)):
        assert "/dev/shm has only 64 MiB here" in explain(killed)


def test_what_torch_says_of_a_full_gpu_leaves_room_for_the_remedy() -> None:
    text = explain(end(0, 1, 1.0, record=record("torch.OutOfMemoryError: CUDA out of memory. " + "x" * 560)))

    assert text.endswith("Other processes on this GPU are named in the message.")


WRAPPED = """ValueError: Caught ValueError in DataLoader worker process 1.
Original Traceback (most recent call last):
  File "/site-packages/torch/utils/data/_utils/worker.py", line 349, in _worker_loop
    data = fetcher.fetch(index)  # connection reset by peer
  File "/opt/ml/code/rows.py", line 9, in __getitem__
    raise ValueError("no rows")
          ^^^^^^^^^^^^^^^^^^^^^
ValueError: no rows
in part 17
"""


def test_what_a_dataloader_worker_raised_is_the_cause_and_its_frames_the_evidence() -> None:
    raised = end(1, 1, 2.0, record=record(WRAPPED, trace=TRACE))
    echo = end(0, 1, 1.0, record=record("RuntimeError: [pair.cc:534] Connection closed by peer [10.0.0.1]:1"))

    judged = judge([echo, raised])

    assert judged.rank == 1
    lines = (judged.failure or "").splitlines()
    assert lines[0] == "ValueError: no rows (in DataLoader worker process 1)"
    assert lines[1].startswith("rank 1 on algo-1, train.py:88")
    assert lines[2] == "in part 17"
    assert lines[-1] == '    raise ValueError("no rows")'


WATCHDOG = """terminate called after throwing an instance of 'c10::DistBackendError'
  what():  [PG ID 0 Rank 3] watchdog thread terminated with exception: [Rank 3] Watchdog caught collective \
operation timeout: WorkNCCL(SeqNum=4, OpType=BROADCAST) ran for 600011 milliseconds before timing out.
Exception raised from checkTimeout at ProcessGroupNCCL.cpp:632 (most recent call first):"""


def test_a_watchdog_that_aborts_its_rank_is_an_echo_and_says_so_on_the_first_line() -> None:
    aborted = end(3, -6, 1.0, step=20, tail=tuple(WATCHDOG.splitlines()))

    assert judge([aborted, end(1, 5, 2.0)]).cause == "exit code 5: rank 1 on algo-1"
    alone = judge([aborted])
    assert alone.cause.startswith("killed by SIGABRT (signal 6): rank 3 on algo-1, step 20, exit code 134: [PG ID 0")
    assert is_collateral(alone.cause)
    assert "late for a collective" in (alone.failure or "")


def test_the_end_that_is_blamed_is_told_by_rank_and_step() -> None:
    ends = [end(0, 1, 2.0, step=7), end(4, -9, 1.0, step=6)]

    assert (judge(ends).rank, judge(ends).step) == (4, 6)
    assert judge(ends).cause == "killed by SIGKILL (signal 9): rank 4 on algo-1, step 6, exit code 137"
    assert (judge(ends[:1]).rank, judge(ends[:1]).step, judge(ends[:1]).cause) == (
        *(0, 7),
        "exit code 1: rank 0 on algo-1, step 7",
    )
    oom = judge([end(2, -9, 1.0, step=0, out_of_memory=True)])
    assert oom.cause == "out of memory: the kernel killed rank 2 on algo-1, step 0, exit code 137"
    told = judge([end(0, -15, 1.0, step=3, stopped=True)], stop_signal=signal.SIGTERM)
    assert (told.rank, told.step) == (None, None)


def test_a_script_that_is_no_python_gets_the_remedy_for_its_last_line() -> None:
    text = explain(end(0, 1, 1.0, tail=("Traceback", "ModuleNotFoundError: No module named 'einops.layers'")))

    assert text.startswith("exit code 1: rank 0 on algo-1\neinops is not in the image")


def test_evidence_fills_what_the_cause_leaves_and_never_more() -> None:
    for length in range(LIMIT - 80, LIMIT + 2):
        text = explain(end(0, 1, 1.0, record=record("x" * length, trace=TRACE)))
        assert LIMIT - 3 <= len(text) <= LIMIT


@many
@given(st.text(), st.text(), st.text(), st.lists(st.text(), max_size=60), st.integers(-64, 255))
def test_no_failure_is_longer_than_the_service_shows(
    cause: str, frame: str, trace: str, tail: list[str], status: int
) -> None:
    assert len(explain(end(0, status, 1.0, record=record(cause, frame=frame, trace=trace)))) <= LIMIT
    assert len(explain(end(0, status, 1.0, tail=tuple(tail)))) <= LIMIT


@pytest.mark.parametrize(
    ("number", "name", "advice"),
    [
        (signal.SIGKILL, "SIGKILL (signal 9)", "out of memory"),
        (signal.SIGSEGV, "SIGSEGV (signal 11)", "faulthandler"),
        (signal.SIGBUS, "SIGBUS (signal 7)", "/dev/shm"),
        (signal.SIGABRT, "SIGABRT (signal 6)", "Native code gave up"),
        (signal.SIGILL, "SIGILL (signal 4)", "instruction"),
        (63, "signal 63", "last words"),
    ],
)
def test_a_signal_is_named_with_what_it_usually_means(number: int, name: str, advice: str) -> None:
    if sys.platform != "linux":
        pytest.skip("signals have other numbers here")
    text = explain(end(2, -number, 1.0, tail=("last words",)))

    assert text.startswith(f"killed by {name}: rank 2 on algo-1, exit code {128 + number}\n")
    assert advice in text
    assert text.endswith("last words")


def test_a_record_in_the_format_of_torch_elastic_is_read(tmp_path: Path) -> None:
    theirs = {
        "message": {"message": "ValueError: x", "extraInfo": {"py_callstack": "Traceback…", "timestamp": "17"}},
    }
    ours = {"trainkit": {"cause": "ValueError: ours", "frame": "train.py:3 in main", "time": 17.5}}
    file = tmp_path / "error.json"

    file.write_text(json.dumps(theirs))
    assert read_record(file) == Record("ValueError: x", "", "Traceback…", 17.0)
    file.write_text(json.dumps({**theirs, **ours}))
    assert read_record(file) == Record("ValueError: ours", "train.py:3 in main", "Traceback…", 17.5)
    file.write_text(json.dumps({"message": "in one word"}))
    found = read_record(file)
    assert found is not None and found.cause == "in one word"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"{}",
        b"\xff",
        b'{"message": 1}',
        b'{"message": {}}',
        b"[" * 100_000,
        b'{"message": {"message": "x", "extraInfo": {"timestamp": "soon"}}}',
    ],
    ids=lambda content: repr(content[:20]),
)
def test_a_record_that_cannot_be_read_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "error.json").write_bytes(content)

    assert read_record(tmp_path / "error.json") is None
    assert read_record(tmp_path / "absent.json") is None


def test_the_failure_file_is_written_whole_and_can_be_read_by_the_platform(tmp_path: Path) -> None:
    path = tmp_path / "output/failure"

    assert outcome.write_failure(path, "ValueError: é \ud800")
    assert path.read_text(encoding="utf-8") == "ValueError: é ?"
    assert path.stat().st_mode & 0o777 == 0o644
    assert [entry.name for entry in path.parent.iterdir()] == ["failure"]


def test_a_failure_file_that_the_users_script_wrote_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "failure"
    path.write_text("my own words")

    assert not outcome.write_failure(path, "ours")
    assert path.read_text() == "my own words"
    assert [entry.name for entry in tmp_path.iterdir()] == ["failure"]


WRITER = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from trainkit.contract.outcome import write_failure
print("ready", flush=True)
sys.stdin.readline()
won = write_failure(Path(sys.argv[2]), sys.argv[3] * 200_000)
print("won" if won else "lost")
"""


def test_of_concurrent_writers_exactly_one_wins_and_the_file_is_never_partial(tmp_path: Path) -> None:
    path, package = tmp_path / "failure", str(Path(outcome.__file__).parents[2])
    command = [sys.executable, "-S", "-c", WRITER, package, str(path)]
    writers = [
        subprocess.Popen([*command, letter], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for letter in "abcdef"
    ]
    try:
        for writer in writers:
            assert writer.stdout and writer.stdout.readline() == "ready\n"
        for writer in writers:
            assert writer.stdin
            writer.stdin.write("go\n")
            writer.stdin.flush()
        seen = set()
        while any(writer.poll() is None for writer in writers):
            if path.exists():
                seen.add(path.read_text())
        answers = [writer.communicate(timeout=60)[0].strip() for writer in writers]
    finally:
        for writer in writers:
            writer.kill()
            writer.communicate()

    assert sorted(answers) == ["lost"] * 5 + ["won"]
    winner = "abcdef"[answers.index("won")]
    assert seen | {path.read_text()} == {winner * 200_000}
    assert [entry.name for entry in tmp_path.iterdir()] == ["failure"]


@pytest.mark.parametrize(
    ("text", "scrubbed"),
    [
        ("key AKIAIOSFODNN7EXAMPLE here", "key *** here"),
        ("pip failed: https://aws:eyJ2ZXIi@domain.d.codeartifact/x", "pip failed: https://***@domain.d.codeartifact/x"),
        ("http://user:p@ss@host/simple and a@b", "http://***@host/simple and a@b"),
        ("git+https://abcdef0123456789@github.com/a/b", "git+https://***@github.com/a/b"),
        ("https://b.s3/k?X-Amz-Credential=A%2F1&X-Amz-Signature=ff00", "https://b.s3/k?X-Amz-Credential=***&X-Amz-Signature=***"),
        ("Authorization: Bearer abc.def-ghi123", "Authorization: Bearer ***"),
        ("login hf_abcdefghijklmnopqrst", "login ***"),
        ("ghs_abcdefghijklmnopqrst and sk-proj-abc_defghijklmnop-qrs", "*** and ***"),
        ("s3://bucket/key and user@example.com, task-force", "s3://bucket/key and user@example.com, task-force"),
    ],
)  # fmt: skip
def test_credentials_are_known_by_their_shape(text: str, scrubbed: str) -> None:
    assert scrub(text, {}) == scrubbed


def test_credentials_are_known_by_the_name_of_their_variable() -> None:
    environ = {
        "AWS_SECRET_ACCESS_KEY": "/wJalrXUtnFEMI/K7MDENG",
        "MY_TOKEN": "abcdefgh",
        "MY_OTHER_TOKEN": "abcdefghijkl",
        "SM_HP_API_KEY": "hyper-secret",
        "TRAINKIT_CLUSTER_KEY": "between-hosts",
        "SSH_PASSPHRASE": "open sesame",
        "SORT_KEY": "timestamp",
        "DB_PASSWORD": "hunter22",
        "SM_HP_TOKENIZER": "bert-base-uncased",
        "AWS_WEB_IDENTITY_TOKEN_FILE": "/var/run/secrets/token",
        "SHORT_TOKEN": "abc",
        "HOME": "/home/somebody",
    }

    assert scrub("/wJalrXUtnFEMI/K7MDENG abcdefghijkl abcdefgh hyper-secret hunter22", environ) == "*** *** *** *** ***"
    assert scrub("between-hosts, open sesame, by timestamp", environ) == "***, ***, by timestamp"
    kept = "bert-base-uncased is not in /home/somebody; /var/run/secrets/token abc"
    assert scrub(kept, environ) == kept


def test_a_secret_at_the_place_where_the_text_is_cut_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "wJalrXUtnFEMI7MDENGbPxRfiCYEXAMPLEKEY"
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)

    for padding in range(LIMIT - 60, LIMIT + 20):
        text = explain(end(0, 1, 1.0, record=record("x" * padding + secret + "y" * 80)))
        assert secret[:8] not in text
        text = explain(end(0, 1, 1.0, tail=(secret + "z" * padding,)))
        assert secret[-8:] not in text
        text = explain(end(0, 1, 1.0, record=record("x", frame="y" * padding + secret)))
        assert secret[:8] not in text
        text = explain(end(0, 1, 1.0, record=record("x\n" + "y" * padding + secret)))
        assert secret[:8] not in text


@pytest.mark.parametrize(
    "cause",
    [
        "ModuleNotFoundError: No module named 'wJalrXUtnFEMI7MDENG'",
        "FileNotFoundError: [Errno 2] No such file: '/opt/ml/input/data/wJalrXUtnFEMI7MDENG/x'",
        "ValueError: first line\nthen wJalrXUtnFEMI7MDENG",
    ],
)
def test_a_remedy_repeats_no_secret(monkeypatch: pytest.MonkeyPatch, cause: str) -> None:
    monkeypatch.setenv("TRAINKIT_CLUSTER_KEY", "wJalrXUtnFEMI7MDENG")

    assert "wJalr" not in explain(end(0, 1, 1.0, record=record(cause, trace=TRACE)))


def test_a_rank_that_left_early_is_why_the_others_met_its_absence() -> None:
    left = end(3, 0, 8.0)
    echo = end(2, 1, 9.0, record=record("RuntimeError: Connection closed by peer", time=8.1))
    assert judge([left, echo]).cause == "rank 3 on algo-1 ended with exit code 0, while others still trained"
    assert judge([left, end(2, 1, 9.0, record=record("ValueError: x", time=8.1))]).cause == "ValueError: x"
    assert "Connection closed" in judge([end(3, 0, 80.0), echo]).cause, "it left long after"
