"""Arrow IPC, files and streams (Feather V2 is the file): a span is a record batch.

A file's footer says where batches lie, but not how many rows they have: that stands at the head of each, and costs a
short read for each. A writer may save us that by putting the key `trainkit.rows` into the footer, a JSON list of the
batches' rows; `data pack` does. A stream has no footer: each batch says where the next one begins, so its spans are
found by reads that wait for each other.

Decoding is no work where the body is not compressed: the table lies in the bytes that were fetched. To pyarrow each
span is a stream of its own: the schema, the dictionaries, one batch.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from trainkit.data.formats import arrow_messages as messages
from trainkit.data.formats.base import Span, counted, told, within, wrong
from trainkit.data.formats.flatbuffer import Table
from trainkit.data.formats.sparse import SparseFile
from trainkit.data.formats.tables import agreed, chosen, conformed, plain
from trainkit.data.items import Get, Item

ROWS = "trainkit.rows"
_TAIL = 1 << 16  # bytes read first, at the end
_AT_ONCE = 16  # heads of batches on their way
_MAGIC = b"ARROW1"
_BLOCK = np.dtype([("offset", "<i8"), ("head", "<i4"), ("", "<i4"), ("body", "<i8")])


class _Known(NamedTuple):
    """What decoding needs to know of an item."""

    schema: pa.Schema
    head: bytes
    """The message that says the schema."""
    dictionaries: tuple[tuple[int, bytes], ...]
    """The messages that have dictionaries, after the offsets from which on they hold."""


_Found = tuple[_Known, tuple[Span, ...]]
"""An item, and its batches; with -1 rows where these are not known yet."""


@dataclass(slots=True)
class Arrow:
    first: Item
    schema: pa.Schema
    name: str = "Arrow IPC"
    seeks: bool = True
    _known: dict[Item, _Known] = field(default_factory=dict)
    _fresh: dict[Item, tuple[Span, ...]] = field(default_factory=dict)
    """Batches that were met on the way, until someone asks for them."""

    @classmethod
    def of(cls, items: Sequence[Item], get: Get) -> Arrow:
        first = items[0]
        known, batches = _learned(first, get)
        return cls(first, plain(known.schema, first), _known={first: known}, _fresh={first: batches})

    def learn(self, item: Item, get: Get) -> None:
        if item not in self._known:
            self._batches(item, get)

    def spans(self, item: Item, get: Get) -> Sequence[Span]:
        fresh = self._fresh.pop(item, None)
        found = self._batches(item, get) if fresh is None else fresh
        if any(span.rows < 0 for span in found):
            with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="spans") as pool:
                rows = list(pool.map(lambda span: _rows(item, span, get), found))
            found = tuple(span._replace(rows=count) for span, count in zip(found, rows, strict=True))
        return [span for span in found if span.rows]

    def _batches(self, item: Item, get: Get) -> tuple[Span, ...]:
        known, batches = _learned(item, get)
        agreed(plain(known.schema, item), item, first=self.first, expected=self.schema)
        self._known[item] = known
        return batches

    def decode(self, item: Item, span: Span, data: memoryview, columns: Sequence[str] | None) -> pa.Table:
        expected = chosen(self.schema, columns, item)
        known = self._known[item]
        dictionaries = [message for start, message in known.dictionaries if start <= span.start]
        with told(item, "record batch", at=within(span)):
            source = pa.PythonFile(SparseFile.joined([known.head, *dictionaries, data]), mode="r")
            wanted = [] if columns is None else [known.schema.get_field_index(name) for name in expected.names]
            options = pa.ipc.IpcReadOptions(use_threads=False, included_fields=wanted)
            with pa.ipc.open_stream(source, options=options) as reader:
                table = conformed(pa.Table.from_batches([reader.read_next_batch()]), expected)
        counted(item, span, table.num_rows)
        return table


def _learned(item: Item, get: Get) -> _Found:
    start = max(0, item.size - _TAIL)
    tail = memoryview(get(item, start, item.size - start))
    if bytes(tail[-6:]) == _MAGIC and item.size > 20:
        return _file(item, tail, get)
    head = bytes(get(item, 0, min(item.size, 8)))
    if head[:4] == messages.CONTINUES:
        return _stream(item, get)
    if head[:6] == _MAGIC:
        raise wrong(item, "begins as an Arrow file and does not end as one", "Write it again: it is cut off")
    if head[:4] == b"FEA1":
        raise wrong(item, "is Feather of version 1", "Write it with pyarrow.feather.write_feather, version 2")
    raise wrong(item, "is no Arrow IPC file, and no stream", "Name it by what it is, or take it out")


def _file(item: Item, tail: memoryview, get: Get) -> _Found:
    length = int.from_bytes(tail[-10:-6], "little") + 10
    if length + 8 > item.size:
        raise wrong(item, f"its footer would be {length - 10} bytes long, more than there are", "Write it again")
    if length > len(tail):
        tail = memoryview(b"".join((get(item, item.size - length, length - len(tail)), tail)))
    with told(item, "Arrow IPC file"):
        source = pa.PythonFile(SparseFile({item.size - len(tail): tail}, size=item.size), mode="r")
        schema = pa.ipc.open_file(source).schema
        footer = Table.root(tail[-length:-10])
        written = footer.table(1)
        if written is None or written.number(0, "h"):
            raise ValueError("its numbers are written with the high byte first")
        dictionaries = _blocks(footer, 2, end=item.size - length)
        batches = _blocks(footer, 3, end=item.size - length)
        rows = _told_rows(footer, len(batches))
        batches = tuple(span._replace(rows=count) for span, count in zip(batches, rows, strict=True))
    # Dictionaries have numbers, which pyarrow does not keep when it writes a schema: the file's own says them.
    ends = min((span.start for span in dictionaries + batches), default=8)
    with told(item, "Arrow IPC file"):
        head = bytes(get(item, 8, ends - 8)) if dictionaries else schema.serialize().to_pybytes()
    found = tuple((0, bytes(get(item, span.start, span.length))) for span in dictionaries)
    return _Known(schema, head, found), batches


def _blocks(footer: Table, number: int, *, end: int) -> tuple[Span, ...]:
    found = np.frombuffer(footer.structs(number, _BLOCK.itemsize), _BLOCK)
    spans = tuple(Span(int(block["offset"]), int(block["head"]) + int(block["body"]), -1) for block in found)
    if any(span.start < 8 or span.length < 8 or span.start + span.length > end for span in spans):
        raise ValueError("a record batch would lie outside of the file")
    return spans


def _told_rows(footer: Table, count: int) -> list[int]:
    """The rows of each batch where the footer says them, and -1 for each where it does not."""
    told_by = {pair.text(0): pair for pair in footer.tables(4)}
    if ROWS not in told_by:
        return [-1] * count
    rows = json.loads(told_by[ROWS].text(1))
    if not isinstance(rows, list) or len(rows) != count or not all(type(n) is int and n >= 0 for n in rows):
        raise ValueError(f"{ROWS} in its footer is no list of {count} numbers of rows")
    return rows


def _rows(item: Item, span: Span, get: Get) -> int:
    """What the head of a record batch says about its rows."""
    with told(item, "record batch", at=within(span)):
        head = memoryview(get(item, span.start, min(span.length, messages.HEAD)))
        length = messages.head_length(head)
        if length > len(head):
            if length > span.length:
                raise ValueError("its head is longer than the whole")
            head = memoryview(get(item, span.start, length))
        return messages.Message.read(head, length).rows


def _stream(item: Item, get: Get) -> _Found:
    """Hop from message to message."""
    head, schema = b"", None
    dictionaries: list[tuple[int, bytes]] = []
    batches: list[Span] = []
    for start, message, data in messages.walk(item, get):
        if message.kind == messages.SCHEMA and schema is None:
            head = bytes(data())
            with told(item, "Arrow IPC stream"):
                schema = pa.ipc.read_schema(pa.py_buffer(head))
        elif message.kind == messages.DICTIONARY:
            dictionaries.append((start, bytes(data())))
        elif message.kind == messages.BATCH and schema is not None:
            batches.append(Span(start, message.length, message.rows))
        else:
            raise wrong(item, "a message is none that a stream of tables has", "Write it again", at=f"byte {start}")
    if schema is None:
        raise wrong(item, "is a stream without a schema", "Write it again")
    return _Known(schema, head, tuple(dictionaries)), tuple(batches)
