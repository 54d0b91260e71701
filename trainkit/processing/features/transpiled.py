"""The user's SQL, which is duckdb's, in Spark's words: what means the same in both, and nothing else.

Every construct is on a list, with the types that it may meet. What is not there is refused by its name: engines differ
in more than their words (rounding casts, LIKE's escapes, logarithms' last place, sums of floats in any order), and a
translation that runs is not yet one that gives the same bits. Text that becomes a number or a time is compared with
the form that both read alike, and ends the job where it has another.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from trainkit.errors import ConfigError, Mistake, UsageError
from trainkit.processing.features.declared import RESERVED
from trainkit.processing.features.kinds import KIND
from trainkit.processing.features.sql import DUCKDB

_PLAIN = frozenset(
    {
        "Select", "From", "Join", "Table", "TableAlias", "Alias", "Column", "Identifier", "Star", "Boolean", "Null",
        "And", "Or", "Not", "Paren", "Is", "Where", "With", "CTE", "Subquery", "Having", "If", "DataType",
    }
)  # fmt: skip
_ALIKE = frozenset({"EQ", "NEQ", "GT", "GTE", "LT", "LTE", "In", "Between", "Case", "Coalesce", "Nullif"})
"""What brings its operands to one type first."""
_NUMERIC = frozenset({"Add", "Sub", "Mul", "Div", "Neg", "Abs"})
_TYPED = frozenset({"Mod", "Sum", "Min", "Max", "Group", "Year", "Month", "Day"})
_KNOWN = _PLAIN | _TYPED | {"Count", "IsNan"}
_EXACT = frozenset({"integer", "text", "boolean", "timestamp", "date", "null"})
_SIDES = frozenset({"", "LEFT", "RIGHT", "FULL"})
_CASTS = {
    "integer": {"integer", "float64", "text"}, "boolean": {"boolean", "integer", "text"}, "text": {"text"},
    "float32": {"float32", "float64"}, "float64": {"float64"}, "date": {"date", "timestamp"},
    "timestamp": {"timestamp", "date"}, "null": {*_EXACT, "float64", "float32"},
}  # fmt: skip
"""From → to, where both engines come to the same value, or both refuse."""
_DAY = "(?!0000)[0-9]{4}-[0-9]{2}-[0-9]{2}"
_FORMS = {
    "integer": "-?[0-9]{1,19}",
    "float64": "-?[0-9]{1,17}([.][0-9]{1,17})?([eE][+-]?[0-9]{1,3})?",
    "date": _DAY,
    "timestamp": _DAY + "([ T]([01][0-9]|2[0-3]):[0-9]{2}:[0-9]{2}([.][0-9]{1,6})?)?",
}
"""Texts that both engines read alike."""
_DIGITS = 15
"""Of a decimal literal: so many are the nearest float64 in every engine."""


def check(place: int) -> str:
    """The column that says whether a row meets a check."""
    return f"{RESERVED}_check{place}"


def table(sql: str, *, columns: Sequence[str], checks: Sequence[str], schema: Mapping[str, Mapping[str, str]]) -> str:
    """A SELECT for Spark: `columns` of the table that `sql` makes, and one boolean for each of `checks`.

    `schema`: of each table that the SQL may name, its columns' types, as duckdb has them. Raises ConfigError with all
    that Spark would do otherwise.
    """
    try:
        import sqlglot
        from sqlglot.errors import SqlglotError
        from sqlglot.optimizer.annotate_types import annotate_types
        from sqlglot.optimizer.qualify import qualify
    except ImportError as missing:
        raise UsageError('features on Spark need sqlglot: pip install "trainkit[features]"') from missing
    wanted = [DUCKDB.quoted(name) for name in columns]
    wanted += [f"coalesce(({one}), false) AS {check(place)}" for place, one in enumerate(checks)]
    whole = f"SELECT {', '.join(wanted)} FROM (\n{sql.strip().rstrip(';')}\n) AS {RESERVED}_table"
    try:
        tree: Any = sqlglot.parse_one(whole, dialect="duckdb")
        tree = qualify(tree, dialect="duckdb", schema={k: dict(v) for k, v in schema.items()}, quote_identifiers=True)
        tree = annotate_types(tree, schema={k: dict(v) for k, v in schema.items()}, dialect="duckdb")
    except SqlglotError as error:
        raise ConfigError([_refusal("table", f"cannot be read by sqlglot: {_first(error)}")]) from error
    wrong = dict.fromkeys(one for node in tree.walk() for one in _wrong(node))
    if wrong:
        raise ConfigError([_refusal(what, why) for what, why in wrong])
    return str(_guarded(tree).sql(dialect="spark"))


def _refusal(what: str, why: str) -> Mistake:
    return Mistake("features.py", "table", what, f"{why}, so it is not run on Spark",
                   "Write it otherwise, or make features on one host (--engine duckdb)")  # fmt: skip


def _first(error: Exception) -> str:
    # sqlglot underlines the place, for terminals.
    return re.sub(r"\x1b\[[0-9]*m", "", str(error)).partition("\n")[0]


def _wrong(node: Any) -> Iterator[tuple[str, str]]:
    """(the SQL, why) of a node that Spark would take otherwise; of what lies below it, its own turn comes."""
    name, shown = type(node).__name__, node.sql(dialect="duckdb")[:80]
    kinds = {_kind(one) for one in _operands(node)}
    if name == "Literal":
        if not _fits(node):
            yield shown, "is a number that engines read otherwise (write it with an exponent, or shorter)"
    elif name == "Join":
        if node.side not in _SIDES or node.kind not in ("", "INNER", "OUTER", "CROSS") or node.args.get("method"):
            yield shown, "is a join that Spark has otherwise or not at all"
    elif name == "Cast":
        yield from _wrong_cast(node, shown)
    elif name == "Case" and node.this:
        yield shown, "names what it compares once for all (write CASE WHEN … = …)"
    elif name in _ALIKE:
        if not _alike(kinds):
            yield shown, f"compares {' and '.join(sorted(kinds))}, which engines bring together in their own ways: CAST"
    elif name in ("Neg", "Abs") and kinds == {"decimal"}:
        return
    elif name in _NUMERIC:
        if not (kinds <= {"integer", "float64", "decimal"} and _alike(kinds)) and kinds != {"float32"}:
            yield shown, f"calculates with {' and '.join(sorted(kinds))}: CAST them to DOUBLE or BIGINT"
    elif name == "DPipe":
        if kinds != {"text"}:
            yield shown, f"joins {' and '.join(sorted(kinds))} as text: CAST them"
    elif name in ("Mod", "Sum") and kinds != {"integer"}:
        yield shown, "is of numbers that are not whole, whose order or rounding is the engine's"
    elif name == "Sum" and type(node.parent).__name__ != "Cast":
        yield shown, "is a HUGEINT: CAST it to BIGINT"
    elif name in ("Min", "Max", "Group") and not kinds <= _EXACT:
        yield shown, "is by numbers that are not whole: which zero stands for both, 0.0 or -0.0, is the engine's"
    elif name in ("Year", "Month", "Day") and not kinds <= {"timestamp", "date"}:
        yield shown, "is of no TIMESTAMP or DATE"
    elif name not in _KNOWN:
        yield shown, f"({name}) is not known to mean the same in both engines"


def _wrong_cast(node: Any, shown: str) -> Iterator[tuple[str, str]]:
    source, to = _kind(node.this), _kind_of_type(node.to)
    if to not in _CASTS.get(source, set()) and not (source == "text" and to in _FORMS):
        yield shown, f"turns {source} into {node.to.sql(dialect='duckdb')}, which engines do in their own ways"


def _operands(node: Any) -> list[Any]:
    """The values that a node brings together."""
    if type(node).__name__ == "Case":
        found = [one.args["true"] for one in node.args["ifs"]] + [node.args.get("default")]
        return [one for one in found if one is not None]
    return [
        one for one in node.iter_expressions() if type(one).__name__ not in ("DataType", "Identifier", "TableAlias")
    ]


def _kind(node: Any) -> str:
    """A value's kind, `decimal` of a literal such as 0.5, `null`, or the type's own name."""
    name = type(node).__name__
    if name in ("Paren", "Neg", "Abs"):
        return _kind(node.this)
    if name == "Null":
        return "null"
    if name == "Literal" and not node.is_string:
        return "integer" if node.is_int else "float64" if "e" in node.this.lower() else "decimal"
    if name in ("Sum", "Year", "Month", "Day", "Count"):
        return "integer"
    if name in ("Case", "Coalesce"):
        kinds = {_kind(one) for one in _operands(node)} - {"null"}
        if len(kinds) == 1:
            return kinds.pop()
    return _kind_of_type(node.type) if node.type is not None else "unknown"


def _kind_of_type(type_: Any) -> str:
    name = str(type_.sql(dialect="duckdb"))
    name = {"TEXT": "VARCHAR", "REAL": "FLOAT"}.get(name, name)
    return KIND.get(name, name.lower())


def _alike(kinds: set[str]) -> bool:
    kinds = kinds - {"null"}
    if "decimal" in kinds:  # only beside a DOUBLE do both make it one
        return kinds == {"decimal", "float64"}
    return (len(kinds) <= 1 and kinds <= {*_EXACT, "float32", "float64"}) or kinds == {"integer", "float64"}


def _fits(literal: Any) -> bool:
    if literal.is_string:
        return True
    if literal.is_int:
        return int(literal.this) < 2**63
    digits = re.sub(r"[.]|[eE].*", "", literal.this)
    return "e" in literal.this.lower() or len(digits) <= _DIGITS


def _guarded(tree: Any) -> Any:
    """Decimal literals as float64, and a form for each text that becomes something else. Innermost first."""
    from sqlglot import exp

    for node in reversed(list(tree.walk())):
        if isinstance(node, exp.Literal) and not node.is_string and not node.is_int and "e" not in node.this.lower():
            node.set("this", f"{node.this}e0")
        elif isinstance(node, exp.Cast) and _kind(node.this) == "text":
            kind = _kind_of_type(node.to)
            if kind == "text":
                continue
            told = exp.Literal.string(f"CAST of a text to {node.to.sql(dialect='duckdb')}: no form that is the same "
                                      f"in duckdb and Spark: ")  # fmt: skip
            text = node.this
            bad = exp.cast(exp.func("raise_error", exp.func("concat", told, text.copy())), node.to.copy())
            form = exp.RegexpLike(this=text.copy(), expression=exp.Literal.string(rf"^(?:{_FORMS[kind]})\z"))
            fine = exp.or_(exp.Is(this=text.copy(), expression=exp.Null()), form)
            node.replace(exp.case().when(fine, node.copy()).else_(bad))
    return tree


def same_kinds(kinds: Mapping[str, str], described: Mapping[str, str]) -> None:
    """Raises ConfigError where Spark has a column (`described`: name → its type) of another kind than duckdb.

    Spark's TIMESTAMP is one with a zone, which is none of ours.
    """
    types = {name.lower(): "timestamp with a zone" if one == "timestamp" else one for name, one in described.items()}
    wrong = [
        Mistake(
            "features.py", "table", name, f"is {kind} in duckdb, and {types.get(name.lower(), 'missing')} in Spark",
            "CAST it in the SQL",
        )
        for name, kind in kinds.items() if KIND.get(types.get(name.lower(), "").upper()) != kind
    ]  # fmt: skip
    if wrong:
        raise ConfigError(wrong)
