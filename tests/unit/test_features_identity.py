"""The same artifact gives the same bits through duckdb, in batches, and row by row."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from features_compared import rows_differ, same_bits, split_of
from features_tables import EVERYTHING, SCHEMA, lay, rows

from trainkit.processing.features import batches, engine, sql
from trainkit.processing.features.run import Choices, run

ROWS = 1_100_000 if os.environ.get("TRAINKIT_TEST_FAULTS") == "all" else 12_000


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, dict[str, list[Any]], Path]:
    folder = tmp_path_factory.mktemp("identity")
    raw = lay(folder / "raw", ROWS, seed=7, files=3)
    applied = run(EVERYTHING, {"raw": raw}, folder / "out", choices=Choices(threads=2), tell=lambda line: None)
    return applied, rows(ROWS, seed=7), folder / "out"


@pytest.mark.parametrize("split", EVERYTHING.splits)
def test_duckdb_batches_and_rows_agree_in_every_bit_of_every_column(made: Any, split: str) -> None:
    applied, raw, out = made
    written = split_of(out, split)
    assert len(written) > ROWS // 20

    assert rows_differ(applied, raw, written) == {}


def test_the_numbers_that_spark_sums_are_in_duckdb_too_the_bits_that_numpy_sums(made: Any) -> None:
    """On duckdb numpy makes them, so that this SQL would only be seen on Spark."""
    applied, raw, _ = made
    summed = [one for one in applied.transforms if one.fits == "moments"]
    assert {one.log1p for one in summed} == {False, True}
    lets = sql.Lets(sql.DUCKDB)
    wanted = [sql.fit_source(one, lets, applied.kinds) for one in summed]
    table = pa.table(raw, schema=SCHEMA)
    with engine.opened(threads=1) as connection:
        connection.register(engine.TABLE, table)
        statement = f"SELECT row, {', '.join(wanted)} FROM (\n{lets.over(engine.TABLE)}\n)"
        found = connection.sql(statement).to_arrow_table()
    taken = table.take(found["row"].combine_chunks())
    for place, one in enumerate(summed):
        x = batches.source(one, batches.floats(taken[one.column].combine_chunks(), applied.kinds[one.column]))
        assert same_bits(found.column(1 + place).to_numpy(), x).all(), one.output


def test_rows_go_where_the_hash_of_one_row_says(made: Any) -> None:
    applied, _, out = made
    for split in EVERYTHING.splits:
        ids = pq.read_table(out / split, columns=["row"])["row"].to_pylist()
        assert {applied.split_of(one) for one in ids} == {split}
