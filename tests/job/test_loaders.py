"""Streams, mixtures and packed streams in torch's DataLoader and torchdata's StatefulDataLoader."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from harness import DEADLINE, environment

SCRIPT = Path(__file__).with_name("loaders.py")


@pytest.mark.torch
def test_loaders_with_and_without_workers_go_on_where_they_were_saved_and_lose_and_repeat_nothing(
    tmp_path: Path,
) -> None:
    pytest.importorskip("torchdata")
    (tmp_path / "data").mkdir()
    for name, start, end in (("a", 0, 40), ("b", 40, 41), ("c", 41, 75)):
        ids = np.arange(start, end)
        lists = [list(range(10 * row, 10 * row + row % 4)) for row in ids.tolist()]
        table = pa.table({"id": ids, "ids": pa.array(lists, pa.list_(pa.int64()))})
        pq.write_table(table, tmp_path / f"data/{name}.parquet", row_group_size=10)
    for act in ("save", "restore"):  # each in a process of its own
        done = subprocess.run(
            [sys.executable, str(SCRIPT), act, str(tmp_path / "states")], cwd=tmp_path,
            env=environment(TRAINKIT_CHANNEL_TRAIN=str(tmp_path / "data")), capture_output=True, text=True,
            timeout=2 * DEADLINE, check=False,
        )  # fmt: skip
        assert "all is well" in done.stdout, done.stdout + done.stderr
