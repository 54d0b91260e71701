"""A run: what it leaves, what it refuses, and that it comes to the same again."""

from __future__ import annotations

import json
import math
import os
import re
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from features_tables import EVERYTHING, RAW, lay, rows
from harness import environment

from trainkit.errors import ConfigError, DataError
from trainkit.processing import Check, Features, HashSplit, Source, Standardize, Tokens, Vocabulary
from trainkit.processing.features import artifact, memory, sql
from trainkit.processing.features.run import Choices, run

ROWS = 3_000


def silent(line: str) -> None:
    pass


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lay(tmp_path_factory.mktemp("tables") / "raw", ROWS, seed=3)


@pytest.fixture(scope="module")
def made(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    out = tmp_path_factory.mktemp("made") / "out"
    return run(EVERYTHING, {"raw": raw}, out, choices=Choices(threads=2), tell=silent), out


def test_all_rows_are_written_once_and_name_their_artifact(made: Any) -> None:
    applied, out = made
    manifest = json.loads((out / "MANIFEST.json").read_text())

    assert sorted(one.name for one in out.iterdir()) == [
        "MANIFEST.json",
        "features",
        "report",
        "test",
        "train",
        "validation",
    ]
    assert manifest["artifact"] == applied.hash == artifact.load(out / "features").hash
    ids = [pq.read_table(out / split, columns=["row"])["row"].to_pylist() for split in manifest["splits"]]
    assert sorted(one for some in ids for one in some) == list(range(ROWS))
    assert [len(one) for one in ids] == [one["rows"] for one in manifest["splits"].values()]
    for file in out.glob("t*/*.parquet"):
        assert pq.read_schema(file).metadata[b"trainkit.features"].decode() == applied.hash


def test_another_run_comes_to_the_same_hash_and_the_same_output_is_not_fitted_again(
    made: Any, raw: Path, tmp_path: Path
) -> None:
    applied, out = made
    said: list[str] = []

    elsewhere = run(EVERYTHING, {"raw": raw}, tmp_path / "out", choices=Choices(threads=1, report=False), tell=silent)
    again = run(EVERYTHING, {"raw": raw}, out, choices=Choices(threads=2), tell=said.append)

    assert applied.hash == elsewhere.hash == again.hash
    assert any(applied.hash in line and "fitted before" in line for line in said)


def test_one_thread_writes_the_same_bytes_every_time(raw: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        run(EVERYTHING, {"raw": raw}, tmp_path / name, choices=Choices(threads=1), tell=silent)

    for one in sorted((tmp_path / "a").rglob("*")):
        if one.is_file():
            assert one.read_bytes() == (tmp_path / "b" / one.relative_to(tmp_path / "a")).read_bytes(), one


def test_what_is_fitted_is_the_mean_and_the_words_of_the_training_rows(made: Any) -> None:
    applied, out = made
    raw = rows(ROWS, seed=3)
    training = pq.read_table(out / "train", columns=["row"])["row"].to_pylist()
    fitted = dict(zip((one.output for one in applied.transforms), applied.fitted, strict=True))

    x = [float(raw["f"][at]) for at in training if raw["f"][at] is not None and math.isfinite(raw["f"][at])]
    assert fitted["f"].mean == pytest.approx(statistics.fmean(x), rel=1e-9)
    assert fitted["f"].std == pytest.approx(statistics.pstdev(x), rel=1e-9)
    counts: dict[str, int] = {}
    for at in training:
        if raw["w"][at] is not None:
            counts[raw["w"][at]] = counts.get(raw["w"][at], 0) + 1
    wanted = sorted((one for one in counts if counts[one] >= 3), key=lambda one: (-counts[one], one.encode()))
    assert fitted["w"].words == tuple(wanted)


def test_an_artifact_is_applied_to_other_rows_without_fitting(made: Any, tmp_path: Path) -> None:
    applied, out = made
    other = lay(tmp_path / "other", 500, seed=99)

    again = run(EVERYTHING, {"raw": other}, tmp_path / "out", choices=Choices(artifact=out / "features"), tell=silent)

    assert again.hash == applied.hash == artifact.load(tmp_path / "out/features").hash
    with pytest.raises(ConfigError, match="made by another definition"):
        changed = replace(EVERYTHING, numeric=[Standardize("x", name="x_std")])
        run(changed, {"raw": other}, tmp_path / "no", choices=Choices(artifact=out / "features"), tell=silent)


@pytest.mark.parametrize("damage", ["flipped", "vocabulary", "missing", "version", "renamed", "expected"])
def test_an_artifact_that_is_not_what_was_saved_is_refused(made: Any, tmp_path: Path, damage: str) -> None:
    applied, out = made
    folder = tmp_path / applied.hash
    (folder / "vocabulary").mkdir(parents=True)
    for one in (out / "features" / applied.hash).rglob("*.json"):
        (folder / one.relative_to(out / "features" / applied.hash)).write_bytes(one.read_bytes())
    said, file, words = "hash", folder / "features.json", next(folder.glob("vocabulary/*.json"))
    if damage == "flipped":
        file.write_text(file.read_text().replace('"std": "0x1.', '"std": "0x2.', 1))
    elif damage == "vocabulary":
        words.write_bytes(words.read_bytes().replace(b"a", b"b"))
        said = "SHA-256 differs"
    elif damage == "missing":
        words.unlink()
        said = "cannot be read"
    elif damage == "version":
        file.write_text(file.read_text().replace('"version": 1', '"version": 2'))
        folder, said = folder.rename(tmp_path / "plain"), "version 2"
    elif damage == "renamed":
        folder = folder.rename(tmp_path / ("0" * 64))
    with pytest.raises(DataError, match=said):
        artifact.load(folder, expect="0" * 64 if damage == "expected" else None)


def test_one_row_takes_a_tenth_of_a_millisecond_at_most(made: Any) -> None:
    applied, _ = made
    row = {name: rows(1, seed=1)[name][0] for name in RAW} | {"x": 1.5, "y": 2.5, "t": "the quick brown fox", "w": "a"}
    took = []
    for _ in range(500):
        began = time.perf_counter()
        applied.row(row)
        took.append(time.perf_counter() - began)

    assert len(applied.transforms) >= 20
    assert min(took) < 100e-6  # the median of a quiet machine; here others may be busy


def test_a_row_that_lacks_a_column_or_has_another_type_is_named(made: Any) -> None:
    applied, _ = made
    row = dict.fromkeys(RAW)
    assert applied.row(row)["x_std"] == np.float32(0)
    with pytest.raises(DataError, match="the row has no 'w'"):
        applied.row({name: None for name in RAW if name != "w"})
    for column, value in (
        ("x", "1.5"),
        ("n", 1.5),
        ("n", 2**63),
        ("w", 3),
        ("w", "\ud800"),
        ("ts", "yesterday"),
        ("b", 2),
    ):
        with pytest.raises(DataError, match=f"{column}: .* is no "):
            applied.row(row | {column: value})


def test_a_check_that_fails_ends_the_job_after_the_report_is_written(raw: Path, tmp_path: Path) -> None:
    features = replace(EVERYTHING, checks=[Check("x IS NOT NULL", allow=0.5), Check("b")])

    with pytest.raises(DataError, match=r"a check failed: b does not hold in [\d,]+ of 3,000 rows"):
        run(features, {"raw": raw}, tmp_path, tell=silent)

    checks = json.loads((tmp_path / "report/report.json").read_text())["checks"]
    assert [one["passed"] for one in checks] == [True, False]
    assert (tmp_path / "MANIFEST.json").is_file()


def test_the_report_counts_every_row_and_its_page_loads_nothing(made: Any) -> None:
    _, out = made
    report = json.loads((out / "report/report.json").read_text())
    page = (out / "report/report.html").read_text()
    raw = rows(ROWS, seed=3)

    assert sum(report["rows"].values()) == ROWS
    assert sum(one["nulls"] for one in report["columns"]["w"]["splits"].values()) == raw["w"].count(None)
    for column in report["columns"].values():
        for shares in column["shares"].values():
            assert sum(shares) == pytest.approx(1)
    assert 0 < report["vocabularies"]["w"]["unknown"]["test"] < 1
    assert report["vocabularies"]["b"]["unknown"]["test"] == 0
    assert all(name in page for name in ("<svg", "Drift", "Vocabularies"))
    assert not re.search(r"<script|<link|https?://|src=|@import|url\(", page)


def test_csv_and_json_lines_are_read_with_the_nulls_that_are_said(tmp_path: Path) -> None:
    for folder in ("flights", "planes"):
        (tmp_path / folder).mkdir()
    lines = [f"{n},{'NA' if n % 5 == 0 else n / 2},t{n % 3}" for n in range(100)]
    (tmp_path / "flights/a.csv").write_text("\n".join(["id,delay,tail", *lines]) + "\n", encoding="utf-8")
    planes = [json.dumps({"tail": f"t{n}", "model": f"Modèle {n}"}, ensure_ascii=False) for n in range(2)]
    (tmp_path / "planes/a.jsonl").write_text("\n".join(planes) + "\n", encoding="utf-8")
    features = Features(
        tables={"flights": Source("flights", nulls=("NA",)), "p": "planes"},
        table="SELECT * FROM flights LEFT JOIN p USING (tail);",
        key="id",
        numeric=[Standardize("delay")],
        categorical=[Vocabulary("model")],
        text=[Tokens("model", name="words", length=2)],
        split=HashSplit("id", train=0.5, test=0.5),
    )

    inputs = {"flights": tmp_path / "flights", "planes": tmp_path / "planes"}
    applied = run(features, inputs, tmp_path / "out", tell=silent)

    assert applied.kinds["delay"] == "float64"
    assert set(applied.fitted[1].words) == {"Modèle 0", "Modèle 1"}
    assert applied.row({"delay": None, "model": "Modèle 1"})["words"].tolist()[0] == 2
    with pytest.raises(DataError, match="no row to fit on"):
        nothing = replace(features, table="SELECT * FROM flights JOIN p USING (tail) WHERE id < 0")
        run(nothing, inputs, tmp_path / "none", tell=silent)


def test_the_command_runs_a_features_py_and_leaves_nothing_behind(tmp_path: Path) -> None:
    lay(tmp_path / "raw", 200, seed=1)
    script = tmp_path / "features.py"
    script.write_text(
        "from trainkit.processing import Features, Standardize, Check\n"
        'features = Features(tables={"raw": "raw"}, table="FROM raw", numeric=[Standardize("x")],\n'
        '                    checks=[Check("b")])\n'
    )
    (tmp_path / "spill").mkdir()
    command = [sys.executable, "-m", "trainkit.processing.features", str(script), "--output", str(tmp_path / "out")]
    command += ["--memory", "1G", "--spill", str(tmp_path / "spill")]

    ran = subprocess.run(
        [*command, "--input", f"raw={tmp_path / 'raw'}"], capture_output=True, text=True, timeout=120, env=environment()
    )

    assert ran.returncode == DataError.exit_code, ran.stderr
    assert "features: a check failed: b does not hold" in ran.stderr
    assert re.search(r"transforming: 200 rows in [\d.]+ s, [\d,]+ rows/s", ran.stderr)
    assert sorted(one.name for one in (tmp_path / "out").iterdir()) == ["MANIFEST.json", "features", "report", "train"]
    assert list((tmp_path / "spill").iterdir()) == []
    assert not [one for one in (tmp_path / "out").rglob("*") if one.name.startswith(".")]


def test_the_memory_of_the_control_group_counts(tmp_path: Path) -> None:
    (tmp_path / "memory/job").mkdir(parents=True)
    (tmp_path / "memory/job/memory.limit_in_bytes").write_text(f"{2**30}\n")
    (tmp_path / "cgroup").write_text("4:memory:/job\n0::/\n")

    assert memory.granted(tmp_path, tmp_path / "cgroup") == 2**30
    assert memory.for_engine(2**30) == 2**29
    assert memory.for_engine(64 << 30) == 48 << 30
    assert memory.granted() <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@pytest.mark.parametrize("value", [0.5, -0.0, 1e-300, 1.7976931348623157e308, 0.1, -1.0, 2.0**60])
def test_a_literal_is_the_number_to_the_last_bit(value: float) -> None:
    import duckdb

    ((found,),) = duckdb.sql(f"SELECT {sql.literal(value)}").fetchall()
    assert isinstance(found, float) and found.hex() == value.hex()


def test_importing_the_definition_loads_no_engine() -> None:
    show = "import sys, trainkit.processing; print(*{name.split('.')[0] for name in sys.modules})"
    ran = subprocess.run([sys.executable, "-c", show], capture_output=True, text=True, check=True, timeout=60)

    assert not {"duckdb", "pyspark", "ray", "dask", "sqlglot", "torch", "numpy", "pyarrow"} & set(ran.stdout.split())


def test_numbers_of_any_size_have_a_mean_and_the_guess_of_the_first_rows_may_be_wrong(tmp_path: Path) -> None:
    columns = {"large": [1e308, 1.7e308, -1e308], "small": [3e-280, 1e-279], "late": [1.0] * 60_000 + [1e30]}
    for name, values in columns.items():
        folder = tmp_path / name
        folder.mkdir()
        pq.write_table(pa.table({"x": values}), folder / "a.parquet")
        features = Features(tables={"raw": "raw"}, table="FROM raw", numeric=[Standardize("x")])

        applied = run(features, {"raw": folder}, tmp_path / f"{name}-out", choices=Choices(threads=1), tell=silent)

        whole = [Fraction(one) for one in values]
        mean = sum(whole) / len(whole)
        std = math.sqrt(sum((one - mean) ** 2 for one in whole) / len(whole) / mean**2) * float(mean)
        assert applied.fitted[0].mean == pytest.approx(float(mean), rel=1e-9)
        assert applied.fitted[0].std == pytest.approx(std, rel=1e-9)
