"""Spark: a session that means what duckdb means, and the table as its view.

duckdb says, without reading rows, what types there are; Spark's must be the same. So a definition's mistakes are told
in the same words on both, and a type that Spark reads otherwise is an error rather than other bits.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from trainkit.errors import DataError, UsageError
from trainkit.processing.features import declared, memory, sql, transpiled
from trainkit.processing.features.artifact import Applied
from trainkit.processing.features.declared import Features
from trainkit.processing.features.engine import TABLE, Input, asked
from trainkit.processing.features.sql import DUCKDB, SPARK

_MEANING = {
    "spark.sql.ansi.enabled": "true",  # overflows and casts that fail are errors, as in duckdb
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.timestampType": "TIMESTAMP_NTZ",
    "spark.sql.caseSensitive": "false",
    "spark.sql.parquet.inferTimestampNTZ.enabled": "true",
    "spark.sql.parquet.datetimeRebaseModeInRead": "CORRECTED",
    "spark.sql.parquet.int96RebaseModeInRead": "CORRECTED",
    "spark.sql.files.ignoreMissingFiles": "false",
    "spark.sql.files.ignoreCorruptFiles": "false",
    "spark.sql.execution.arrow.useLargeVarTypes": "false",
}
"""What an image's spark-defaults.conf may have otherwise, and decides values."""
_STRANGE = frozenset("*?[]{}\\:")
"""Characters that Hadoop reads in a path as something else."""


@contextmanager
def opened(
    *, cluster: bool, limit: int | None = None, threads: int | None = None, spill: Path | None = None
) -> Iterator[Any]:
    """A SparkSession: of the cluster that SPARK_CONF_DIR names, or in this process. Raises UsageError."""
    try:
        from pyspark.sql import SparkSession
    except ImportError as missing:
        raise UsageError('features on Spark need pyspark, and Java 17: pip install "trainkit[spark]"') from missing
    settings = {"spark.ui.enabled": "false", "spark.ui.showConsoleProgress": "false", "spark.app.name": "features"}
    settings |= {"spark.speculation": "false"}  # the slower of two attempts would write while its files are taken away
    if not cluster:
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
        heap = memory.for_engine(limit or memory.granted()) // 2  # the rest is Python's, and Arrow's
        settings |= {"spark.master": f"local[{threads or '*'}]", "spark.driver.memory": f"{heap >> 20}m"}
        settings |= {"spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1"}
        settings |= {"spark.local.dir": str(spill)} if spill else {}
    builder = SparkSession.builder
    for name, value in {**settings, **_MEANING}.items():
        builder = builder.config(name, value)
    session = builder.getOrCreate()
    session.sparkContext.setLogLevel("ERROR")
    try:
        yield session
    finally:
        session.stop()


@contextmanager
def telling(doing: str) -> Iterator[None]:
    """What Spark says becomes a DataError that names what was being done."""
    from py4j.protocol import Py4JError
    from pyspark.errors import PySparkException

    try:
        yield
    except (PySparkException, Py4JError) as error:
        said = str(error).split("\n\nJVM stacktrace")[0].split("\n\tat ")[0]
        raise DataError(f"{doing}, on Spark: {said[:2000]}") from error


def rows(session: Any, statement: str, doing: str) -> list[Any]:
    with telling(doing):
        found: list[Any] = session.sql(statement).collect()
        return found


def schema(connection: Any, features: Features) -> dict[str, dict[str, str]]:
    """Each table's columns and their types, as duckdb has them."""
    return {
        name: {row[0]: row[1] for row in asked(connection, f"DESCRIBE {DUCKDB.quoted(name)}", name).fetchall()}
        for name in features.tables
    }


def refuse_strange(inputs: Mapping[str, Input]) -> None:
    """Raises UsageError, DataError where Spark would read an input otherwise than duckdb does."""
    for name, one in inputs.items():
        if one.format != "parquet":
            raise UsageError(
                f"the input {name} is {one.format}, whose types and nulls engines guess in their own ways: on Spark "
                f"inputs are Parquet. Convert it, or make features on one host (--engine duckdb)"
            )
        if strange := [file for file in one.files if _STRANGE & set(str(file))]:
            raise UsageError(f"{strange[0]}: Spark reads {' '.join(sorted(_STRANGE))} in a path otherwise. Rename it")
        first = pq.read_schema(one.files[0])
        for file in one.files[1:]:
            if not pq.read_schema(file).equals(first):
                raise DataError(
                    f"{file} has other columns than {one.files[0]}: Spark would read nulls. Write both alike"
                )


def lay(session: Any, inputs: Mapping[str, Input], kinds: Mapping[str, str], table: str) -> None:
    """Make the views; `table` is the table's SQL in Spark's words. Raises ConfigError where a type is another."""
    for name, one in inputs.items():
        with telling(f"the input {name}"):
            frame = session.read.parquet(*(f"file:{file.absolute()}" for file in one.files))
            frame.createOrReplaceTempView(name)
    with telling("the table's SQL"):
        frame = session.sql(table)
        frame.createOrReplaceTempView(TABLE)
    described = {one.name: one.dataType.simpleString() for one in frame.schema.fields}
    transpiled.same_kinds(kinds, described)


def lay_words(session: Any, applied: Applied) -> None:
    """The vocabularies as tables, which every executor is given whole."""
    from pyspark.sql.functions import broadcast

    for place, (one, learnt) in enumerate(zip(applied.transforms, applied.fitted, strict=True)):
        if isinstance(one, declared.Vocabulary | declared.OneHot):
            codes = pa.array(range(2, len(learnt.words) + 2), pa.int32())
            held = pa.table({sql.VALUE: pa.array(learnt.words, pa.string()), sql.CODE: codes})
            broadcast(session.createDataFrame(held)).createOrReplaceTempView(sql.vocabulary(place))


def statement(features: Features, applied: Applied) -> str:
    """The SQL that transforms everything."""
    return sql.features(
        applied.transforms, applied.split, features.kept, table=TABLE, kinds=applied.kinds, fitted=applied.fitted,
        dialect=SPARK,
    )  # fmt: skip
