"""The same artifact gives the same bits through duckdb, in batches, and row by row."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from features_tables import EVERYTHING, RAW, SCHEMA, lay, rows

from trainkit.processing.features import engine, sql
from trainkit.processing.features.declared import NUMBER
from trainkit.processing.features.run import Choices, run

ROWS = 1_100_000 if os.environ.get("TRAINKIT_TEST_FAULTS") == "all" else 12_000
CHUNK = 50_000


def same_bits(left: Any, right: Any) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Where two columns are equal, bit for bit; one NaN is as good as another."""
    a, b = np.asarray(left), np.asarray(right)
    assert a.dtype == b.dtype, (a.dtype, b.dtype)
    assert a.shape == b.shape
    if a.dtype.kind == "f":
        whole = {4: np.int32, 8: np.int64}[a.dtype.itemsize]
        return (a.view(whole) == b.view(whole)) | (np.isnan(a) & np.isnan(b))
    return a == b


def column(values: pa.ChunkedArray) -> Any:
    """numpy of what lies in Parquet: lists as [rows, length]."""
    one = values.combine_chunks()
    if pa.types.is_list(one.type):
        flat = one.flatten().to_numpy(zero_copy_only=False)
        return flat.reshape(len(one), -1)
    return one.to_numpy(zero_copy_only=False)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, dict[str, list[Any]], Path]:
    folder = tmp_path_factory.mktemp("identity")
    raw = lay(folder / "raw", ROWS, seed=7, files=3)
    applied = run(EVERYTHING, {"raw": raw}, folder / "out", choices=Choices(threads=2), tell=lambda line: None)
    return applied, rows(ROWS, seed=7), folder / "out"


@pytest.mark.parametrize("split", EVERYTHING.splits)
def test_duckdb_batches_and_rows_agree_in_every_bit_of_every_column(made: Any, split: str) -> None:
    applied, raw, out = made
    written = pa.concat_tables([pq.read_table(file) for file in sorted((out / split).glob("*.parquet"))])
    assert len(written) > ROWS // 20
    everything = pa.table(raw, schema=SCHEMA)

    wrong: dict[tuple[str, str], tuple[Any, ...]] = {}
    for start in range(0, len(written), CHUNK):
        part = written.slice(start, CHUNK)
        compare(applied, raw, part, everything.take(part["row"].combine_chunks()), wrong)
    assert wrong == {}


def compare(applied: Any, raw: dict[str, list[Any]], part: pa.Table, table: pa.Table, wrong: dict[Any, Any]) -> None:
    """Add to `wrong`, by output and way, the first row that differs: its raw value, duckdb's, and the other's."""
    places = part["row"].to_pylist()
    batch = applied.batch(table)
    single = [applied.row({name: raw[name][place] for name in RAW}) for place in places]
    for one in applied.transforms:
        for output in one.outputs:
            sql, whole = column(part[output]), batch[output]
            if isinstance(whole, pa.Array):
                whole = whole.to_numpy(zero_copy_only=False)
            each = [np.nan if row[output] is None else row[output] for row in single]
            alone = np.array(each, sql.dtype) if one.kind == "Passthrough" else np.stack(each)
            for name, other in (("batch", whole), ("row", alone)):
                off = ~same_bits(sql, other)
                if off.any():
                    at = int(np.argwhere(off)[0][0])
                    wrong.setdefault((output, name), (raw[one.column][places[at]], sql[at], other[at]))


def test_the_numbers_sql_of_other_engines_is_the_same_bits_in_duckdb(made: Any) -> None:
    """On duckdb numpy computes them, so that this SQL would only be seen on Spark."""
    applied, raw, _ = made
    numeric = [
        (one, learnt)
        for one, learnt in zip(applied.transforms, applied.fitted, strict=True)
        if applied.kinds[one.column] in NUMBER and one.kind in ("Standardize", "Log1p", "Bucketize")
    ]
    assert len(numeric) == 9
    with engine.opened(threads=1) as connection:
        connection.register(engine.TABLE, pa.table(raw, schema=SCHEMA))
        statement = sql.features(
            [one for one, _ in numeric], None, ["row"], table=engine.TABLE, kinds=applied.kinds,
            fitted=[learnt for _, learnt in numeric], dialect=sql.DUCKDB,
        )  # fmt: skip
        found = connection.sql(statement).to_arrow_table()
    batch = applied.batch(pa.table(raw, schema=SCHEMA).take(found["row"].combine_chunks()))
    for one, _ in numeric:
        assert same_bits(column(found[one.output]), batch[one.output]).all(), one.output


def test_rows_go_where_the_hash_of_one_row_says(made: Any) -> None:
    applied, _, out = made
    for split in EVERYTHING.splits:
        ids = pq.read_table(out / split, columns=["row"])["row"].to_pylist()
        assert {applied.split_of(one) for one in ids} == {split}
