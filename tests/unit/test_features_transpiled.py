"""The user's SQL in Spark's words, or why it has none. No Spark: tests/hosts/test_features_spark.py runs it."""

from __future__ import annotations

import pytest

from trainkit.errors import ConfigError
from trainkit.processing.features import transpiled

SCHEMA = {
    "trips": {"id": "BIGINT", "said": "VARCHAR", "zone": "INTEGER", "x": "DOUBLE", "f": "FLOAT", "ts": "TIMESTAMP",
              "day": "DATE", "ok": "BOOLEAN"},
    "zones": {"zone": "INTEGER", "area": "DOUBLE"},
}  # fmt: skip


def spark(expression: str) -> str:
    return transpiled.table(f"SELECT {expression} AS o FROM trips", columns=["o"], checks=[], schema=SCHEMA)


def test_a_join_a_filter_and_checks_become_one_select() -> None:
    made = transpiled.table(
        "SELECT t.* EXCLUDE (said), area FROM trips t LEFT JOIN zones USING (zone) WHERE x < 200;",
        columns=["id", "area"], checks=["area > 0 OR x IS NULL"], schema=SCHEMA,
    )  # fmt: skip

    assert made.startswith(
        "SELECT `__tk_table`.`id` AS `id`, `__tk_table`.`area` AS `area`, COALESCE((`__tk_table`.`area` > 0 OR "
        "`__tk_table`.`x` IS NULL), FALSE) AS `__tk_check0` FROM (SELECT "
    )
    assert "FROM `trips` AS `t` LEFT JOIN `zones` AS `zones` ON `t`.`zone` = `zones`.`zone`" in made
    assert made.endswith("WHERE `t`.`x` < 200) AS `__tk_table`")


@pytest.mark.parametrize(
    "expression",
    [
        "x * 0.5 + zone", "-0.1 * x", "x > 1e-3", "x BETWEEN 0 AND 1", "coalesce(x, 0)", "CAST(f AS DOUBLE) > 0.1",
        "f > f", "zone IN (1, 2)", "said IN ('a', 'b')", "said || 'x'", "CASE WHEN ok THEN x END", "year(ts)",
        "zone % 7", "x / zone", "CAST(zone AS VARCHAR)",
        "CAST(day AS TIMESTAMP)", "isnan(x)", "NOT ok", "nullif(zone, 3)",
    ],
)  # fmt: skip
def test_what_means_the_same_is_translated(expression: str) -> None:
    assert " AS `o` FROM (SELECT " in spark(expression)


@pytest.mark.parametrize(
    ("expression", "why"),
    [
        ("ln(x)", "Ln"), ("round(x)", "Round"), ("said LIKE 'a%'", "Like"), ("lower(said)", "Lower"),
        ("random()", "Rand"),
        ("TRY_CAST(said AS BIGINT)", "TryCast"), ("sum(x) OVER ()", "Window"), ("zone // 2", "IntDiv"),
        ("date_diff('day', ts, ts)", "DateDiff"), ("x % 2", "not whole"), ("f > 0.1", "decimal and float32"),
        ("f + x", "float32 and float64"), ("zone * 0.5", "decimal and integer"), ("said = 1", "integer and text"),
        ("ts > '2024-01-01'", "text and timestamp"), ("CAST(x AS INTEGER)", "turns float64 into INT"),
        ("CAST(x AS FLOAT)", "turns float64 into"), ("CAST(x AS VARCHAR)", "turns float64 into"),
        ("0.12345678901234567 * x", "is a number"), ("CASE zone WHEN 1 THEN 2 END", "CASE WHEN"),
        ("zone = 99999999999999999999", "is a number"),
    ],
)  # fmt: skip
def test_what_engines_do_in_their_own_ways_is_refused_by_its_name(expression: str, why: str) -> None:
    with pytest.raises(ConfigError, match=r"so it is not run on Spark.*--engine duckdb") as refused:
        spark(expression)

    assert why in str(refused.value)


@pytest.mark.parametrize(
    ("sql", "why"),
    [
        ("SELECT DISTINCT zone AS o FROM trips", "Distinct"),
        ("SELECT zone AS o FROM trips ORDER BY 1 LIMIT 3", "Limit"),
        ("SELECT max(x) AS o FROM trips GROUP BY zone", "which zero"),
        ("SELECT sum(zone) AS o FROM trips GROUP BY ts", "HUGEINT"),
        ("SELECT avg(x) AS o FROM trips", "Avg"),
        ("SELECT count(*) AS o FROM trips GROUP BY x", "which zero"),
        ("SELECT t.zone AS o FROM trips t SEMI JOIN zones USING (zone)", "is a join"),
        ("SELECT nothing AS o FROM trips", "could not be resolved"),
        ("SELEKT 1", "sqlglot"),
    ],
)
def test_so_are_queries(sql: str, why: str) -> None:
    with pytest.raises(ConfigError) as refused:
        transpiled.table(sql, columns=["o"], checks=[], schema=SCHEMA)

    assert why in str(refused.value)


def test_groups_of_whole_values_are_translated() -> None:
    sql = """WITH g AS (SELECT zone, count(*) AS n, CAST(sum(id) AS BIGINT) AS s, max(day) AS m FROM trips
                        GROUP BY zone)
             SELECT t.id, n, s, m FROM trips t JOIN g USING (zone)"""

    made = transpiled.table(sql, columns=["id", "n", "s", "m"], checks=[], schema=SCHEMA)

    assert made.startswith("WITH `g` AS (SELECT `trips`.`zone` AS `zone`, COUNT(*) AS `n`, CAST(SUM(`trips`.`id`)")


def test_text_becomes_a_time_or_a_number_only_from_the_form_that_both_read_alike() -> None:
    made = spark("CAST(said AS TIMESTAMP)")

    assert r"RLIKE '^(?:(?!0000)[0-9]{4}-[0-9]{2}-[0-9]{2}(" in made and r")\\z' THEN CAST(" in made
    assert "ELSE CAST(RAISE_ERROR(CONCAT('CAST of a text to TIMESTAMP: no form that" in made


def test_a_column_of_another_kind_on_spark_is_refused() -> None:
    kinds = {"Id": "integer", "ts": "timestamp", "x": "float64"}
    transpiled.same_kinds(kinds, {"id": "bigint", "ts": "timestamp_ntz", "x": "double", "__tk_check0": "boolean"})

    with pytest.raises(ConfigError) as refused:
        transpiled.same_kinds(kinds, {"id": "decimal(20,0)", "ts": "timestamp", "x": "double"})
    assert "is integer in duckdb, and decimal(20,0) in Spark" in str(refused.value)
    assert "is timestamp in duckdb, and timestamp with a zone in Spark" in str(refused.value)
