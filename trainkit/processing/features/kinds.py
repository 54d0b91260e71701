"""Columns' types as features know them, and one value of each, however a caller holds it."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any

import numpy as np

from trainkit.errors import DataError

_KINDS = {
    "integer": ("TINYINT", "SMALLINT", "INTEGER", "INT", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER"),
    "float64": ("DOUBLE",),
    "float32": ("FLOAT",),
    "text": ("VARCHAR", "STRING"),
    "boolean": ("BOOLEAN",),
    "timestamp": ("TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS", "TIMESTAMP_NTZ"),
    "date": ("DATE",),
}
KIND = {name: kind for kind, names in _KINDS.items() for name in names}
"""An engine's type → ours. DECIMAL, HUGEINT and times with a zone are none: engines differ about them."""


def reader(kind: str, column: str) -> Callable[[Any], Any]:
    """One raw value as the table had it: None, int, float, bool, str, datetime. Raises DataError where it cannot be."""

    def read(value: Any) -> Any:
        if value is None:
            return None
        try:
            return convert(value)
        except (TypeError, ValueError, OverflowError, AttributeError):
            raise DataError(f"{column}: {value!r} is no {kind}; the features were fitted on {kind} there") from None

    convert = _CONVERT[kind]
    return read


def _integer(value: Any) -> int:
    whole = int(value)
    if whole != value or not -(2**63) <= whole < 2**63 or isinstance(value, str):
        raise ValueError
    return whole


def _float64(value: Any) -> float:
    if isinstance(value, str):
        raise ValueError
    return float(value)


def _float32(value: Any) -> float:
    # 0.1 from JSON is not the 0.1 that a float32 column held in training.
    with np.errstate(over="ignore"):
        return float(np.float32(_float64(value)))


def _boolean(value: Any) -> bool:
    if value not in (0, 1):
        raise ValueError
    return bool(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError
    if not value.isascii():
        value.encode()  # half a surrogate is no text that a table could hold
    return value


def _timestamp(value: Any) -> Any:
    if isinstance(value, str):
        value = datetime.datetime.fromisoformat(value)
    elif isinstance(value, np.datetime64):
        if np.isnat(value):
            return None
        value = value.astype("datetime64[us]").item()
        if isinstance(value, int):
            return None  # beyond the year 9999, which is missing in SQL too
    if not isinstance(value, datetime.datetime):
        value = datetime.datetime(value.year, value.month, value.day)
    if value.tzinfo is not None:
        raise ValueError
    return value


def _date(value: Any) -> Any:
    moment = _timestamp(value)
    return moment and datetime.datetime(moment.year, moment.month, moment.day)


_CONVERT: dict[str, Callable[[Any], Any]] = {
    "integer": _integer, "float64": _float64, "float32": _float32, "boolean": _boolean, "text": _text,
    "timestamp": _timestamp, "date": _date,
}  # fmt: skip
