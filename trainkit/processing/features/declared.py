"""What a features.py declares. Frozen values; what one of them alone can get wrong is refused when it is made."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from fractions import Fraction
from typing import Any, ClassVar, Literal

from trainkit.errors import ConfigError, Mistake

NUMBER = frozenset({"integer", "float32", "float64", "boolean"})
WORD = frozenset({"integer", "boolean", "text"})
ANY = frozenset({*NUMBER, "text", "timestamp", "date"})
PARTS = ("year", "month", "day", "week", "dayofyear", "weekday", "hour", "minute", "second")
CLOCK = ("hour", "minute", "second")
RESERVED = "__tk"
"""How names inside the SQL begin; columns of a table may not."""

SQL_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
SPLIT_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
MOST_VALUES = 10_000_000


def mistake(key: str, value: object, problem: str, remedy: str) -> ConfigError:
    return ConfigError([Mistake("features.py", key, value, problem, remedy)])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Transform:
    """A column of the table and what becomes of it. `name`: the output's, in place of the column's."""

    takes: ClassVar[frozenset[str]] = ANY
    fits: ClassVar[Literal["", "moments", "words"]] = ""

    column: str = field(kw_only=False)
    name: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.column, str) or not self.column:
            raise mistake(self.kind, self.column, "is no column's name", "Name a column of the table")

    @property
    def kind(self) -> str:
        return type(self).__name__

    @property
    def outputs(self) -> tuple[str, ...]:
        return (self.name or self.column,)

    @property
    def output(self) -> str:
        return self.outputs[0]

    def check(self, name: str, allowed: bool, problem: str, remedy: str) -> None:
        if not allowed:
            raise mistake(f'{self.kind}("{self.column}").{name}', getattr(self, name), problem, remedy)

    def described(self) -> dict[str, Any]:
        """As JSON: everything that decides the result."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        return {"kind": self.kind} | {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Standardize(_Transform):
    """(x - mean) / std, of log(1 + x) where `log1p`; missing: 0, which is the mean. float32 or float64."""

    takes: ClassVar[frozenset[str]] = NUMBER
    fits: ClassVar[Literal["", "moments", "words"]] = "moments"

    log1p: bool = False
    dtype: Literal["float32", "float64"] = "float32"

    def __post_init__(self) -> None:
        _Transform.__post_init__(self)
        self.check("dtype", self.dtype in ("float32", "float64"), "is no type of it", "Write float32 or float64")


@dataclass(frozen=True, slots=True, kw_only=True)
class Log1p(_Transform):
    """log(1 + x), to within 4 units of the last place of float64, before it is rounded; missing, or x ≤ -1: 0."""

    takes: ClassVar[frozenset[str]] = NUMBER
    dtype: Literal["float32", "float64"] = "float32"

    def __post_init__(self) -> None:
        _Transform.__post_init__(self)
        self.check("dtype", self.dtype in ("float32", "float64"), "is no type of it", "Write float32 or float64")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucketize(_Transform):
    """1 + how many of the boundaries are ≤ x: 1 … len(boundaries) + 1; missing: 0. int32."""

    takes: ClassVar[frozenset[str]] = NUMBER
    boundaries: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        _Transform.__post_init__(self)
        object.__setattr__(self, "boundaries", tuple(float(one) for one in self.boundaries))
        rising = all(a < b for a, b in zip(self.boundaries, self.boundaries[1:], strict=False))
        finite = all(math.isfinite(one) for one in self.boundaries)
        fine = bool(self.boundaries) and rising and finite
        self.check("boundaries", fine, "are not finite numbers that rise", "Write boundaries=(0, 10, 100)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary(_Transform):
    """The value's place among those of the training rows: 2, 3, …; 1: none of them; missing: 0. int32.

    Kept are values that come `min_count` times, at most `most`: the most frequent first, then by their UTF-8 bytes.
    """

    takes: ClassVar[frozenset[str]] = WORD
    fits: ClassVar[Literal["", "moments", "words"]] = "words"

    min_count: int = 1
    most: int = 1_000_000

    def __post_init__(self) -> None:
        _Transform.__post_init__(self)
        _count(self, "min_count")
        _count(self, "most", MOST_VALUES)


@dataclass(frozen=True, slots=True, kw_only=True)
class OneHot(_Transform):
    """A list of 0 and 1, as long as the vocabulary, in its order; all 0 for what is missing or not in it. int8."""

    takes: ClassVar[frozenset[str]] = WORD
    fits: ClassVar[Literal["", "moments", "words"]] = "words"

    min_count: int = 1
    most: int = 1_000

    def __post_init__(self) -> None:
        _Transform.__post_init__(self)
        _count(self, "min_count")
        _count(self, "most", 10_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hash(_Transform):
    """1 + the portable hash of the value modulo `buckets`: 1 … buckets; missing: 0. int32."""

    takes: ClassVar[frozenset[str]] = WORD
    buckets: int = 1_000
    seed: int = 0

    def __post_init__(self) -> None:
        _Transform.__post_init__(self)
        _count(self, "buckets", 2**31 - 2)
        self.check("seed", _whole(self.seed, 0, 2**32 - 1), "is no whole number below 2**32", "Write seed=1")


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeParts(_Transform):
    """Each part as a column `<name>_<part>`; weekday 0 is Monday, week is ISO's; missing: -1. int16."""

    takes: ClassVar[frozenset[str]] = frozenset({"timestamp", "date"})
    parts: tuple[str, ...] = ("hour", "weekday", "month")

    def __post_init__(self) -> None:
        _Transform.__post_init__(self)
        object.__setattr__(self, "parts", tuple(self.parts))
        known = bool(self.parts) and set(self.parts) <= set(PARTS)
        self.check("parts", known, "names a part that is none", f"Choose from {', '.join(PARTS)}")

    @property
    def outputs(self) -> tuple[str, ...]:
        return tuple(f"{self.name or self.column}_{part}" for part in self.parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens(_Transform):
    """The first `length` tokens, each as its place in the vocabulary: 2, 3, …; 1: unknown; 0: padding. int32 list.

    A token is a run of ASCII letters, in lower case, ASCII digits, and all characters beyond ASCII, as they are.
    """

    takes: ClassVar[frozenset[str]] = frozenset({"text"})
    fits: ClassVar[Literal["", "moments", "words"]] = "words"

    vocabulary: int = 10_000
    length: int = 16
    min_count: int = 1

    def __post_init__(self) -> None:
        _Transform.__post_init__(self)
        _count(self, "vocabulary", MOST_VALUES)
        _count(self, "length", 100_000)
        _count(self, "min_count")

    @property
    def most(self) -> int:
        return self.vocabulary


@dataclass(frozen=True, slots=True, kw_only=True)
class Passthrough(_Transform):
    """The column as it is: null, NaN and -0.0 too."""


Transform = Standardize | Log1p | Bucketize | Vocabulary | OneHot | Hash | TimeParts | Tokens | Passthrough
KINDS: Mapping[str, type[Transform]] = {
    one.__name__: one
    for one in (Standardize, Log1p, Bucketize, Vocabulary, OneHot, Hash, TimeParts, Tokens, Passthrough)
}


@dataclass(frozen=True, init=False)
class HashSplit:
    """Each row to a split, by the portable hash of one column: `HashSplit("row_id", train=.8, test=.2)`.

    Rows with equal values stay together; null goes to the first split. `train` is the one that is fitted on.
    """

    column: str
    fractions: Mapping[str, float]
    seed: int = 0

    def __init__(self, column: str, *, seed: int = 0, **fractions: float) -> None:
        for name, value in (("column", column), ("seed", seed), ("fractions", fractions)):
            object.__setattr__(self, name, value)
        where = f'HashSplit("{column}")'
        total = sum((Fraction(repr(float(one))) for one in fractions.values() if math.isfinite(one)), Fraction())
        if abs(total - 1) > Fraction(1, 10**9) or any(not 0 < one <= 1 for one in fractions.values()):
            raise mistake(where, fractions, "are not fractions that sum to 1", "Write train=.8, validation=.1, test=.1")
        if "train" not in fractions:
            raise mistake(where, fractions, "has no train, and nothing else is fitted on", "Name one of them train")
        for name in fractions:
            if not SPLIT_NAME.fullmatch(name) or name in ("features", "report"):
                raise mistake(where, name, "cannot be the name of a folder of rows", "Choose another name")
        if not _whole(seed, 0, 2**32 - 1):
            raise mistake(where, seed, "is no whole number below 2**32", "Write seed=1")

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.fractions)

    @property
    def cuts(self) -> tuple[int, ...]:
        """For each split but the last, the hash (of 2**32) where the next one begins."""
        shares = [Fraction(repr(float(one))) for one in self.fractions.values()]
        return tuple(round(sum(shares[: place + 1], Fraction()) * 2**32) for place in range(len(shares) - 1))


@dataclass(frozen=True, slots=True)
class Check:
    """A condition in SQL that every row must meet (null: not met), but for a share of `allow`.

    It fails the job, after everything is written.
    """

    condition: str
    allow: float = 0.0

    def __post_init__(self) -> None:
        if not self.condition.strip() or not 0 <= self.allow < 1:
            raise mistake("Check", self, "is no condition with a share in [0, 1)", 'Write Check("late IS NOT NULL")')


@dataclass(frozen=True, slots=True)
class Source:
    """An input by its name, where there is more to say: `nulls` are the texts that mean null in CSV."""

    input: str
    nulls: tuple[str, ...] = ("",)


@dataclass(frozen=True, kw_only=True)
class Features:
    """How raw tables become rows for a model. See docs/features.md.

    `tables`: name in the SQL → name of the input; `table`: the SQL (duckdb's) of one table; `key`, `target`: columns
    that are written as they are. Raises ConfigError with every mistake that can be seen without the data.
    """

    tables: Mapping[str, str | Source]
    table: str
    key: str = ""
    numeric: Sequence[Transform] = ()
    categorical: Sequence[Transform] = ()
    text: Sequence[Transform] = ()
    time: Sequence[Transform] = ()
    target: str = ""
    split: HashSplit | None = None
    checks: Sequence[Check] = ()

    def __post_init__(self) -> None:
        found = [*self._wrong_tables(), *self._wrong_outputs()]
        if found:
            raise ConfigError(found)

    @property
    def transforms(self) -> tuple[Transform, ...]:
        return (*self.numeric, *self.categorical, *self.text, *self.time)

    @property
    def kept(self) -> tuple[str, ...]:
        """Columns that are written as they are, beside the features."""
        return tuple(dict.fromkeys(name for name in (self.key, self.target) if name))

    @property
    def splits(self) -> tuple[str, ...]:
        return self.split.names if self.split else ("train",)

    def described(self) -> dict[str, Any]:
        """As JSON: everything that decides what is made. `checks` are not among it: they only judge."""
        split = self.split and {
            # A list, since the order decides, and JSON's objects have none.
            "column": self.split.column, "fractions": [list(one) for one in self.split.fractions.items()],
            "seed": self.split.seed,
        }  # fmt: skip
        tables = {
            name: one if isinstance(one, str) else {"input": one.input, "nulls": list(one.nulls)}
            for name, one in sorted(self.tables.items())
        }
        return {
            "tables": tables, "table": self.table, "key": self.key, "target": self.target, "split": split,
            "transforms": [one.described() for one in self.transforms],
        }  # fmt: skip

    def _wrong_tables(self) -> list[Mistake]:
        found = []
        if not self.tables or not self.table.strip():
            found.append(
                Mistake("features.py", "table", self.table, "there is no table to make", "Give tables and SQL")
            )
        for name in self.tables:
            if not SQL_NAME.fullmatch(name) or name.lower().startswith(RESERVED):
                found.append(
                    Mistake("features.py", "tables", name, "is no name for SQL", "Use letters, digits and underscores")
                )
        return found

    def _wrong_outputs(self) -> list[Mistake]:
        if not self.transforms:
            return [Mistake("features.py", "Features", None, "it makes no feature", "Declare numeric=[…], text=[…], …")]
        found, owners = [], {name.lower(): "key" if name == self.key else "target" for name in self.kept}
        for one in self.transforms:
            if type(one).__name__ not in KINDS:
                found.append(Mistake("features.py", "Features", one, "is no transform", f"Use {', '.join(KINDS)}"))
                continue
            for output in one.outputs:
                mine = f'{one.kind}("{one.column}")'
                if output.lower() in owners:
                    problem = f"is the name of two outputs, of {owners[output.lower()]} and of {mine}"
                    found.append(Mistake("features.py", mine, output, problem, 'Give one of them name="…"'))
                owners.setdefault(output.lower(), mine)
        return found


def restored(described: Mapping[str, Any]) -> tuple[tuple[Transform, ...], HashSplit | None]:
    """The transforms and the split of a definition, from `Features.described`."""
    made = []
    for one in described["transforms"]:
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in one.items() if k != "kind"}
        made.append(KINDS[one["kind"]](**values))
    split = described["split"]
    return tuple(made), split and HashSplit(split["column"], seed=split["seed"], **dict(split["fractions"]))


def _whole(value: object, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _count(one: _Transform, name: str, most: int = 2**53) -> None:
    fine = _whole(getattr(one, name), 1, most)
    one.check(name, fine, f"is no whole number from 1 to {most:,}", f"Write {name}=10")
