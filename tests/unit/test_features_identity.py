"""The same artifact gives the same bits through duckdb, in batches, and row by row."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from features_compared import rows_differ, split_of
from features_tables import EVERYTHING, lay, rows

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


def test_rows_go_where_the_hash_of_one_row_says(made: Any) -> None:
    applied, _, out = made
    for split in EVERYTHING.splits:
        ids = pq.read_table(out / split, columns=["row"])["row"].to_pylist()
        assert {applied.split_of(one) for one in ids} == {split}
