"""What each host of a Spark cluster does with files, without Spark."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from trainkit.processing import Features, Standardize
from trainkit.processing.features import spread
from trainkit.processing.features.spread import MARK, Part, staging
from trainkit.processing.features.write import Written

RUN = "ab12"


def test_files_are_named_by_host_in_the_order_of_partitions() -> None:
    parts = [
        Part("algo-2", "000000.4", {"train": Written(3, ["part-00000.parquet", "part-00001.parquet"], [10, 20])}),
        Part("algo-1", "000001.7", {"train": Written(2, ["part-00000.parquet"], [30])}),
        Part("algo-2", "000002.5", {"test": Written(1, ["part-00000.parquet"], [40])}),
    ]

    moves, written = spread.places(parts, hosts=2, splits=("train", "test", "none"))

    assert moves == {
        "algo-1": (("000001.7/train/part-00000.parquet", "train/part-algo-1-00000.parquet", 30),),
        "algo-2": (
            ("000000.4/train/part-00000.parquet", "train/part-algo-2-00000.parquet", 10),
            ("000000.4/train/part-00001.parquet", "train/part-algo-2-00001.parquet", 20),
            ("000002.5/test/part-00000.parquet", "test/part-algo-2-00000.parquet", 40),
        ),
    }
    assert written["train"].files == [f"part-algo-{host}.parquet" for host in ("2-00000", "2-00001", "1-00000")]
    assert {name: (one.rows, one.bytes) for name, one in written.items()} == {
        "train": (5, [10, 20, 30]), "test": (1, [40]), "none": (0, []),
    }  # fmt: skip


def test_a_host_publishes_what_spark_took_and_nothing_else_and_may_be_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SM_CURRENT_HOST", "algo-2")
    staged = staging(tmp_path, RUN)
    for attempt in ("000000.1", "000000.2"):
        (staged / attempt / "train").mkdir(parents=True)
        (staged / attempt / "train/part-00000.parquet").write_text(attempt)
    (tmp_path / "train").mkdir()
    (tmp_path / "train/part-algo-2-00007.parquet").write_text("of an earlier run")
    moves = {"algo-2": (("000000.2/train/part-00000.parquet", "train/part-algo-2-00000.parquet", 8),), "algo-3": ()}

    first = list(spread.published(iter(()), output=tmp_path, run=RUN, moves=moves))
    again = list(spread.published(iter(()), output=tmp_path, run=RUN, moves=moves))

    assert first == again == [("algo-2", None)]
    assert [one.name for one in tmp_path.iterdir()] == ["train"]
    assert [(one.name, one.read_text()) for one in (tmp_path / "train").iterdir()] == [
        ("part-algo-2-00000.parquet", "000000.2")
    ]
    (tmp_path / "train/part-algo-2-00000.parquet").unlink()
    ((_, wrong),) = spread.published(iter(()), output=tmp_path, run=RUN, moves=moves)
    assert "part-algo-2-00000.parquet is not there as it was written" in wrong


def test_a_host_tells_how_it_has_the_inputs_and_whether_the_output_is_the_first_hosts_own(tmp_path: Path) -> None:
    features = Features(tables={"raw": "raw"}, table="FROM raw", numeric=[Standardize("x")])
    (tmp_path / "raw").mkdir()
    pq.write_table(pa.table({"x": [1.0]}), tmp_path / "raw/0.parquet")
    staging(tmp_path / "out", "old").mkdir(parents=True)
    folders = {"raw": tmp_path / "raw"}

    ((_, found, shares),) = spread.seen(iter(()), features=features, folders=folders, output=tmp_path / "out", run=RUN)
    assert isinstance(found, dict) and found["raw"]["files"] == 1 and not shares
    assert list((tmp_path / "out").iterdir()) == [], "an earlier run's leavings are gone"

    staging(tmp_path / "out", RUN).mkdir()
    (staging(tmp_path / "out", RUN) / MARK).touch()
    (tmp_path / "raw/0.parquet").unlink()
    ((_, found, shares),) = spread.seen(iter(()), features=features, folders=folders, output=tmp_path / "out", run=RUN)
    assert "nothing but empty files" in found and shares
