"""What every transform means, for many rows, in numpy. Numbers go as arrays; of the rest, each value once as a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from trainkit.errors import DataError
from trainkit.processing.features import declared, kinds, rows
from trainkit.processing.features.declared import NUMBER, Transform
from trainkit.processing.features.sql import LN2, MAX32, MAX64, ROOT_HALF, SERIES, Fitted

Floats = np.ndarray[Any, np.dtype[np.float64]]


def apply(
    transforms: Sequence[Transform], fitted: Sequence[Fitted], types: Mapping[str, str], table: Any
) -> dict[str, Any]:
    """Output → numpy array, [rows] or [rows, length]; see `Applied.batch`."""
    made: dict[str, Any] = {}
    columns = table.column_names if hasattr(table, "column_names") else list(table)
    for one, learnt in zip(transforms, fitted, strict=True):
        if one.column not in columns:
            raise DataError(f"the table has no {one.column!r}: it has {', '.join(columns)}")
        column = _column(table[one.column])
        kind = types[one.column]
        if isinstance(one, declared.Standardize | declared.Log1p | declared.Bucketize):
            made[one.output] = numbers(one, learnt, floats(column, kind))
        elif isinstance(one, declared.Passthrough):
            made[one.output] = column
        else:
            made.update(_words(one, learnt, column, kind))
    return made


def _column(values: Any) -> pa.Array:
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    made = values if isinstance(values, pa.Array) else pa.array(values)
    return made.dictionary_decode() if pa.types.is_dictionary(made.type) else made


def floats(column: pa.Array, kind: str) -> Floats:
    """As float64, NaN where it is missing or not finite."""
    if kind not in NUMBER or not (pa.types.is_primitive(column.type) or pa.types.is_null(column.type)):
        raise DataError(f"a column of {column.type} came where the features were fitted on {kind}")
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.int8())
    if kind == "float32":
        column = column.cast(pa.float32(), safe=False)
    # In numpy, since pyarrow refuses integers beyond 2**53 where SQL and Python round them.
    plain = pc.fill_null(column, 0).to_numpy(zero_copy_only=False) if column.null_count else column.to_numpy(False)
    x: Floats = plain.astype(np.float64) if not pa.types.is_null(column.type) else np.zeros(len(column))
    missing = column.is_null().to_numpy(zero_copy_only=False) if column.null_count else False
    return np.where(missing | ~np.isfinite(x), np.nan, x)


def numbers(one: Transform, learnt: Fitted, x: Floats) -> Any:
    """Standardize, Log1p or Bucketize of what `floats` gave."""
    if isinstance(one, declared.Bucketize):
        buckets = np.searchsorted(one.boundaries, x, side="right") + 1
        return np.where(np.isnan(x), 0, buckets).astype(np.int32)
    assert isinstance(one, declared.Standardize | declared.Log1p)
    with np.errstate(all="ignore"):
        x = source(one, x)
        if isinstance(one, declared.Standardize):
            x = (x - learnt.mean) / learnt.std
        most = MAX32 if one.dtype == "float32" else MAX64
        return np.where(np.isnan(x), 0.0, np.clip(x, -most, most)).astype(one.dtype)


def source(one: Transform, x: Floats) -> Floats:
    """The numbers that a transform is fitted on: with `log1p`, NaN where there is no logarithm."""
    if isinstance(one, declared.Standardize) and not one.log1p:
        return x
    with np.errstate(all="ignore"):
        return log1p(np.where(x > -1.0, x, np.nan))


def log1p(x: Floats) -> Floats:
    m, k = np.frexp(1.0 + x)
    low = m < ROOT_HALF
    m, k = np.where(low, m * 2.0, m), np.where(low, k - 1, k).astype(np.float64)
    s = np.where(k == 0, x / (2.0 + x), (m - 1.0) / (m + 1.0))
    z = s * s
    series = np.full_like(x, SERIES[-1])
    for term in SERIES[-2::-1]:
        series = term + z * series
    return k * LN2 + (2.0 * s) * series


def _words(one: Transform, learnt: Fitted, column: pa.Array, kind: str) -> Mapping[str, Any]:
    """Each distinct value goes through the row's function once."""
    encoded = column.dictionary_encode(null_encoding="encode") if len(column) else pa.array([None]).dictionary_encode(
        null_encoding="encode"
    )  # fmt: skip
    read, apply_one = kinds.reader(kind, one.column), rows.one(one, learnt, kind)
    distinct = [apply_one(read(value)) for value in _plain(encoded.dictionary, kind)]
    places = encoded.indices.to_numpy(zero_copy_only=False)[: len(column)]
    if isinstance(one, declared.TimeParts):
        return {
            name: np.array(values)[places]
            for name, values in zip(one.outputs, zip(*distinct, strict=True), strict=True)
        }
    return {one.output: np.stack(distinct)[places]}


def _plain(values: pa.Array, kind: str) -> list[Any]:
    if kind in ("timestamp", "date") and not pa.types.is_null(values.type) and not pa.types.is_string(values.type):
        return list(values.cast(pa.timestamp("us"), safe=False).to_pylist())
    return list(values.to_pylist())
