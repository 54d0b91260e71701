"""Features as a processing job, and inside a training job: on real hosts, through the real commands."""

from __future__ import annotations

import json
import os
import subprocess
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from harness import DEADLINE, TRAINKIT, Ran, environment, local, stopped

from trainkit.processing.features import artifact

DEFINITION = """
from own import TABLE
from trainkit.processing import Check, Features, HashSplit, Standardize, Vocabulary

features = Features(
    tables={"raw": "raw"}, table=TABLE, key="id", target="id", numeric=[Standardize("x")],
    categorical=[Vocabulary("w")], split=HashSplit("id", train=0.8, test=0.2), checks=[Check("x < 1e6")],
)
"""
TRAIN = """
import os
import pyarrow.parquet as pq
import trainkit
job = trainkit.job()
ids = [one for name in ("train", "test") for one in pq.read_table(job.channel(name))["id"].to_pylist()]
here = str(job.channel("train")) == os.environ["SM_CHANNEL_TRAIN"]
batches = sum(len(batch["id"]) for batch in job.stream("train", batch_size=100, tail="exact"))
print("SEEN", job.rank, len(ids), len(set(ids)), here, batches, flush=True)
if job.hp("fails", 0) and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0" and job.rank == 1:
    raise ValueError("once")
"""
OWN_HOST = """
import os
TABLE = f"SELECT id, x, '{os.environ['SM_CURRENT_HOST']}' AS w FROM raw"
"""
SLOW = 'import time; print("READY", flush=True); time.sleep(600); TABLE = "FROM raw"\n'
ROWS = 1_000
ALL = os.environ.get("TRAINKIT_TEST_FAULTS") == "all"
"""Whether the second job at a URL, and another of the ways to fail, are worth their seconds."""


def lay(folder: Path) -> Path:
    """A definition, what it imports, a training script, and two files of rows."""
    (folder / "code").mkdir()
    (folder / "code/features.py").write_text(DEFINITION)
    (folder / "code/own.py").write_text('TABLE = "FROM raw"\n')
    (folder / "code/train.py").write_text(TRAIN)
    (folder / "raw").mkdir()
    for number in range(2):
        ids = range(number * ROWS // 2, (number + 1) * ROWS // 2)
        table = pa.table({"id": list(ids), "x": [one / 7 for one in ids], "w": [f"w{one % 5}" for one in ids]})
        pq.write_table(table, folder / f"raw/{number}.parquet")
    return folder


def processed(folder: Path, *options: str, output: str, artifact: Path | None = None) -> Ran:
    script, raw = folder / "code/features.py", f"raw={folder / 'raw'}"
    command = [*TRAINKIT, "local", script, "--processing", "--input", raw, *options, "--output", folder / output]
    command += ["--", "--artifact", artifact] if artifact else []
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=DEADLINE)
    return Ran(done.returncode, done.stdout + done.stderr, folder / output)


def test_a_definition_is_a_processing_job_and_two_hosts_share_what_one_has_fitted(tmp_path: Path) -> None:
    lay(tmp_path)

    one = processed(tmp_path, output="one")
    fits = one.root / "outputs/output"
    fitted = artifact.load(fits)
    refused = processed(tmp_path, "--hosts", "2", "--shard", "raw", output="refused")
    two = processed(tmp_path, "--hosts", "2", "--shard", "raw", output="two", artifact=fits)

    assert one.code == 0, one.out
    assert (refused.code, two.code) == (64, 0), refused.out + two.out
    assert refused.described["ExitMessage"].startswith("UsageError: features are fitted on one host, and this job")
    made = two.root / "outputs/output"
    assert sorted(one.name for one in made.glob("MANIFEST*")) == ["MANIFEST.algo-1.json", "MANIFEST.algo-2.json"]
    assert artifact.load(made).hash == artifact.load(made / "train").hash == fitted.hash
    for split in ("train", "test"):
        assert sorted(one.name for one in (made / split).glob("*.parquet")) == [
            f"part-algo-{number}-00000.parquet" for number in (1, 2)
        ]
        alone, shared = (pq.read_table(ran.root / "outputs/output" / split).sort_by("id") for ran in (one, two))
        assert alone.replace_schema_metadata().equals(shared.replace_schema_metadata())


def trained(folder: Path, output: str, *options: str, stop_at: str = "", **hyperparameters: str) -> Ran:
    """With `stop_at`, it is told to stop when both hosts have said so."""
    given = {"trainkit_features": "features.py", "trainkit_max_restarts": "1", **hyperparameters}
    hps = [word for name, value in given.items() for word in ("--hp", f"{name}={value}")]
    script = folder / "code/train.py"
    given = ("--hosts", "2", "--channel", f"raw={folder / 'raw'}", *hps, *options)
    if stop_at:
        return stopped(script, *given, output=folder / output, at=stop_at, times=2)
    return local(script, *given, output=folder / output)


def test_a_training_job_makes_its_channels_first_and_once(tmp_path: Path) -> None:
    lay(tmp_path)

    ran = trained(tmp_path, "out", fails="1")

    assert ran.code == 0, ran.out
    assert ran.out.count("features: transforming") == 2, "on each host, and not for the ranks' second start"
    seen = [line.split("SEEN ")[1].split() for line in ran.out.splitlines() if "SEEN" in line]
    assert len(seen) == 4, "two ranks, and two again"
    assert {(rows, distinct, here) for _, rows, distinct, here, _ in seen} == {(str(ROWS), str(ROWS), "True")}
    hosts = [ran.root / f"hosts/algo-{number}/features" for number in (1, 2)]
    one, two = ({file.relative_to(host): file.read_bytes() for file in host.rglob("*.parquet")} for host in hosts)
    assert one == two and one, "each host has made the same bytes"
    assert sum(pq.read_metadata(file).num_rows for file in hosts[0].rglob("*.parquet")) == ROWS
    assert (ran.root / "hosts/algo-1/output/data/features/report.html").is_file()


def test_features_py_may_come_with_the_code_that_is_still_to_be_unpacked(tmp_path: Path) -> None:
    lay(tmp_path)
    with tarfile.open(tmp_path / "sourcedir.tar.gz", "w:gz") as tar:
        for file in sorted((tmp_path / "code").iterdir()):
            tar.add(file, file.name)
            file.unlink()
    (tmp_path / "code/train.py").write_text("raise SystemExit('the image has another one')")

    ran = trained(tmp_path, "out", trainkit_source=str(tmp_path / "sourcedir.tar.gz"))

    assert ran.code == 0, ran.out
    assert ran.out.count("SEEN") == 2 and ran.out.count("features: transforming") == 2, ran.out


def test_through_a_url_one_host_makes_them_and_the_next_job_finds_them(tmp_path: Path) -> None:
    lay(tmp_path)
    shared = f"file://{tmp_path / 'shared'}"

    first = trained(tmp_path, "first", trainkit_features_url=shared)

    assert first.code == 0, first.out
    assert first.out.count("features: transforming") == 1 and "[algo-2:1] features: fetched from" in first.out
    if ALL:
        second = trained(tmp_path, "second", trainkit_features_url=shared)
        assert second.code == 0, second.out
        assert "transforming" not in second.out and second.out.count("features: fetched from") == 2
    (manifest,) = (tmp_path / "shared").rglob("MANIFEST.json")
    assert json.loads(manifest.read_text())["splits"].keys() == {"train", "test"}


@pytest.mark.parametrize("wrong", ["check", "nothing", "quarrel", *(["missing"] if ALL else [])])
def test_features_that_fail_are_the_jobs_failure_and_no_rank_starts(tmp_path: Path, wrong: str) -> None:
    lay(tmp_path)
    file, text, code, cause = {
        "check": ("own.py", 'TABLE = "SELECT id, x * 1e6 AS x, w FROM raw"', 65, "DataError: a check failed: x < 1e6"),
        "missing": ("own.py", 'TABLE = "SELECT id, x FROM raw"', 78, "ConfigError: features.py: Vocabulary"),
        "quarrel": ("own.py", OWN_HOST, 65, "DataError: algo-1 came to artifact "),
        "nothing": ("features.py", "features = 3", 66, "/features.py does not say features = Features(…)"),
    }[wrong]
    (tmp_path / "code" / file).write_text(text)

    ran = trained(tmp_path, "out")

    assert ran.code == code, ran.out
    assert cause in ran.described["FailureReason"].splitlines()[0]
    assert "SEEN" not in ran.out


def test_a_stop_while_features_are_made_is_the_end_and_no_failure(tmp_path: Path) -> None:
    lay(tmp_path)
    (tmp_path / "code/own.py").write_text(SLOW)

    ran = trained(tmp_path, "out", stop_at="READY", trainkit_features_url=f"file://{tmp_path / 'shared'}")

    assert (ran.code, ran.described["TrainingJobStatus"]) == (0, "Stopped"), ran.out
    assert ran.out.count("READY") == 2, ran.out
    assert ran.out.count("features.py on 2 hosts") == 1 and "train.py as" not in ran.out, "and no further step"
