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

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from harness import TRAINKIT, Ran, environment, processes_mentioning

UNIT = Path(__file__).parents[1] / "unit"
sys.path.append(str(UNIT))
from features_compared import files_differ, rows_differ, split_of  # noqa: E402
from features_tables import EVERYTHING, lay, rows  # noqa: E402

from trainkit.processing.features.run import Choices, run  # noqa: E402

MANY = 1_050_000
FRACTIONS = (".5", "", ".123456")
DEFINITION = """
from features_tables import EVERYTHING
from trainkit.processing import Features

features: Features = EVERYTHING
"""
pytestmark = [
    pytest.mark.skipif(os.environ.get("TRAINKIT_TEST_ENGINES") != "all", reason="TRAINKIT_TEST_ENGINES=all"),
    pytest.mark.skipif(importlib.util.find_spec("pyspark") is None, reason="pyspark is not installed"),
]


TRANSLATED = """
from trainkit.processing import Check, Features, HashSplit, OneHot, Passthrough, Standardize, TimeParts, Vocabulary

features = Features(
    tables={"trips": "trips", "zones": "zones"},
    table='''
        WITH busy AS (SELECT zone, count(*) AS trips, CAST(sum(id) AS BIGINT) AS ids, max(moment) AS latest
                      FROM trips GROUP BY zone)
        SELECT t.* EXCLUDE (moment), CAST(moment AS TIMESTAMP) AS ts, CAST(CAST(moment AS TIMESTAMP) AS DATE) AS day,
               area, busy.trips, ids, x * 0.1 + zone AS mixed, x / (zone + 1) AS ratio,
               CASE WHEN x > 0 THEN x END AS positive,
               coalesce(area, 0) AS filled, 'é' || name AS called, year(CAST(moment AS TIMESTAMP)) AS y,
               CAST(zone AS VARCHAR) AS z, CAST(number AS DOUBLE) AS n, -x AS minus, abs(x) AS size,
               nullif(zone, 3) AS some, zone % 7 AS rest, isnan(x) AS nan
        FROM trips t LEFT JOIN zones USING (zone) JOIN busy USING (zone)
        WHERE x < 90 OR x IS NULL AND name NOT IN ('a', 'b') OR x BETWEEN 1e2 AND 101.5
    ''',
    key="id", target="x",
    numeric=[Passthrough(c, name=f"{c}_raw") for c in (
        "ts", "day", "area", "trips", "ids", "mixed", "ratio", "positive", "filled", "called", "y", "z", "n", "minus",
        "size", "some", "rest", "nan")] + [Standardize("mixed"), Standardize("n", dtype="float64")],
    categorical=[Vocabulary("called"), OneHot("some")], time=[TimeParts("ts", parts=("hour",))],
    split=HashSplit("id", train=0.8, test=0.2), checks=[Check("area > 1 AND name <> 'c'", allow=0.99)],
)
"""


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


def test_the_users_sql_is_the_same_table_in_both_and_texts_that_are_read_otherwise_end_the_job(tmp_path: Path) -> None:
    trips, zones = tmp_path / "trips", tmp_path / "zones"
    x = [None, float("nan"), float("inf"), -0.0, 0.0, 0.1, 100.0, 5e-324, -1e300, 3.0]
    count = 2_000
    table = pa.table({
        "id": range(count), "x": [x[n % 10] for n in range(count)], "zone": [n % 13 for n in range(count)],
        "moment": [f"2{n % 7}{n % 3}4-0{n % 9 + 1}-2{n % 9}{' T'[n % 2]}1{n % 10}:03:5{n % 10}{FRACTIONS[n % 3]}"
               for n in range(count)],
        "name": [[None, "a", "b", "c", "日本"][n % 5] for n in range(count)],
        "number": [["0.1", "-7", "1e-3", "123456.789", "9007199254740993"][n % 5] for n in range(count)],
    })  # fmt: skip
    trips.mkdir(), zones.mkdir()
    pq.write_table(table, trips / "0.parquet")
    pq.write_table(pa.table({"zone": [1, 2, 3, 12], "area": [1.5, None, -0.0, 1e300]}), zones / "0.parquet")
    (tmp_path / "features.py").write_text(TRANSLATED)
    command = [*TRAINKIT, "process", tmp_path / "features.py", "--no-report", "--input", f"trips={trips}"]
    command += ["--input", f"zones={zones}", "--output"]

    one = ran(*command, tmp_path / "duckdb", root=tmp_path / "duckdb")
    other = ran(*command, tmp_path / "spark", "--engine", "spark", root=tmp_path / "spark")

    assert (one.code, other.code) == (0, 0), one.out + other.out
    assert files_differ(one.root, other.root, ("train", "test"), by="id") == []
    assert (
        json.loads((one.root / "MANIFEST.json").read_text())["key"]
        == (json.loads((other.root / "MANIFEST.json").read_text())["key"])
    )
    place = table.column_names.index("number")
    odd = table.set_column(place, "number", pa.array([" 1_000"] * count))
    pq.write_table(odd, trips / "0.parquet")
    ended = ran(*command, tmp_path / "spark", "--engine", "spark", root=tmp_path / "spark")
    assert (
        ended.code == 65
        and "CAST of a text to DOUBLE: no form that is the same in duckdb and Spark:  1_000" in ended.out
    )
    assert (other.root / "MANIFEST.json").exists(), "what was there is as it was"


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
