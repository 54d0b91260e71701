"""CSV and TSV: the first line names the columns, each row behind it has a value for each.

The types are those of the first block, and hold for all: a later value that does not fit is refused. Dates stay
texts. Newlines within double quotes are part of the value; a quote elsewhere is not told apart from one that opens a
value, so rows behind it are counted wrongly, and the block is refused for that. Escapes with a backslash are not
known. Empty lines are no rows.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import pyarrow as pa
import pyarrow.csv

from trainkit.data.formats import lines
from trainkit.data.formats.base import BLOCK, NoRows, Span, counted, said, told, within, wrong
from trainkit.data.formats.tables import agreed, chosen, conformed, misfit
from trainkit.data.items import Get, Item

_REMEDY = "Write that row as the first ones, which decide the types, are written; or choose other columns"
_QUOTES = 'Write a quote that is part of a value as "", within a quoted value'


class _Header(NamedTuple):
    names: tuple[str, ...]
    end: int
    """Where the rows begin."""


@dataclass(frozen=True, slots=True)
class Csv:
    schema: pa.Schema
    first: Item
    delimiter: str
    name: str = "CSV"
    seeks: bool = True
    _headers: dict[Item, _Header] = field(default_factory=dict)

    @classmethod
    def of(cls, items: Sequence[Item], get: Get, *, delimiter: str = ",") -> Csv:
        for item in items:
            header = _header(item, get, delimiter)
            for span in _spans(item, get, header, window=BLOCK):
                data = memoryview(get(item, span.start, span.length))
                table = _parsed(item, span, data, header.names, None, delimiter, first=item)
                return cls(_settled(table.schema), item, delimiter, _headers={item: header})
        raise NoRows.of(items[0])

    def learn(self, item: Item, get: Get) -> None:
        if item in self._headers:
            return
        header = _header(item, get, self.delimiter)
        known = [
            self.schema.field(name) if name in self.schema.names else pa.field(name, pa.null()) for name in header.names
        ]
        agreed(pa.schema(known), item, first=self.first, expected=self.schema)
        same = self._headers[self.first]  # nearly always: of a million items one list of names is kept
        self._headers[item] = header._replace(names=same.names) if header.names == same.names else header

    def spans(self, item: Item, get: Get) -> Sequence[Span]:
        self.learn(item, get)
        return list(_spans(item, get, self._headers[item]))

    def decode(self, item: Item, span: Span, data: memoryview, columns: Sequence[str] | None) -> pa.Table:
        expected = chosen(self.schema, columns, item)
        names = self._headers[item].names
        table = _parsed(item, span, data, names, expected, self.delimiter, first=self.first)
        counted(item, span, table.num_rows, remedy=_QUOTES)
        return table


def _spans(item: Item, get: Get, header: _Header, *, window: int = 8 * BLOCK) -> Iterator[Span]:
    return lines.spans(item, get, begin=header.end, quoted=True, blank=lines.Blank.EMPTY, window=window)


def _header(item: Item, get: Get, delimiter: str) -> _Header:
    begin = lines.start(item, get)
    length = 1 << 16
    while True:
        data = memoryview(get(item, begin, min(length, item.size - begin)))
        ends = lines.row_ends(data, quoted=True)
        if len(ends) or begin + len(data) == item.size:
            break
        length *= 2
    end = int(ends[0]) if len(ends) else len(data)
    with told(item, "header of CSV", remedy="Write the names of the columns into the first line, as UTF-8"):
        names = _names(bytes(data[:end]).decode().rstrip("\r\n"), delimiter)
    remedy = "Write the names of the columns into the first line"
    for name in names:
        if not name or _number(name):
            raise wrong(item, f"its first line has {name!r} where the name of a column is expected", remedy)
        if names.count(name) > 1:
            raise wrong(item, f"two columns are called {name!r}", "Rename one of them")
    if not names:
        raise wrong(item, "its first line is empty", remedy)
    return _Header(tuple(names), begin + end)


def _names(line: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=delimiter, strict=True), [])
    except csv.Error as error:
        raise ValueError(str(error)) from error


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _parsed(
    item: Item,
    span: Span,
    data: memoryview,
    names: Sequence[str],
    expected: pa.Schema | None,
    delimiter: str,
    *,
    first: Item,
) -> pa.Table:
    types = None if expected is None else {column.name: column.type for column in expected}

    def parse(part: memoryview) -> pa.Table:
        table = _read(part, names, types, delimiter)
        return table if expected is None else conformed(table, expected)

    try:
        return parse(data)
    except (pa.ArrowException, ValueError, LookupError, OSError, OverflowError) as error:
        refused = lines.first_refused(data, lines.row_ends(data, quoted=True), parse)
        at = f"byte {span.start + refused.offset} (row {refused.row + 1} of {within(span)})"
        why = ""
        if expected is not None:
            why = _misfit(refused.data, names, delimiter, item, first=first, expected=expected)
        raise wrong(item, f"{why or 'is no row like the first ones'} ({said(error)})", _REMEDY, at=at) from error


def _read(part: memoryview, names: Sequence[str], types: Mapping[str, pa.DataType] | None, delimiter: str) -> pa.Table:
    return pa.csv.read_csv(
        pa.BufferReader(pa.py_buffer(part)),
        # As one block, on this thread: the caller has several, and each parses another span.
        pa.csv.ReadOptions(use_threads=False, block_size=len(part) + 1, column_names=list(names)),
        pa.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
        pa.csv.ConvertOptions(column_types=types, include_columns=list(types) if types else []),
    )


def _misfit(
    row: memoryview, names: Sequence[str], delimiter: str, item: Item, *, first: Item, expected: pa.Schema
) -> str:
    try:
        found = _read(row, names, None, delimiter).schema
    except (pa.ArrowException, ValueError, LookupError, OSError, OverflowError):
        return ""  # it has more values than columns, or none at all, which was said
    typed = [found.field(column.name) for column in expected if not pa.types.is_string(column.type)]  # all is text
    return misfit(pa.schema(typed), item, first=first, expected=expected)


def _settled(schema: pa.Schema) -> pa.Schema:
    return pa.schema([pa.field(column.name, _kind(column.type)) for column in schema])


def _kind(kind: pa.DataType) -> pa.DataType:
    # What is no UTF-8 would be bytes: as text it is refused, with the row.
    return pa.string() if pa.types.is_null(kind) or pa.types.is_temporal(kind) or pa.types.is_binary(kind) else kind
