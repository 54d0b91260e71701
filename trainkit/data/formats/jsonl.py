"""JSON lines: each line is an object, each of its keys a column; a key that a row lacks is null there.

The types are those of the first block, and hold for all: a later value that does not fit is refused. So is a key that
the first block does not have, unless columns are chosen. Texts that look like dates stay texts: that the first ones
look so says nothing about the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.json

from trainkit.data.formats import lines
from trainkit.data.formats.base import BLOCK, NoRows, Span, counted, said, told, within, wrong
from trainkit.data.formats.tables import chosen, conformed, misfit, plain
from trainkit.data.items import Get, Item

_REMEDY = (
    "Write that value as in the first rows, which decide the types; or begin with rows that have all keys;"
    " or choose other columns"
)


@dataclass(frozen=True, slots=True)
class JsonLines:
    schema: pa.Schema
    first: Item
    name: str = "JSON lines"
    seeks: bool = True

    @classmethod
    def of(cls, items: Sequence[Item], get: Get) -> JsonLines:
        for item in items:
            begin = lines.start(item, get)
            for span in lines.spans(item, get, begin=begin, quoted=False, blank=lines.Blank.WHITE, window=BLOCK):
                data = memoryview(get(item, span.start, span.length))
                if bytes(data[:64]).lstrip()[:1] == b"[":
                    raise wrong(
                        item, "is one JSON list", "Write each of its objects in a line of its own (jq -c '.[]')"
                    )
                table = _parsed(item, span, data, None, first=item, all_keys=True)
                with told(item, "JSON lines"):  # keys are text only when someone asks for them
                    settled = _settled(table.schema)
                return cls(plain(settled, item), item)
        raise NoRows.of(items[0])

    def learn(self, item: Item, get: Get) -> None:
        """A span says all."""

    def spans(self, item: Item, get: Get) -> Sequence[Span]:
        return list(lines.spans(item, get, begin=lines.start(item, get), quoted=False, blank=lines.Blank.WHITE))

    def decode(self, item: Item, span: Span, data: memoryview, columns: Sequence[str] | None) -> pa.Table:
        expected = chosen(self.schema, columns, item)
        table = _parsed(item, span, data, expected, first=self.first, all_keys=columns is None)
        counted(item, span, table.num_rows, remedy="Write one object in each line")
        return table


def _parsed(
    item: Item, span: Span, data: memoryview, expected: pa.Schema | None, *, first: Item, all_keys: bool
) -> pa.Table:
    unexpected = "infer" if expected is None else "error" if all_keys else "ignore"

    def parse(part: memoryview) -> pa.Table:
        table = _read(part, expected, unexpected)
        return table if expected is None else conformed(table, expected)

    try:
        return parse(data)
    except (pa.ArrowException, ValueError, LookupError, OSError, OverflowError) as error:
        refused = lines.first_refused(data, lines.row_ends(data, quoted=False), parse)
        at = f"byte {span.start + refused.offset} (line {refused.row + 1} of {within(span)})"
        why = "" if expected is None else _misfit(refused.data, item, first=first, expected=expected, all_keys=all_keys)
        raise wrong(item, f"{why or 'is no row like the first ones'} ({said(error)})", _REMEDY, at=at) from error


def _read(part: memoryview, expected: pa.Schema | None, unexpected: str) -> pa.Table:
    return pa.json.read_json(
        pa.BufferReader(pa.py_buffer(part)),
        # As one block, on this thread: the caller has several, and each parses another span.
        pa.json.ReadOptions(use_threads=False, block_size=len(part) + 1),
        pa.json.ParseOptions(expected, unexpected_field_behavior=unexpected),
    )


def _misfit(row: memoryview, item: Item, *, first: Item, expected: pa.Schema, all_keys: bool) -> str:
    try:
        found = _settled(_read(row, None, "infer").schema)
        if not all_keys:
            found = pa.schema([field for field in found if field.name in expected.names])
        return misfit(found, item, first=first, expected=expected)
    except (pa.ArrowException, ValueError, LookupError, OSError, OverflowError):
        return ""  # it is no JSON, which was said


def _settled(schema: pa.Schema) -> pa.Schema:
    return pa.schema([pa.field(field.name, _kind(field.type)) for field in schema])


def _kind(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_temporal(kind):
        return pa.string()
    if pa.types.is_list(kind):
        return pa.list_(_kind(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(field.name, _kind(field.type)) for field in kind])
    return kind
