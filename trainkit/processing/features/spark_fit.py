"""What fit.py learns with duckdb, on Spark, where SQL sums: rows do not come by here. The same whole numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trainkit.processing.features import sql, transpiled
from trainkit.processing.features.declared import Features
from trainkit.processing.features.engine import TABLE
from trainkit.processing.features.fit import Looked
from trainkit.processing.features.spark import rows
from trainkit.processing.features.sql import AFTER, SPARK, Fitted, Lets
from trainkit.processing.features.sums import Sums, exponent_of

_WIDE = "DECIMAL(19, 0)"
"""A product of two is a DECIMAL(38, 0): squares, of 96 bits at most, of a billion of the largest numbers add up."""


def counted(session: Any, features: Features, kinds: Mapping[str, str]) -> dict[str, Looked]:
    """Of each split its rows, and those that do not meet each check."""
    lets = Lets(SPARK)
    part = lets.let(AFTER, sql.split_of(lets, features.split, kinds))
    bad = [f"count_if(NOT {transpiled.check(place)})" for place in range(len(features.checks))]
    statement = f"SELECT {', '.join([part, 'count(*)', *bad])} FROM (\n{lets.over(TABLE)}\n) GROUP BY 1"
    found = {name: Looked(failed=[0] * len(features.checks)) for name in features.splits}
    for place, seen, *failed in rows(session, statement, "looking at the table"):
        found[features.splits[place]] = Looked(seen, failed)
    return found


def summed(session: Any, features: Features, kinds: Mapping[str, str]) -> dict[int, Sums]:
    """The sums of each Standardize, by its place. Two passes: the range, which decides on the scale, and the sums."""
    places = [place for place, one in enumerate(features.transforms) if one.fits == "moments"]
    if not places:
        return {}
    training = sql.training_rows(TABLE, features.split, kinds=kinds, dialect=SPARK)
    lets, wanted = Lets(SPARK), []
    for place in places:
        x = sql.fit_source(features.transforms[place], lets, kinds)
        wanted += [f"count({x})", f"min({x})", f"max({x})"]
    (seen,) = rows(session, f"SELECT {', '.join(wanted)} FROM (\n{lets.over(training)}\n)", "looking at the ranges")
    ranges = {place: seen[3 * at : 3 * at + 3] for at, place in enumerate(places)}
    exponents = {place: exponent_of(low, high) for place, (_, low, high) in ranges.items()}
    lets, wanted = Lets(SPARK), []
    for place, exponent in exponents.items():
        x = sql.fit_source(features.transforms[place], lets, kinds)
        wanted += _exact_sums(lets, x, exponent)
    (made,) = rows(session, f"SELECT {', '.join(wanted)} FROM (\n{lets.over(training)}\n)", "summing")
    found = {}
    for at, (place, (count, low, high)) in enumerate(ranges.items()):
        total, squares = made[2 * at : 2 * at + 2]
        found[place] = Sums(count, low, high, int(total or 0), int(squares or 0), exponents[place])
    return found


def _exact_sums(lets: Lets, x: str, exponent: int) -> tuple[str, str]:
    """Sums of floor(x * 2**exponent + 1/2) and of its squares, as whole numbers."""
    scaled = f"floor({x} * {sql.literal(2.0**exponent)} + {sql.literal(0.5)})"
    whole = lets.let(AFTER + 1, f"CAST({scaled} AS {_WIDE})")
    return f"sum({whole})", f"sum({whole} * {whole})"


def words(session: Any, features: Features, kinds: Mapping[str, str], place: int) -> Fitted:
    """The vocabulary of one transform."""
    one = features.transforms[place]
    statement = sql.count_words(one, features.split, table=TABLE, kinds=kinds, dialect=SPARK)
    return Fitted(words=tuple(row[0] for row in rows(session, statement, f"counting {one.column}")))
