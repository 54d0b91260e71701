"""Spark itself: the same bits as duckdb, and as one row at a time. Minutes: TRAINKIT_TEST_ENGINES=all.

10,000 rows in Spark's local mode, fitted there as well; 1,050,000 on two hosts.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from harness import TRAINKIT, Ran, environment, processes_mentioning

UNIT = Path(__file__).parents[1] / "unit"
sys.path.append(str(UNIT))
from features_compared import files_differ, rows_differ, split_of  # noqa: E402
from features_tables import EVERYTHING, lay, rows  # noqa: E402

from trainkit.processing.features.run import Choices, run  # noqa: E402

MANY = 1_050_000
DEFINITION = """
from features_tables import EVERYTHING
from trainkit.processing import Features

features: Features = EVERYTHING
"""
pytestmark = [
    pytest.mark.skipif(os.environ.get("TRAINKIT_TEST_ENGINES") != "all", reason="TRAINKIT_TEST_ENGINES=all"),
    pytest.mark.skipif(importlib.util.find_spec("pyspark") is None, reason="pyspark is not installed"),
]


def made(folder: Path, count: int) -> Any:
    """Rows in raw/, what duckdb makes of them in duckdb/, and a features.py."""
    (folder / "code").mkdir()
    (folder / "code/features.py").write_text(DEFINITION)
    shutil.copy(UNIT / "features_tables.py", folder / "code")
    raw = lay(folder / "raw", count, seed=7, files=4)
    return run(EVERYTHING, {"raw": raw}, folder / "duckdb", choices=Choices(report=False), tell=lambda line: None)


def ran(*words: object, root: Path) -> Ran:
    done = subprocess.run(
        [*map(str, words)], env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        timeout=3000, check=False,
    )  # fmt: skip
    return Ran(done.returncode, done.stdout, root)


def test_spark_fits_the_same_artifact_and_applies_it_with_the_same_bits(tmp_path: Path) -> None:
    applied = made(tmp_path, 10_000)
    command = (*TRAINKIT, "process", tmp_path / "code/features.py", "--input", f"raw={tmp_path / 'raw'}")

    both = ran(*command, "--engine", "spark", "--output", tmp_path / "spark", root=tmp_path / "spark")

    assert both.code == 0, both.out
    assert f"fitted: {tmp_path}/spark/features/{applied.hash}" in both.out
    assert files_differ(tmp_path / "duckdb", both.root, EVERYTHING.splits) == []
    manifest = json.loads((both.root / "MANIFEST.json").read_text())
    assert manifest["artifact"] == applied.hash
    assert sum(one["rows"] for one in manifest["splits"].values()) == 10_000
    assert sorted(one.name for one in both.root.iterdir()) == [
        "MANIFEST.json",
        "features",
        "test",
        "train",
        "validation",
    ]


def test_two_hosts_of_a_cluster_apply_it_to_a_million_rows_with_the_same_bits(tmp_path: Path) -> None:
    applied = made(tmp_path, MANY)
    script, raw = tmp_path / "code/features.py", f"raw={tmp_path / 'raw'}"
    job = (*TRAINKIT, "local", script, "--processing", "--hosts", "2", "--cluster", "spark", "--input", raw)

    refused = ran(*job, "--shard", "raw", "--output", tmp_path / "no", root=tmp_path / "no")
    two = ran(*job, "--output", tmp_path / "two", "--", "--artifact", tmp_path / "duckdb", root=tmp_path / "two")

    assert refused.code == 64 and "ShardedByS3Key, and on Spark every host reads every input" in refused.out
    assert two.code == 0, two.out
    output = two.root / "outputs/output"
    assert files_differ(tmp_path / "duckdb", output, EVERYTHING.splits) == []
    raw_rows = rows(MANY, seed=7)
    for split in EVERYTHING.splits:
        assert rows_differ(applied, raw_rows, split_of(output, split)) == {}
    manifest = json.loads((output / "MANIFEST.json").read_text())
    for split, told in manifest["splits"].items():
        assert sorted(told["files"]) == sorted(one.name for one in (output / split).glob("*.parquet"))
        assert {name.rpartition("-")[0] for name in told["files"]} == {"part-algo-1", "part-algo-2"}
    assert sum(told["rows"] for told in manifest["splits"].values()) == MANY
    assert processes_mentioning(str(tmp_path)) == []
