"""Whether columns are the same bits, however they were made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

CHUNK = 50_000


def same_bits(left: Any, right: Any) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Where two columns are equal, bit for bit; one NaN is as good as another."""
    a, b = np.asarray(left), np.asarray(right)
    assert a.dtype == b.dtype, (a.dtype, b.dtype)
    assert a.shape == b.shape
    if a.dtype.kind == "f":
        whole = {4: np.int32, 8: np.int64}[a.dtype.itemsize]
        return (a.view(whole) == b.view(whole)) | (np.isnan(a) & np.isnan(b))
    return a == b


def column(values: pa.ChunkedArray) -> Any:
    """numpy of what lies in Parquet: lists as [rows, length]."""
    one = values.combine_chunks()
    if pa.types.is_list(one.type):
        flat = one.flatten().to_numpy(zero_copy_only=False)
        return flat.reshape(len(one), -1)
    return one.to_numpy(zero_copy_only=False)


def split_of(output: Path, split: str, by: str = "row") -> pa.Table:
    """A split's rows, in the order of their column `by`."""
    return pa.concat_tables(
        [pq.read_table(file) for file in sorted((output / split).glob("*.parquet"))]
    ).sort_by(by)  # fmt: skip


def files_differ(one: Path, other: Path, splits: Sequence[str], by: str = "row") -> list[str]:
    """What differs between the rows of two outputs: lengths, schemas with their metadata, columns."""
    found = []
    for split in splits:
        a, b = split_of(one, split, by), split_of(other, split, by)
        if len(a) != len(b) or not a.schema.equals(b.schema, check_metadata=True):
            found.append(f"{split}: {len(a)} rows and {len(b)}, {a.schema} and {b.schema}")
            continue
        for name in a.column_names:
            left, right = a[name], b[name]
            if left.is_valid().to_pylist() != right.is_valid().to_pylist():
                found.append(f"{split}.{name}: nulls")
            elif not same_bits(column(left), column(right)).all():
                found.append(f"{split}.{name}")
    return found


def rows_differ(applied: Any, raw: Mapping[str, Sequence[Any]], written: pa.Table) -> dict[Any, Any]:
    """Of each output that differs from what `row` and `batch` make of the raw rows, the first value."""
    from features_tables import RAW, SCHEMA

    everything, wrong = pa.table(dict(raw), schema=SCHEMA), {}
    for start in range(0, len(written), CHUNK):
        part = written.slice(start, CHUNK)
        compare(applied, raw, part, everything.take(part["row"].combine_chunks()), wrong, RAW)
    return wrong


def compare(
    applied: Any, raw: Any, part: pa.Table, table: pa.Table, wrong: dict[Any, Any], names: Sequence[str]
) -> None:
    """Add to `wrong`, by output and way, the first row that differs: its raw value, the engine's, and the other's."""
    places = part["row"].to_pylist()
    batch = applied.batch(table)
    single = [applied.row({name: raw[name][place] for name in names}) for place in places]
    for one in applied.transforms:
        for output in one.outputs:
            sql, whole = column(part[output]), batch[output]
            if isinstance(whole, pa.Array):
                whole = whole.to_numpy(zero_copy_only=False)
            each = [np.nan if row[output] is None else row[output] for row in single]
            alone = np.array(each, sql.dtype) if one.kind == "Passthrough" else np.stack(each)
            for name, other in (("batch", whole), ("row", alone)):
                off = ~same_bits(sql, other)
                if off.any():
                    at = int(np.argwhere(off)[0][0])
                    wrong.setdefault((output, name), (raw[one.column][places[at]], sql[at], other[at]))
