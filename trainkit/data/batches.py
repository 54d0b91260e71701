"""Rows as what a training step takes: a dict of tensors, arrays, or an Arrow table.

    numbers, booleans           (batch,)
    fixed-size lists            (batch, size), nested ones (batch, size, …)
    lists of numbers            Ragged(values, offsets): row i is values[offsets[i]:offsets[i + 1]]
    strings, bytes, the rest    a list of Python values

Numbers share Arrow's memory where it has no gaps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from trainkit.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

Kind = Literal["torch", "numpy", "arrow"]
KINDS: tuple[Kind, ...] = ("torch", "numpy", "arrow")


class Ragged(NamedTuple):
    """Rows of different lengths: row i is `values[offsets[i]:offsets[i + 1]]`."""

    values: Any
    offsets: Any


def converter(kind: Kind) -> Callable[[pa.Table], Any]:
    """What turns a table into a batch of that kind."""
    if kind == "arrow":
        return lambda table: table.combine_chunks()
    wrap = wrapper(kind)
    return lambda table: {name: _column(table.column(name), name, wrap) for name in table.column_names}


def wrapper(kind: Kind) -> Callable[[Any], Any]:
    """What turns an array into an array of that kind: for torch, a tensor."""
    return _tensor() if kind == "torch" else _same


def _tensor() -> Callable[[Any], Any]:
    import torch

    def tensor(array: Any) -> Any:
        # torch warns of memory that it may not write to; a batch is the step's own.
        return torch.from_numpy(array if array.flags.writeable else array.copy())

    return tensor


def _same(array: Any) -> Any:
    return array


def _column(column: pa.ChunkedArray, name: str, wrap: Callable[[Any], Any]) -> Any:
    import pyarrow as pa
    import pyarrow.types as types

    array = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    kind = array.type
    if types.is_dictionary(kind):
        array = array.dictionary_decode()
        kind = array.type
    if _is_number(kind):
        return wrap(_numbers(array, name))
    if types.is_fixed_size_list(kind):
        shape = [len(array)]
        while types.is_fixed_size_list(array.type):
            _no_gaps(array, name)
            shape.append(array.type.list_size)
            array = array.flatten()
        if _is_number(array.type):
            return wrap(_numbers(array, name).reshape(shape))
        return column.to_pylist()
    if (types.is_list(kind) or types.is_large_list(kind)) and _is_number(kind.value_type):
        _no_gaps(array, name)
        offsets = np.from_dlpack(array.offsets).astype(np.int64)
        return Ragged(wrap(_numbers(array.flatten(), name)), wrap(offsets - offsets[0]))
    if isinstance(array, pa.ExtensionArray):
        raise DataError(f"column {name!r} has the type {kind}, which is no tensor. Leave it out with columns=[…]")
    return array.to_pylist()


def _is_number(kind: pa.DataType) -> bool:
    import pyarrow.types as types

    return bool(types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind))


def _numbers(array: pa.Array, name: str) -> Any:
    """Not by `to_numpy`, which imports pandas where there is one: 0.2 s of CPU, within the wait for the first batch."""
    import pyarrow as pa

    _no_gaps(array, name)
    if pa.types.is_boolean(array.type):
        return np.from_dlpack(array.cast(pa.uint8())).view(np.bool_)
    return np.from_dlpack(array)


def _no_gaps(array: pa.Array, name: str) -> None:
    if array.null_count:
        raise DataError(
            f"column {name!r} has {array.null_count} empty values in one batch, and a tensor has none. Fill them where "
            f"the data is made, or in transform=, which gets the rows as an Arrow table"
        )
