"""What the training rows teach: mean and std, and vocabularies. The same bits on every host, engine and run.

look ─▶ rows and checks of every split; of the training rows the sums, as whole numbers: their order, and so threads
        and hosts, do not matter. The scale of a column, which its range decides, is guessed from the first rows;
        where that was wrong, its sums are made again
words ─▶ vocabularies, counted together
facts ─▶ what the report says of all rows
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from trainkit.errors import DataError
from trainkit.processing.features import batches, sql
from trainkit.processing.features.declared import NUMBER, RESERVED, Features, Tokens
from trainkit.processing.features.engine import TABLE, arriving, asked
from trainkit.processing.features.sql import AFTER, DUCKDB, Fitted, Lets
from trainkit.processing.features.sums import Summing, Sums

COUNTS = f"{RESERVED}_counts"


@dataclass(slots=True)
class Looked:
    """One split as it was seen."""

    rows: int = 0
    failed: list[int] = field(default_factory=list)
    """Of each check: rows that do not meet it."""
    columns: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Facts of each column, where a report wants them."""


def look(
    connection: Any, features: Features, kinds: Mapping[str, str], *, moments: bool
) -> tuple[dict[str, Looked], dict[int, Sums]]:
    """(each split, by its name; the sums of each Standardize, by its place)."""
    places = [place for place, one in enumerate(features.transforms) if one.fits == "moments" and moments]
    summed = _summed(connection, features, kinds, dict.fromkeys(places), doing="summing")
    wrong = {place: one.right for place, one in summed.items() if one.right != one.exponent}
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


def _summed(
    connection: Any, features: Features, kinds: Mapping[str, str], exponents: Mapping[int, int | None], *, doing: str
) -> dict[int, Sums]:
    if not exponents:
        return {}
    made = {place: Summing(exponent) for place, exponent in exponents.items()}
    wanted = dict.fromkeys(features.transforms[place].column for place in exponents)
    training = sql.training_rows(TABLE, features.split, kinds=kinds, dialect=DUCKDB)
    statement = f"SELECT {', '.join(map(DUCKDB.quoted, wanted))} FROM {training}"
    for batch in arriving(connection, statement, doing):
        for place, summing in made.items():
            one = features.transforms[place]
            summing.add(batches.source(one, batches.floats(batch[one.column], kinds[one.column])))
    return {place: summing.sums for place, summing in made.items()}


def moments(sums: Sums) -> Fitted:
    """Mean and standard deviation (of the population; 1 where it is 0), each rounded once."""
    if not sums.count:
        return Fitted()
    unit = Fraction(2) ** -sums.exponent
    mean = Fraction(sums.total, sums.count)
    std = math.sqrt(Fraction(sums.squares, sums.count) - mean * mean) * float(unit)
    return Fitted(mean=float(mean * unit), std=std if 0 < std < math.inf else 1.0)


def words(connection: Any, features: Features, kinds: Mapping[str, str]) -> dict[int, Fitted]:
    """The vocabulary of each transform that has one, by its place."""
    places = [place for place, one in enumerate(features.transforms) if one.fits == "words"]
    tokens = [place for place in places if isinstance(features.transforms[place], Tokens)]
    found = {}
    for place in tokens:
        one = features.transforms[place]
        statement = sql.count_words(one, features.split, table=TABLE, kinds=kinds, dialect=DUCKDB)
        found[place] = _words(asked(connection, statement, f"counting {one.column}"))
    return found | _counted_together(connection, features, kinds, [one for one in places if one not in tokens])


def _counted_together(
    connection: Any, features: Features, kinds: Mapping[str, str], places: Sequence[int]
) -> dict[int, Fitted]:
    """The values of all these columns in one pass over the training rows, which costs less than half."""
    if not places:
        return {}
    lets = Lets(DUCKDB)
    sources = {place: sql.fit_source(features.transforms[place], lets, kinds) for place in places}
    columns = list(dict.fromkeys(sources.values()))
    least = min(getattr(features.transforms[place], "min_count", 1) for place in places)
    training = sql.training_rows(TABLE, features.split, kinds=kinds, dialect=DUCKDB)
    asked(
        connection,
        f"CREATE OR REPLACE TEMP TABLE {COUNTS} AS SELECT coalesce({', '.join(columns)}) AS value, "
        f"{' + '.join(f'{at} * (1 - grouping({one}))' for at, one in enumerate(columns))} AS place, "
        f"count(*) AS times FROM (\n{lets.over(training)}\n) "
        f"GROUP BY GROUPING SETS ({', '.join(f'({one})' for one in columns)}) HAVING count(*) >= {least}",
        "counting words",
    )
    found = {}
    for place, source in sources.items():
        one = features.transforms[place]
        statement = (
            f"SELECT value FROM {COUNTS} WHERE place = {columns.index(source)} AND value IS NOT NULL AND "
            f"times >= {getattr(one, 'min_count', 1)} ORDER BY times DESC, value LIMIT {getattr(one, 'most', 1)}"
        )
        found[place] = _words(asked(connection, statement, f"counting {one.column}"))
    asked(connection, f"DROP TABLE {COUNTS}", "counting words")
    return found


def _words(counted: Any) -> Fitted:
    return Fitted(words=tuple(row[0] for row in counted.fetchall()))


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
