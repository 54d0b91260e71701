"""One schema for all tables of a listing.

The first item decides. Others have the same columns, of the same types, in any order; what differs is refused, since
neither filling in nulls nor dropping a column is ours to choose. Only a column that has no type, because it is empty
throughout a file, fits any. Dictionaries differ from item to item, so columns that are encoded with one come as plain
values. Metadata and nullability are dropped: they say how a file was written.

`pyarrow.compute` is imported for others: most methods of a table import it when they are first called, and a thread
among busy ones takes 0.4 s to.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute

from trainkit.data.formats.base import told, wrong
from trainkit.data.items import Item


def plain(schema: pa.Schema, item: Item) -> pa.Schema:
    """The schema that its tables have once `conformed`. Raises DataError for columns that share a name."""
    with told(item, "schema"):  # names are text only when someone asks for them, and need not be UTF-8
        found = pa.schema([pa.field(field.name, _plain(field.type)) for field in schema])
        names = found.names
    for name, count in Counter(names).items():
        if count > 1:
            raise wrong(item, f"two columns are called {name!r}", "Rename one of them")
    return found


def agreed(schema: pa.Schema, item: Item, *, first: Item, expected: pa.Schema) -> None:
    """Raises DataError where an item's columns are not those of the first."""
    remedy = "Write both alike, or stream them apart"
    for name in expected.names:
        if name not in schema.names:
            raise wrong(item, f"has no column {name!r}, which {first.url} has", remedy)
    for field in schema:
        if field.name not in expected.names:
            raise wrong(item, f"has a column {field.name!r}, which {first.url} does not have", remedy)
        # pandas writes a column without a type where it is empty throughout a file.
        if not pa.types.is_null(field.type) and not field.type.equals(expected.field(field.name).type):
            there = expected.field(field.name).type
            raise wrong(item, f"column {field.name!r} is {field.type}, and {there} in {first.url}", remedy)


def misfit(found: pa.Schema, item: Item, *, first: Item, expected: pa.Schema) -> str:
    """Which column of a row that is refused is not as it is in the first item, for people; empty where none is."""
    where = "the first rows" if item.url == first.url else first.url
    for field in found:
        if field.name not in expected.names:
            return f"has a column {field.name!r}, which {where} {'do' if item.url == first.url else 'does'} not have"
        there = expected.field(field.name).type
        if not _fits(field.type, there):
            return f"column {field.name!r} is {field.type}, and {there} in {where}"
    return ""


def _fits(kind: pa.DataType, there: pa.DataType) -> bool:
    """Whether values that look like one type are taken for the other: whole numbers are numbers, and null is any."""
    if pa.types.is_struct(kind) and pa.types.is_struct(there):
        known = {field.name: field.type for field in there}
        return all(field.name in known and _fits(field.type, known[field.name]) for field in kind)
    if pa.types.is_list(kind) and pa.types.is_list(there):
        return _fits(kind.value_type, there.value_type)
    whole = pa.types.is_integer(kind) and pa.types.is_floating(there)
    return bool(whole or pa.types.is_null(kind) or kind.equals(there))


def chosen(expected: pa.Schema, columns: Sequence[str] | None, item: Item) -> pa.Schema:
    """The part of the schema that was asked for, in its own order."""
    if columns is None:
        return expected
    for name in columns:
        if name not in expected.names:
            raise wrong(item, f"has no column {name!r}", f"Its columns are {', '.join(expected.names)}")
    if not columns:
        raise wrong(item, "no column was asked for", f"Its columns are {', '.join(expected.names)}")
    return pa.schema([field for field in expected if field.name in columns])


def conformed(table: pa.Table, expected: pa.Schema) -> pa.Table:
    """These columns of the table, as plain values. Raises pyarrow's errors, also for values that cannot be."""
    # Arrow trusts offsets and lengths in its buffers. What came from storage is checked once, here, before anyone
    # follows them out of the buffer.
    table.validate(full=True)
    columns = [_values(table.column(field.name), field.type) for field in expected]
    return pa.Table.from_arrays(columns, schema=expected)


def _values(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    if column.type.equals(kind):
        return column
    # No other cast than these: between types that garbage made up (a decimal of a billion digits) Arrow crashes.
    if not pa.types.is_null(column.type) and not _plain(column.type).equals(kind):
        raise ValueError(f"there is a column of {column.type} where {kind} was announced")
    return column.cast(kind)


def _plain(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(kind):
        return _plain(kind.value_type)
    if pa.types.is_list(kind):
        return pa.list_(_plain(kind.value_type))
    if pa.types.is_large_list(kind):
        return pa.large_list(_plain(kind.value_type))
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(_plain(kind.value_type), kind.list_size)
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(field.name, _plain(field.type)) for field in kind])
    return kind
