"""`trainkit data`, as it is typed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from harness import DEADLINE, TRAINKIT, environment
from servers.s3 import S3Server

from trainkit.data.show import as_text, look
from trainkit.job import facts
from trainkit.job.context import Context
from trainkit.job.signals import Stop
from trainkit.storage import files


def typed(*arguments: str, cwd: Path | None = None, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*TRAINKIT, "data", *arguments], cwd=cwd, env=environment(**environ), stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=DEADLINE, check=False,
    )  # fmt: skip


def laid(folder: Path, *, count: int = 4000, group: int = 1000) -> Path:
    folder.mkdir()
    texts = [f"\x1b[31mline {n}" for n in range(count)]
    data = [bytes([n % 256]) * 50 for n in range(count)]
    for name, start in (("a", 0), ("b", count // 2)):
        part = slice(start, start + count // 2)
        ids = np.arange(count)[part]
        table = pa.table(
            {"id": ids, "text": texts[part], "data": data[part], "x": np.random.default_rng(1).random(len(ids))}
        )
        pq.write_table(table, folder / f"{name}.parquet", row_group_size=group)
    return folder


def test_what_is_in_s3_is_shown_packed_there_and_streamed_in_its_order(tmp_path: Path, s3: S3Server) -> None:
    for file in laid(tmp_path / "data").iterdir():
        files.put_new(f"{s3.bucket}/train/{file.name}", file.read_bytes())

    shown = typed("show", f"{s3.bucket}/train", COLUMNS="60")
    packed = typed("pack", f"{s3.bucket}/train", f"{s3.bucket}/packed", "--block", "16KiB", "--shard", "100 kB")
    told = typed("show", f"{s3.bucket}/packed/", "--json", "--rows", "1")

    assert (shown.returncode, shown.stderr) == (0, "")
    lines = shown.stdout.splitlines()
    assert lines[:3] == ["format   Parquet", "items    2", "rows     4,000"]
    assert "  data  binary" in lines
    (row,) = (line for line in lines if line.startswith("  id=1 "))
    assert row.startswith(r"  id=1  text='\x1b[31mline 1'  data='<50 bytes>'  x=0.")
    assert len(row) == 60
    assert any(line.startswith("   8 ranks  4 blocks mixed at a time") for line in lines)
    assert packed.returncode == 0, packed.stderr
    assert packed.stdout.startswith("4,000 rows, ")
    facts_told = json.loads(told.stdout)
    assert (facts_told["format"], facts_told["rows"], facts_told["first"][0]["id"]) == ("Arrow IPC", 4000, 0)
    assert facts_told["items"] == len(files.list(f"{s3.bucket}/packed")) > 2
    assert facts_told["largest"] < 17_500
    stream = job(tmp_path).stream(f"{s3.bucket}/packed", batch_size=500, kind="numpy", columns=["id"])
    assert np.concatenate([batch["id"] for batch in stream]).tolist() == list(range(4000))


def job(tmp_path: Path) -> Context:
    return Context(facts.read({"RANK": "0", "WORLD_SIZE": "1"}, argv=[], cwd=tmp_path), stop=Stop())


def test_mistakes_end_with_the_code_of_whose_they_are(tmp_path: Path) -> None:
    data = laid(tmp_path / "data")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1" + bytes(200))
    for code, word, arguments in [
        (64, "required: COMMAND", []),
        (64, "is no size: write 1048576, 512KiB or 5GB", ["pack", str(data), "dest", "--block", "1 cup"]),
        (64, "--block must be 4KiB to 1GiB, and no more than --shard", ["pack", str(data), "dest", "--shard", "64KiB"]),
        (64, "invalid choice: 'csv'", ["pack", str(data), "dest", "--format", "csv"]),
        (64, "lies within", ["pack", str(data), str(data / "packed")]),
        (65, "has no column 'y'; it has id, text, data, x", ["pack", str(data), "dest", "--columns", "id,y"]),
        (65, "broken.parquet", ["show", str(tmp_path / "broken.parquet")]),
        (74, "Beside it are", ["show", str(tmp_path / "date")]),
        (74, "it is not empty", ["pack", str(tmp_path / "broken.parquet"), str(data)]),
    ]:
        done = typed(*arguments, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (code, ""), (arguments, done.stderr)
        assert word in done.stderr
        assert "Traceback" not in done.stderr
    assert not (tmp_path / "dest").exists()


def test_modules_beside_the_data_are_not_run(tmp_path: Path) -> None:
    data = laid(tmp_path / "data", count=10)
    (tmp_path / "random.py").write_text("raise SystemExit('the wrong module')")
    (tmp_path / "trainkit").mkdir()
    (tmp_path / "trainkit/__init__.py").write_text("raise SystemExit('the wrong package')")
    program = (
        "import sys; sys.path.pop(0); from trainkit.cli.main import main; main(sys.argv[1:])"  # as a script has it
    )

    done = subprocess.run(
        [sys.executable, "-c", program, "data", "show", str(data)], cwd=tmp_path, env=environment(),
        capture_output=True, text=True, timeout=DEADLINE, check=False,
    )  # fmt: skip

    assert (done.returncode, done.stderr) == (0, "")


def test_neither_the_command_nor_its_help_loads_what_reads_data() -> None:
    show = (
        "import sys, trainkit.cli.main, trainkit.cli.inside, trainkit.data.__main__ as it\n"
        "try: it.main(['pack', '--help'])\n"
        "finally: print(*{name.split('.')[0] for name in sys.modules}, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", show], env=environment(), capture_output=True, text=True, timeout=DEADLINE, check=True
    )
    assert "--block SIZE" in done.stdout
    assert {"pyarrow", "numpy", "boto3", "fsspec", "torch"} & {*done.stderr.split()} == set()


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path: Path) -> None:
    data = laid(tmp_path / "data")
    with subprocess.Popen(
        [*TRAINKIT, "data", "show", str(data)], env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(DEADLINE) == 0


MEASURED = """
import resource, sys
from trainkit.data.__main__ import main
main(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10)
"""


@pytest.mark.parametrize("kind", ["arrow", "parquet"])
def test_packing_takes_as_much_memory_for_much_data_as_for_some(tmp_path: Path, kind: str) -> None:
    table = pa.table({"data": [np.random.default_rng(n).bytes(1 << 16) for n in range(160)]})
    (tmp_path / "some").mkdir()
    (tmp_path / "much").mkdir()
    for folder, number in (("some", 10), ("much", 50)):
        with pa.ipc.new_file(tmp_path / folder / "a.arrow", table.schema) as writer:
            for _ in range(number):
                writer.write_table(table, max_chunksize=16)

    peaks = []
    for folder in ("some", "much"):
        done = subprocess.run(
            [sys.executable, "-c", MEASURED, "pack", str(tmp_path / folder), str(tmp_path / f"dest-{folder}"),
             "--format", kind, "--shard", "64MiB"],
            env=environment(), capture_output=True, text=True, timeout=DEADLINE, check=True,
        )  # fmt: skip
        peaks.append(int(done.stdout.split()[-1]))

    assert peaks[1] - peaks[0] < 80, peaks  # 400 MB more of data


def test_large_blocks_few_blocks_and_compressed_wholes_are_said_to_shuffle_poorly(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    large = pa.table({"x": rng.random(9 << 20)})
    for name, group in (("large", 3 << 20), ("fine", 100_000)):
        pq.write_table(
            large, tmp_path / f"{name}.parquet", row_group_size=group, use_dictionary=False, compression="none"
        )
    pq.write_table(pa.table({"x": rng.random(20)}), tmp_path / "tiny.parquet")

    poor, fine, tiny = (look(str(tmp_path / f"{name}.parquet"), rows=2) for name in ("large", "fine", "tiny"))

    assert "each block would be fetched by 8 of 8 ranks, since there are only 3" in poor.hint.lower()
    assert f"`trainkit data pack {tmp_path}/large.parquet DEST`" in poor.hint
    assert [one.lanes for one in fine.shuffles][:2] == [95, 88]  # 95 blocks; a multiple of the ranks
    assert fine.shuffles[1].readers == 1
    assert tiny.hint == ""
    assert poor.hint in as_text(poor, width=80)


def test_more_memory_than_a_rank_has_is_said(tmp_path: Path) -> None:
    data = laid(tmp_path / "data", count=40_000, group=10_000)
    found = look(str(data), rows=0, memory=200_000)
    assert found.first == []
    assert found.decoded is None
    assert "The largest block would take" in found.hint or "of the largest blocks would take" in found.hint
    assert "of each rank, which has 195 KiB for them" in found.hint
