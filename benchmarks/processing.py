"""Feature engineering on one host: trainkit beside duckdb written by hand, and one row at inference.

    python benchmarks/processing.py [--quick] [--rounds N] [--files N] [--limited] [--only features|clusters|identity]

The job: Parquet (17 columns, 400,000 rows a file, about 30 MiB), a timestamp parsed from text, a filter, a left join
with 2,000 rows, a logarithm, a hash split 80/10/10; on the training rows mean and std of 10 numbers, vocabularies of 5
texts (10 times at least); Parquet by split. 24 files without --quick. Contenders take turns. CPU and memory (PSS)
are of the process tree, looked at every 50 ms, imports included. `--limited` adds 4 GiB of input under --memory 1G.

The clusters: seconds from the meeting of two local hosts until the engine counts both, and until the job is over, whose
one command ends at once. Those of Spark, Ray and Dask that are installed take turns.

The identity (when it is named): every transform over 1,050,000 rows (10,000 with --quick) with null, NaN, -0.0,
infinities, subnormals, huge integers and non-ASCII, fitted by duckdb; applied by it, by Spark on two local hosts, in
batches, and row by row. It needs pyspark.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

FEATURES = """
from trainkit.processing import Check, Features, HashSplit, Standardize, TimeParts, Vocabulary
features = Features(
    tables={"trips": "trips", "zones": "zones"},
    table="SELECT t.*, CAST(pickup AS TIMESTAMP) AS ts, area, density, borough "
          "FROM trips t LEFT JOIN zones USING (zone) WHERE target < 200",
    key="row_id", target="target",
    numeric=[*(Standardize(f"x{i}") for i in range(9)), Standardize("x1", log1p=True, name="lx")],
    categorical=[Vocabulary(c, min_count=10) for c in ("vendor", "payment", "plate", "code", "borough")],
    time=[TimeParts("ts", parts=("hour", "weekday"))],
    split=HashSplit("row_id", train=.8, validation=.1, test=.1),
)
"""
BY_HAND = """
import sys, duckdb
src, out = sys.argv[1:3]
con = duckdb.connect()
NUM, CAT = [f"x{i}" for i in range(9)] + ["lx"], ["vendor", "payment", "plate", "code", "borough"]
con.execute(f'''CREATE VIEW j AS SELECT t.*, ln(1 + x1) AS lx, CAST(pickup AS TIMESTAMP) ts, area, density, borough,
    ((row_id * 2654435761) % 4294967296) // 42949673 AS bucket,
    CASE WHEN bucket < 80 THEN 'train' WHEN bucket < 90 THEN 'validation' ELSE 'test' END AS split
    FROM '{src}/trips/*.parquet' t LEFT JOIN '{src}/zones/*.parquet' USING (zone) WHERE target < 200''')
moments = ",".join(f"avg({c}), stddev_pop({c})" for c in NUM)
st = con.execute(f"SELECT {moments} FROM j WHERE split = 'train'").fetchone()
cols, joins = ["row_id", "target"], ""
for i, c in enumerate(NUM):
    cols.append(f"CAST(coalesce(({c} - {st[2 * i]!r}) / {st[2 * i + 1]!r}, 0) AS FLOAT) {c}")
for c in CAT:
    con.execute(f"CREATE TEMP TABLE v_{c} AS SELECT {c} v_value, "
                f"row_number() OVER (ORDER BY count(*) DESC, {c}) + 1 v_code "
                f"FROM j WHERE split = 'train' AND {c} IS NOT NULL GROUP BY {c} HAVING count(*) >= 10")
    joins += f" LEFT JOIN v_{c} ON v_{c}.v_value = j.{c}"
    cols.append(f"CAST(CASE WHEN j.{c} IS NULL THEN 0 ELSE coalesce(v_{c}.v_code, 1) END AS INTEGER) {c}")
cols += ["CAST(hour(ts) AS SMALLINT) h", "CAST(isodow(ts) AS SMALLINT) w", "split"]
con.execute(f"COPY (SELECT {','.join(cols)} FROM j{joins}) TO '{out}' (FORMAT parquet, PARTITION_BY (split))")
"""
ROW = """
import json, statistics, sys, time
from trainkit.processing.features.artifact import load
applied = load(sys.argv[1])
row = {f"x{i}": 3.25 for i in range(9)} | {"vendor": "CMT", "payment": "card", "plate": "P1", "code": "c17"}
row |= {"borough": "b3", "ts": "2024-03-04T10:11:12"}
took = []
for _ in range(5000):
    began = time.perf_counter()
    applied.row(row)
    took.append(time.perf_counter() - began)
cuts = statistics.quantiles(took, n=100)
print(json.dumps({"median": cuts[49] * 1e6, "p99": cuts[98] * 1e6, "columns": len(applied.columns)}))
"""

UNIT = Path(__file__).resolve().parents[1] / "tests/unit"
EVERY_TRANSFORM = """
from features_tables import EVERYTHING
from trainkit.processing import Features

features: Features = EVERYTHING
"""


def lay(folder: Path, files: int) -> None:
    """The data, from seeds: `files` Parquet files of trips, and one of zones."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    (folder / "trips").mkdir(parents=True)
    (folder / "zones").mkdir()
    r = np.random.default_rng(1)
    zones = {"zone": np.arange(2000), "area": r.gamma(2, 3, 2000), "density": r.gamma(3, 100, 2000)}
    zones["borough"] = np.char.add("b", r.integers(0, 7, 2000).astype(str))
    pq.write_table(pa.table(zones), folder / "zones/zones.parquet")
    rows = 400_000
    for number in range(files):
        r = np.random.default_rng(number + 10)
        start = np.datetime64("2024-01-01T00:00:00") + r.integers(0, 365 * 86400, rows).astype("timedelta64[s]")
        made = {
            "row_id": np.arange(rows) + number * rows, "pickup": np.datetime_as_string(start, unit="s"),
            "zone": r.integers(0, 2100, rows), "vendor": np.array(["CMT", "VTS", "DDS", "Ünî"])[r.integers(0, 4, rows)],
            "payment": np.array(["cash", "card", "none", "disp", "void"])[r.integers(0, 5, rows)],
            "plate": np.char.add("P", r.zipf(1.3, rows).clip(0, 50_000).astype(str)),
            "code": np.char.add("c", r.integers(0, 300, rows).astype(str)), "target": r.gamma(2, 10, rows),
        }  # fmt: skip
        for i in range(9):
            x = r.gamma(1.5 + i, 2.0, rows) if i % 2 else r.normal(i * 10, 3 + i, rows)
            made[f"x{i}"] = pa.array(np.round(x, 2) if i < 5 else x, mask=r.random(rows) < 0.02)
        pq.write_table(pa.table(made), folder / f"trips/part-{number:03}.parquet", row_group_size=100_000)


def measure(command: list[str]) -> tuple[float, float, float]:
    """(CPU seconds, MiB of PSS at the peak, wall seconds) of a process tree. Raises where it fails."""
    before, began, peak = os.times(), time.monotonic(), 0
    with tempfile.TemporaryFile() as said, subprocess.Popen(command, stdout=said, stderr=said) as process:
        tree = psutil.Process(process.pid)
        while process.poll() is None:
            try:
                peak = max(peak, sum(one.memory_full_info().pss for one in (tree, *tree.children(recursive=True))))
            except psutil.Error:
                pass  # it ended meanwhile
            time.sleep(0.05)
        if process.returncode:
            said.seek(0)
            raise SystemExit(f"{' '.join(command)} exited with {process.returncode}:\n{said.read().decode()[-3000:]}")
    after = os.times()
    cpu = after.children_user - before.children_user + after.children_system - before.children_system
    return cpu, peak / 2**20, time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--files", type=int, default=24)
    parser.add_argument("--limited", action="store_true")
    parser.add_argument("--only", choices=("features", "clusters", "identity"))
    asked = parser.parse_args()
    files, rounds = (2, 1) if asked.quick else (asked.files, asked.rounds)
    with tempfile.TemporaryDirectory(prefix="bench-processing-") as scratch:
        folder = Path(scratch)
        if asked.only == "identity":
            identity(folder, 10_000 if asked.quick else 1_050_000)
            return
        if asked.only != "clusters":
            compare(folder, files, rounds)
            if asked.limited:
                limited(folder)
        if asked.only != "features":
            clusters(folder, rounds)


def compare(folder: Path, files: int, rounds: int) -> None:
    data, definition = folder / "data", folder / "features.py"
    lay(data, files)
    definition.write_text(FEATURES)
    ours = [sys.executable, "-m", "trainkit.processing.features", str(definition), "--output", str(folder / "ours")]
    ours += ["--input", f"trips={data / 'trips'}", "--input", f"zones={data / 'zones'}"]
    contenders = {
        "duckdb by hand": [sys.executable, "-c", BY_HAND, str(data), str(folder / "hand")],
        "trainkit, no report": [*ours, "--no-report"],
        "trainkit": ours,
    }
    size = sum(one.stat().st_size for one in data.rglob("*.parquet")) / 2**20
    load, cores = os.getloadavg()[0], os.cpu_count()
    print(f"{files * 400_000:,} rows, {size:.0f} MiB, {rounds} rounds, load {load:.1f}, {cores} cores")
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, command in contenders.items():
            for one in ("hand", "ours"):
                shutil.rmtree(folder / one, ignore_errors=True)
            found[name].append(measure(command))
    base = [statistics.median(column) for column in zip(*found["duckdb by hand"], strict=True)]
    for name, runs in found.items():
        cpu, memory, wall = (statistics.median(column) for column in zip(*runs, strict=True))
        low, high = min(run[0] for run in runs), max(run[0] for run in runs)
        print(f"{name:20} CPU {cpu:6.1f} s ({low:.1f}–{high:.1f}; {cpu / base[0]:.2f}×)  "
              f"memory {memory:6.0f} MiB ({memory / base[1]:.2f}×)  wall {wall:5.1f} s")  # fmt: skip
    row = subprocess.run(
        [sys.executable, "-c", ROW, str(folder / "ours/features")], capture_output=True, text=True, check=True
    )
    told = json.loads(row.stdout)
    print(f"one row, {told['columns']} columns: {told['median']:.0f} µs median, {told['p99']:.0f} µs p99")


def limited(folder: Path) -> None:
    """4 GiB of input with 1 GiB for everything."""
    shutil.rmtree(folder / "data")
    lay(folder / "data", 135)
    command = [sys.executable, "-m", "trainkit.processing.features", str(folder / "features.py"), "--memory", "1G"]
    command += [f"--input={name}={folder / 'data' / name}" for name in ("trips", "zones")]
    cpu, memory, wall = measure([*command, "--output", str(folder / "ours"), "--spill", str(folder)])
    print(f"4 GiB of input, --memory 1G: CPU {cpu:.1f} s, memory {memory:.0f} MiB, wall {wall:.1f} s")


def clusters(folder: Path, rounds: int) -> None:
    """How long two hosts wait for each engine."""
    (folder / "app").mkdir()
    (folder / "app/app.py").touch()
    engines = {"spark": "pyspark", "ray": "ray", "dask": "distributed"}
    there = [engine for engine, module in engines.items() if importlib.util.find_spec(module)]
    print(f"clusters of 2 hosts, {rounds} rounds, load {os.getloadavg()[0]:.1f}; not installed: "
          f"{', '.join(sorted(engines.keys() - set(there))) or 'none'}")  # fmt: skip
    found: dict[str, list[tuple[float, float, float]]] = {engine: [] for engine in there}
    for number in range(rounds):
        for engine in there:
            command = [sys.executable, "-m", "trainkit.cli.main", "local", str(folder / "app/app.py"), "--processing"]
            command += ["--hosts", "2", "--cluster", engine, "--output", str(folder / f"{engine}-{number}")]
            before, began = os.times(), time.monotonic()
            ran = subprocess.run(command, capture_output=True, text=True, check=False)
            took, after = time.monotonic() - began, os.times()
            ready = re.search(r"counts algo-1, algo-2 after ([0-9.]+) s", ran.stdout)
            if ran.returncode or not ready:
                raise SystemExit(f"{engine}: exit code {ran.returncode}\n{ran.stdout[-3000:]}{ran.stderr}")
            cpu = after.children_user - before.children_user + after.children_system - before.children_system
            found[engine].append((float(ready[1]), took, cpu))
    for engine, runs in found.items():
        ready, whole, cpu = (statistics.median(column) for column in zip(*runs, strict=True))
        low, high = min(run[0] for run in runs), max(run[0] for run in runs)
        print(f"{engine:6} counts both hosts after {ready:4.1f} s ({low:.1f}–{high:.1f}), over after {whole:4.1f} s, "
              f"CPU {cpu:.1f} s")  # fmt: skip


def identity(folder: Path, count: int) -> None:
    """How many values differ between duckdb, Spark on two hosts, batches and single rows."""
    sys.path.insert(0, str(UNIT))
    from features_compared import files_differ, rows_differ, split_of
    from features_tables import EVERYTHING, lay, rows

    from trainkit.processing.features.run import Choices, run

    (folder / "code").mkdir()
    (folder / "code/features.py").write_text(EVERY_TRANSFORM)
    shutil.copy(UNIT / "features_tables.py", folder / "code")
    raw = lay(folder / "raw", count, seed=7, files=4)
    applied = run(EVERYTHING, {"raw": raw}, folder / "duckdb", choices=Choices(report=False), tell=lambda line: None)
    command = [sys.executable, "-m", "trainkit.cli.main", "local", str(folder / "code/features.py"), "--processing"]
    command += ["--hosts", "2", "--cluster", "spark", "--input", f"raw={raw}", "--output", str(folder / "spark")]
    began = time.monotonic()
    ran = subprocess.run(
        [*command, "--", "--artifact", str(folder / "duckdb")], capture_output=True, text=True, check=False
    )
    if ran.returncode:
        raise SystemExit(f"Spark: exit code {ran.returncode}\n{ran.stdout[-3000:]}{ran.stderr}")
    took, output = time.monotonic() - began, folder / "spark/outputs/output"
    wrong: dict[object, object] = {}
    given = rows(count, seed=7)
    for split in EVERYTHING.splits:
        wrong |= rows_differ(applied, given, split_of(output, split))
    columns = sum(len(one.outputs) for one in EVERYTHING.transforms)
    print(f"{count:,} rows, {columns} features; Spark on 2 hosts {took:.0f} s, load {os.getloadavg()[0]:.1f}")
    differ = files_differ(folder / "duckdb", output, EVERYTHING.splits)
    print(f"columns of Spark's files that differ from duckdb's: {differ}")
    print(f"features that differ from batches and single rows: {wrong}")


if __name__ == "__main__":
    main()
