"""Mistakes in a features.py are told before a row is read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from trainkit.errors import ConfigError, DataError, StorageError, UsageError
from trainkit.processing import (
    Bucketize,
    Check,
    Features,
    Hash,
    HashSplit,
    Standardize,
    TimeParts,
    Tokens,
    Vocabulary,
)
from trainkit.processing.features.declared import restored
from trainkit.processing.features.run import run


def declared(**more: Any) -> Features:
    return Features(**({"tables": {"raw": "raw"}, "table": "SELECT * FROM raw", "numeric": [Standardize("x")]} | more))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: HashSplit("id", train=0.8, test=0.1), "sum to 1"),
        (lambda: HashSplit("id", first=0.8, test=0.2), "has no train"),
        (lambda: HashSplit("id", train=1.2, test=-0.2), "sum to 1"),
        (lambda: Bucketize("x", boundaries=(2, 1)), "rise"),
        (lambda: Vocabulary("x", min_count=0), "whole number from 1"),
        (lambda: Hash("x", buckets=2**31), "whole number from 1"),
        (lambda: TimeParts("x", parts=("hour", "moon")), "Choose from year"),
        (lambda: Check(" "), "condition"),
        (lambda: declared(categorical=[Vocabulary("x")]), "name of two outputs"),
        (lambda: declared(categorical=[Vocabulary("X")]), "name of two outputs"),
        (lambda: declared(target="x"), "name of two outputs, of target"),
        (lambda: declared(time=[TimeParts("t")], text=[Tokens("c", name="t_hour")]), "name of two outputs"),
        (lambda: declared(numeric=[]), "makes no feature"),
        (lambda: declared(tables={"a b": "raw"}), "no name for SQL"),
    ],
)
def test_a_definition_that_makes_no_sense_is_refused_when_it_is_made(make: Callable[[], Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"numeric": [Standardize("z")]}, r"Standardize\(\"z\"\) is 'z': is no column of the table. It has x, w, d, t"),
        ({"numeric": [Standardize("w")]}, "is of type VARCHAR, which does not fit"),
        ({"numeric": [Standardize("d")]}, r"is of type DECIMAL\(9,2\), which does not fit"),
        ({"categorical": [Vocabulary("x", name="v")]}, "is of type DOUBLE, which does not fit"),
        ({"time": [TimeParts("t", parts=("hour",))]}, "is no part of a DATE"),
        ({"target": "late"}, "target is 'late': is no column"),
        ({"split": HashSplit("x", train=1.0)}, "split is 'x': is of type DOUBLE"),
        ({"checks": [Check("nothing > 0")]}, "nothing"),
        ({"table": "SELECT * FROM rows"}, "rows"),
        ({"table": "SELECT *, 1 AS __tk_a FROM raw"}, "begins with __tk"),
    ],
)
def test_a_definition_that_does_not_fit_the_table_is_refused_before_rows_are_read(
    tmp_path: Path, more: dict[str, Any], said: str
) -> None:
    types = {"x": pa.float64(), "w": pa.string(), "d": pa.decimal128(9, 2), "t": pa.date32()}
    pq.write_table(pa.schema(types).empty_table(), tmp_path / "a.parquet")

    with pytest.raises(ConfigError, match=said):
        run(declared(**more), {"raw": tmp_path}, tmp_path / "out", tell=lambda line: None)
    assert not any((tmp_path / "out").iterdir())


def test_inputs_that_are_not_there_or_not_of_one_format_are_named(tmp_path: Path) -> None:
    def go(**inputs: Path) -> None:
        run(declared(), inputs, tmp_path / "out", tell=lambda line: None)

    with pytest.raises(UsageError, match="add --input raw=DIR"):
        go(flights=tmp_path)
    with pytest.raises(StorageError, match="there is no"):
        go(raw=tmp_path / "nowhere")
    (tmp_path / "a.csv").write_text("x\n1\n")
    (tmp_path / "b.jsonl").write_text('{"x": 1}\n')
    with pytest.raises(DataError, match="files of one format"):
        go(raw=tmp_path)


def test_a_definition_comes_back_from_its_description_in_the_order_it_had() -> None:
    split = HashSplit("id", train=0.7, validation=0.2, test=0.1, seed=3)
    features = declared(time=[TimeParts("t")], text=[Tokens("c", length=3)], split=split)

    transforms, again = restored(features.described())

    assert (transforms, again) == (features.transforms, split)
    assert again is not None and again.names == ("train", "validation", "test")
