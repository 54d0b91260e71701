"""What the training rows teach: mean and std, and vocabularies. The same bits on every host, engine and run.

look ─▶ rows and checks of every split; of the training rows the sums, as whole numbers: their order, and so threads
        and hosts, do not matter. The scale of a column, which its range decides, is guessed from the first rows;
        where that was wrong, its sums are made again
words ─▶ one query for each vocabulary
facts ─▶ what the report says of all rows
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from trainkit.errors import DataError
from trainkit.processing.features import sql
from trainkit.processing.features.declared import NUMBER, Features
from trainkit.processing.features.engine import TABLE, asked
from trainkit.processing.features.sql import AFTER, DUCKDB, MOMENT_BITS, MOMENT_STEP, Fitted, Lets

FIRST = 50_000
"""Rows, of the first ones, that the scales are guessed from."""


@dataclass(slots=True)
class Looked:
    """One split as it was seen."""

    rows: int = 0
    failed: list[int] = field(default_factory=list)
    """Of each check: rows that do not meet it."""
    columns: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Facts of each column, where a report wants them."""


@dataclass(frozen=True, slots=True)
class Sums:
    """Of one Standardize, in the training rows: whole numbers, each round(x * 2**exponent)."""

    count: int
    low: float | None
    high: float | None
    total: int
    squares: int
    exponent: int

    @property
    def right(self) -> int:
        return exponent_of(self.low, self.high)


def look(
    connection: Any, features: Features, kinds: Mapping[str, str], *, moments: bool
) -> tuple[dict[str, Looked], dict[int, Sums]]:
    """(each split, by its name; the sums of each Standardize, by its place)."""
    places = [place for place, one in enumerate(features.transforms) if one.fits == "moments" and moments]
    summed = _summed(connection, features, kinds, _guessed(connection, features, kinds, places), doing="summing")
    wrong = {place: one.right for place, one in summed.items() if one.count and one.right != one.exponent}
    summed |= _summed(connection, features, kinds, wrong, doing="summing again")
    return _counted(connection, features, kinds), summed


def _counted(connection: Any, features: Features, kinds: Mapping[str, str]) -> dict[str, Looked]:
    lets = Lets(DUCKDB)
    part = lets.let(AFTER, sql.split_of(lets, features.split, kinds))
    bad = [
        f"count(*) FILTER (WHERE NOT coalesce(CAST(({one.condition}) AS BOOLEAN), false))" for one in features.checks
    ]
    statement = f"SELECT {', '.join([part, 'count(*)', *bad])} FROM (\n{lets.over(TABLE)}\n) GROUP BY 1"
    found = {name: Looked(failed=[0] * len(features.checks)) for name in features.splits}
    for place, rows, *failed in asked(connection, statement, "looking at the table").fetchall():
        found[features.splits[place]] = Looked(rows, failed)
    return found


def _guessed(connection: Any, features: Features, kinds: Mapping[str, str], places: Sequence[int]) -> dict[int, int]:
    if not places:
        return {}
    lets, wanted = Lets(DUCKDB), []
    for place in places:
        x = sql.fit_source(features.transforms[place], lets, kinds)
        wanted += [f"min({x})", f"max({x})"]
    first = f"(SELECT * FROM {TABLE} LIMIT {FIRST})"
    row = asked(
        connection, f"SELECT {', '.join(wanted)} FROM (\n{lets.over(first)}\n)", "looking at the first rows"
    ).fetchone()
    return {place: exponent_of(*row[2 * at : 2 * at + 2]) for at, place in enumerate(places)}


def _summed(
    connection: Any, features: Features, kinds: Mapping[str, str], exponents: Mapping[int, int], *, doing: str
) -> dict[int, Sums]:
    if not exponents:
        return {}
    lets = Lets(DUCKDB)
    wanted = sums_of(lets, features, kinds, exponents)
    training = sql.training_rows(TABLE, features.split, kinds=kinds, dialect=DUCKDB)
    row = asked(connection, f"SELECT {', '.join(wanted)} FROM (\n{lets.over(training)}\n)", doing).fetchone()
    return read(exponents, row)


def sums_of(lets: Lets, features: Features, kinds: Mapping[str, str], exponents: Mapping[int, int]) -> list[str]:
    wanted = []
    for place, exponent in exponents.items():
        x = sql.fit_source(features.transforms[place], lets, kinds)
        # A guess may be too small by far; what does not fit is left out, and the range tells that it was wrong.
        bound = math.ldexp(1.0, MOMENT_BITS - exponent) if exponent > MOMENT_BITS - 1024 else sql.MAX64
        fits = lets.let(AFTER, f"CASE WHEN abs({x}) <= {sql.literal(bound)} THEN {x} END")
        wanted += [f"count({x})", f"min({x})", f"max({x})", *sql.exact_sums(lets, fits, exponent)]
    return wanted


def read(exponents: Mapping[int, int], row: Sequence[Any]) -> dict[int, Sums]:
    found = {}
    for at, (place, exponent) in enumerate(exponents.items()):
        count, low, high, total, squares = row[5 * at : 5 * at + 5]
        found[place] = Sums(count, low, high, int(total or 0), int(squares or 0), exponent)
    return found


def exponent_of(low: float | None, high: float | None) -> int:
    """By which power of two numbers are scaled, so that the largest has at most MOMENT_BITS bits."""
    if low is None or high is None:
        return MOMENT_BITS
    bits = math.frexp(max(abs(low), abs(high)))[1]
    return max(MOMENT_BITS - 1024, min(960, MOMENT_BITS - -(-bits // MOMENT_STEP) * MOMENT_STEP))


def moments(sums: Sums) -> Fitted:
    """Mean and standard deviation (of the population; 1 where it is 0), each rounded once."""
    if not sums.count:
        return Fitted()
    unit = Fraction(2) ** -sums.exponent
    mean = Fraction(sums.total, sums.count)
    std = math.sqrt(Fraction(sums.squares, sums.count) - mean * mean) * float(unit)
    return Fitted(mean=float(mean * unit), std=std if 0 < std < math.inf else 1.0)


def words(connection: Any, features: Features, kinds: Mapping[str, str], place: int) -> Fitted:
    """The vocabulary of one transform."""
    one = features.transforms[place]
    statement = sql.count_words(one, features.split, table=TABLE, kinds=kinds, dialect=DUCKDB)
    return Fitted(words=tuple(row[0] for row in asked(connection, statement, f"counting {one.column}").fetchall()))


def facts(connection: Any, features: Features, kinds: Mapping[str, str], looked: Mapping[str, Looked]) -> None:
    """Add each split's facts about each column, of all its rows."""
    lets = Lets(DUCKDB)
    wanted = [(name, *fact) for name, kind in kinds.items() for fact in _facts(lets, name, kind)]
    part = lets.let(AFTER, sql.split_of(lets, features.split, kinds))
    made = ", ".join(expression for _, _, expression in wanted)
    statement = f"SELECT {part}, {made} FROM (\n{lets.over(TABLE)}\n) GROUP BY 1"
    for seen in looked.values():
        seen.columns = {name: {} for name in kinds}
    for place, *values in asked(connection, statement, "describing the table").fetchall():
        columns = looked[features.splits[place]].columns
        for (name, fact, _), value in zip(wanted, values, strict=True):
            columns[name][fact] = value


def _facts(lets: Lets, name: str, kind: str) -> list[tuple[str, str]]:
    column = DUCKDB.quoted(name)
    found = [("nulls", f"count(*) - count({column})")]
    if kind in NUMBER:
        x = sql.number(lets, name)
        if kind in ("float32", "float64"):
            found.append(("not_finite", f"count({column}) - count({x})"))
        found += [("min", f"min({x})"), ("max", f"max({x})"), ("mean", f"avg({x})"), ("std", f"stddev_pop({x})")]
    else:
        found += [("min", f"CAST(min({column}) AS VARCHAR)"), ("max", f"CAST(max({column}) AS VARCHAR)")]
    return [*found, ("distinct", DUCKDB.distinct(column))]


def refuse_empty(looked: Mapping[str, Looked]) -> None:
    if not looked["train"].rows:
        counts = ", ".join(f"{name} {seen.rows:,}" for name, seen in looked.items())
        raise DataError(f"there is no row to fit on: {counts}. Look at the SQL's joins and filters, and at the inputs")
