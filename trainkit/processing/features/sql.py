"""What every transform means, as SQL, for duckdb and for Spark. The same in Python: rows.py; in numpy: batches.py.

Numbers leave both engines as they are, and numpy computes with them. In SQL they are described, and on Spark summed.

    the user's table ─▶ lets, level by level ─▶ joined with vocabularies ─▶ the features

A let is an expression with a name; those of one level become one SELECT around the level below. So nothing is written
twice, however often it is used: text that repeats its parts would double with every round of a hash.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from trainkit.processing.features import declared
from trainkit.processing.features.declared import RESERVED, HashSplit, Transform

MAX64 = 1.7976931348623157e308
MAX32 = 3.4028234663852886e38
LN2 = 0.6931471805599453
ROOT_HALF = 0.7071067811865476
SERIES = tuple(1.0 / (2 * n + 1) for n in range(12))
"""log(m) = 2 s (1 + z/3 + z²/5 + …), s = (m - 1) / (m + 1), z = s²: with m within √½ … √2 the rest is below 2⁻⁶⁰."""

ROUNDS = ((16, 0x21F0AAAD), (15, 0x735A2D97))
"""(shift, factor) of the integer hash. Factors are below 2³¹, so that no product leaves a signed 64-bit integer."""
AFTER = 20
"""The level of lets above everything that a transform or a hash uses."""
LAST_SHIFT = 15
MASK = 0xFFFFFFFF
VALUE, CODE = f"{RESERVED}_value", f"{RESERVED}_code"
"""Columns of vocabularies as tables; a table of the user may have a column `code` too."""
UPPER, LOWER = "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "abcdefghijklmnopqrstuvwxyz"


class DuckDB:
    """duckdb's words, where engines differ."""

    name = "duckdb"
    text, double, single, long, whole, small, tiny = (
        "VARCHAR",
        "DOUBLE",
        "FLOAT",
        "BIGINT",
        "INTEGER",
        "SMALLINT",
        "TINYINT",
    )

    def quoted(self, name: str) -> str:
        return '"' + name.replace('"', '""') + '"'

    def string(self, value: str) -> str:
        return "'" + value.replace("'", "''") + "'"

    def xor(self, a: str, b: str) -> str:
        return f"xor({a}, {b})"

    def shifted(self, a: str, places: int) -> str:
        return f"({a} >> {places})"

    def digest(self, text: str) -> str:
        """The first four bytes of the text's MD5, the lowest first, as a BIGINT."""
        return f"CAST(md5_number_upper({text}) & 4294967295::UBIGINT AS BIGINT)"

    def part(self, name: str, column: str) -> str:
        return f"isodow({column}) - 1" if name == "weekday" else f"{name}({column})"

    def tokens(self, text: str, length: int) -> str:
        pattern = r"[0-9a-z\x{80}-\x{10FFFF}]+"
        return f"regexp_extract_all(translate({text}, '{UPPER}', '{LOWER}'), '{pattern}')[1:{length}]"

    def one_hot(self, code: str, size: int) -> str:
        return f"list_transform(range(2, {size + 2}), lambda i: CAST(i = {code} AS TINYINT))"

    def token_codes(self, tokens: str) -> str:
        """The tokens: their places are looked up in write.py, since a list of 5,000 words is searched one by one."""
        return f"CASE WHEN {tokens} IS NULL THEN [] ELSE {tokens} END"

    def words_of(self, tokens: str) -> str:
        return f"unnest({tokens})"

    def distinct(self, column: str) -> str:
        return f"approx_count_distinct({column})"


class Spark:
    """Spark SQL's words (4.0 and later, ANSI mode)."""

    name = "spark"
    text, double, single, long, whole, small, tiny = "STRING", "DOUBLE", "FLOAT", "BIGINT", "INT", "SMALLINT", "TINYINT"

    def quoted(self, name: str) -> str:
        return "`" + name.replace("`", "``") + "`"

    def string(self, value: str) -> str:
        return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"

    def xor(self, a: str, b: str) -> str:
        return f"({a} ^ {b})"

    def shifted(self, a: str, places: int) -> str:
        return f"shiftright({a}, {places})"

    def digest(self, text: str) -> str:
        hexed = f"reverse(unhex(substring(md5(CAST({text} AS BINARY)), 1, 8)))"
        return f"CAST(conv(hex({hexed}), 16, 10) AS BIGINT)"

    def part(self, name: str, column: str) -> str:
        return f"{'weekofyear' if name == 'week' else name}({column})"

    def tokens(self, text: str, length: int) -> str:
        pattern = r"[0-9a-z\\x{80}-\\x{10FFFF}]+"
        return f"slice(regexp_extract_all(translate({text}, '{UPPER}', '{LOWER}'), '{pattern}', 0), 1, {length})"

    def one_hot(self, code: str, size: int) -> str:
        if not size:
            return "CAST(array() AS ARRAY<TINYINT>)"
        return f"transform(sequence(2, {size + 1}), i -> CAST(i <=> {code} AS TINYINT))"

    def token_codes(self, tokens: str) -> str:
        return f"coalesce({tokens}, CAST(array() AS ARRAY<STRING>))"

    def words_of(self, tokens: str) -> str:
        return f"explode({tokens})"

    def distinct(self, column: str) -> str:
        return f"approx_count_distinct({column})"


Dialect = DuckDB | Spark
DUCKDB, SPARK = DuckDB(), Spark()


def literal(value: float) -> str:
    """A float64 in SQL, bit for bit. With an exponent, since both engines take 0.5 for a decimal."""
    if not math.isfinite(value):
        raise ValueError(f"{value} has no literal")
    text = repr(float(value))
    return f"({text})" if "e" in text else f"({text}e0)"


@dataclass(slots=True)
class Lets:
    """Expressions by name, level by level; equal ones are one. Level n may use the names of levels below."""

    dialect: Dialect
    prefix: str = RESERVED
    levels: list[dict[str, str]] = field(default_factory=list)
    names: dict[tuple[int, str], str] = field(default_factory=dict)

    def let(self, level: int, expression: str) -> str:
        key = (level, expression)
        if key not in self.names:
            while len(self.levels) <= level:
                self.levels.append({})
            self.names[key] = f"{self.prefix}{level}_{len(self.levels[level])}"
            self.levels[level][self.names[key]] = expression
        return self.names[key]

    def over(self, table: str) -> str:
        """A SELECT of the columns of `table` (a name, or a SELECT in parentheses) and all lets."""
        sql = f"SELECT * FROM {table}"
        for level, lets in enumerate(self.levels):
            made = ",\n  ".join(f"{expression} AS {name}" for name, expression in lets.items())
            sql = f"SELECT *,\n  {made}\nFROM (\n{sql}\n) AS {RESERVED}_level{level}" if made else sql
        return sql


def number(lets: Lets, column: str, *, above: float | None = None) -> str:
    """The column as float64; null where it is null, NaN, infinite, or not above `above`."""
    d = lets.dialect
    value = f"CAST({d.quoted(column)} AS {d.double})"
    fits = f"abs({value}) <= {literal(MAX64)}" + (f" AND {value} > {literal(above)}" if above is not None else "")
    return lets.let(0, f"CASE WHEN {fits} THEN {value} END")


def log1p(lets: Lets, column: str) -> str:
    """log(1 + x) with +, -, *, / only: libraries' logarithms differ in the last place.

    log2 and floor only guess the exponent: a guess that is one off, near a power of two, is put right below. 2 to a
    whole power is exact everywhere.
    """
    x = number(lets, column, above=-1.0)
    y = lets.let(1, f"{literal(1)} + {x}")
    guess = lets.let(2, f"least(CAST(floor(log2({y})) AS {lets.dialect.double}), {literal(1023)})")
    scaled = lets.let(3, f"{y} / power({literal(2)}, {guess})")
    low, high = literal(ROOT_HALF), literal(2 * ROOT_HALF)
    one, two = literal(1), literal(2)

    def ladder(above: str, below: str, between: str) -> str:
        return f"CASE WHEN {scaled} >= {high} THEN {above} WHEN {scaled} < {low} THEN {below} ELSE {between} END"

    m = lets.let(4, ladder(f"{scaled} / {two}", f"{scaled} * {two}", scaled))
    k = lets.let(4, ladder(f"{guess} + {one}", f"{guess} - {one}", guess))
    near, far = f"{x} / ({literal(2)} + {x})", f"({m} - {literal(1)}) / ({m} + {literal(1)})"
    s = lets.let(5, f"CASE WHEN {k} = {literal(0)} THEN {near} ELSE {far} END")
    z = lets.let(6, f"{s} * {s}")
    series = literal(SERIES[-1])
    for term in SERIES[-2::-1]:
        series = f"({literal(term)} + {z} * {series})"
    return lets.let(7, f"{k} * {literal(LN2)} + ({literal(2)} * {s}) * {series}")


def hashed(lets: Lets, column: str, kind: str, seed: int) -> str:
    """A number below 2**32 for a value; null for null. Integers: two rounds of mixing; texts: MD5 of `seed/text`."""
    d, name = lets.dialect, lets.dialect.quoted(column)
    if kind == "text":
        return lets.let(
            0,
            d.digest(f"concat({d.string(f'{seed}/')}, {name})").join(
                ("CASE WHEN " + name + " IS NOT NULL THEN ", " END")
            ),
        )
    value = lets.let(
        0, f"CAST(CAST({name} AS {d.whole}) AS {d.long})" if kind == "boolean" else f"CAST({name} AS {d.long})"
    )
    low = lets.let(1, d.xor(f"({value} & {MASK})", f"CAST({seed} AS {d.long})"))
    mixed, level = _mixed(lets, low, 2)
    both = lets.let(level, d.xor(mixed, f"({d.shifted(value, 32)} & {MASK})"))
    return _mixed(lets, both, level + 1)[0]


def _mixed(lets: Lets, value: str, level: int) -> tuple[str, int]:
    d = lets.dialect
    for shift, factor in ROUNDS:
        folded = lets.let(level, d.xor(value, d.shifted(value, shift)))
        value = lets.let(level + 1, f"({folded} * {factor}) & {MASK}")
        level += 2
    return lets.let(level, d.xor(value, d.shifted(value, LAST_SHIFT))), level + 1


def word(lets: Lets, column: str, kind: str) -> str:
    """The value as text: integers in decimal, booleans as true and false, texts as they are."""
    d = lets.dialect
    return d.quoted(column) if kind == "text" else lets.let(0, f"CAST({d.quoted(column)} AS {d.text})")


def split_of(lets: Lets, split: HashSplit | None, kinds: Mapping[str, str]) -> str:
    """The split's place among the definition's."""
    if split is None:
        return "0"
    value = hashed(lets, split.column, kinds[split.column], split.seed)
    below = " ".join(f"WHEN {value} < {cut} THEN {place}" for place, cut in enumerate(split.cuts))
    return f"CASE WHEN {value} IS NULL THEN 0 {below} ELSE {len(split.cuts)} END" if split.cuts else "0"


@dataclass(frozen=True, slots=True)
class Fitted:
    """What a transform learnt: mean and std, or how many words."""

    mean: float = 0.0
    std: float = 1.0
    words: tuple[str, ...] = ()


def feature(
    one: Transform, place: int, lets: Lets, kinds: Mapping[str, str], fitted: Fitted
) -> tuple[tuple[str, str], ...]:
    """(output, expression) pairs. `place` names its vocabulary: the joined column `__tkv<place>.__tk_code`.

    Numbers stay as they are: numpy (see write.py) takes a third of duckdb's time for the same bits.
    """
    d, kind, name = lets.dialect, kinds[one.column], lets.dialect.quoted(one.column)
    match one:
        case declared.Vocabulary():
            code = f"{vocabulary(place)}.{CODE}"
            value = word(lets, one.column, kind)
            made = f"CAST(CASE WHEN {value} IS NULL THEN 0 ELSE coalesce({code}, 1) END AS {d.whole})"
        case declared.OneHot():
            made = d.one_hot(f"coalesce({vocabulary(place)}.{CODE}, 0)", len(fitted.words))
        case declared.Hash():
            value = hashed(lets, one.column, kind, one.seed)
            made = f"CAST(coalesce(1 + {value} % {one.buckets}, 0) AS {d.whole})"
        case declared.Tokens():
            tokens = lets.let(0, d.tokens(name, one.length))
            made = d.token_codes(tokens)
        case declared.TimeParts():
            inside = f"year({name}) BETWEEN 1 AND 9999"
            parts = (
                f"CAST(CASE WHEN {inside} THEN {d.part(part, name)} ELSE -1 END AS {d.small})" for part in one.parts
            )
            return tuple(zip(one.outputs, parts, strict=True))
        case declared.Standardize() | declared.Log1p() | declared.Bucketize() | declared.Passthrough():
            made = name
    return ((one.output, made),)


def vocabulary(place: int) -> str:
    """The name of a transform's words as a table: (VALUE, CODE)."""
    return f"{RESERVED}v{place}"


def features(
    transforms: Sequence[Transform], split: HashSplit | None, kept: Sequence[str], *, table: str,
    kinds: Mapping[str, str], fitted: Sequence[Fitted], dialect: Dialect, more: Sequence[tuple[str, str]] = (),
) -> str:  # fmt: skip
    """The whole transform: `kept` columns, the features, `more` (name, expression) pairs, and `__tk_split`.

    Vocabularies are expected as tables (see `vocabulary`). Tokens come as lists of texts (see write.py).
    """
    lets = Lets(dialect)
    columns = [(name, dialect.quoted(name)) for name in kept]
    joins = []
    for place, (one, learnt) in enumerate(zip(transforms, fitted, strict=True)):
        columns += feature(one, place, lets, kinds, learnt)
        table_of = vocabulary(place)
        if isinstance(one, declared.Vocabulary | declared.OneHot):
            joins.append(f"LEFT JOIN {table_of} ON {table_of}.{VALUE} = {word(lets, one.column, kinds[one.column])}")
    columns += [*more, (f"{RESERVED}_split", f"CAST({split_of(lets, split, kinds)} AS {dialect.tiny})")]
    made = ",\n  ".join(f"{expression} AS {dialect.quoted(name)}" for name, expression in columns)
    return f"SELECT {made}\nFROM (\n{lets.over(table)}\n) AS {RESERVED}_all\n" + "\n".join(joins)


def fit_source(one: Transform, lets: Lets, kinds: Mapping[str, str]) -> str:
    """What is counted or summed to fit a transform: a number, a text, or a list of tokens."""
    if isinstance(one, declared.Standardize):
        return log1p(lets, one.column) if one.log1p else number(lets, one.column)
    if isinstance(one, declared.Tokens):
        return lets.let(0, lets.dialect.tokens(lets.dialect.quoted(one.column), one.length))
    return word(lets, one.column, kinds[one.column])


def count_words(
    one: Transform, split: HashSplit | None, *, table: str, kinds: Mapping[str, str], dialect: Dialect
) -> str:
    """(value, rows): the words of the training rows, the most frequent first, then by their UTF-8 bytes."""
    lets, tokens = Lets(dialect), isinstance(one, declared.Tokens)
    source = fit_source(one, lets, kinds)
    least, most = getattr(one, "min_count", 1), getattr(one, "most", 1)
    value = dialect.words_of(source) if tokens else source
    training = training_rows(table, split, kinds=kinds, dialect=dialect)
    rows = f"SELECT {value} AS value FROM (\n{lets.over(training)}\n) AS {RESERVED}_all"
    return (
        f"SELECT value, count(*) AS times FROM (\n{rows}\n) AS {RESERVED}_words WHERE value IS NOT NULL "
        f"GROUP BY value HAVING count(*) >= {least} ORDER BY times DESC, value LIMIT {most}"
    )


def training_rows(table: str, split: HashSplit | None, *, kinds: Mapping[str, str], dialect: Dialect) -> str:
    """A SELECT, in parentheses, of the rows that are fitted on.

    Below everything else, on purpose: a condition further up, or a CASE around each number, has duckdb carry copies of
    expressions through all levels, and takes ten times as long.
    """
    if split is None:
        return table
    lets = Lets(dialect, prefix=f"{RESERVED}s")
    part = lets.let(AFTER, split_of(lets, split, kinds))
    return f"(SELECT * FROM (\n{lets.over(table)}\n) AS {RESERVED}_split WHERE {part} = 0)"
