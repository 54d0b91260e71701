"""The messages that Arrow IPC is made of: a head, which says how long the body behind it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

from trainkit.data.formats.base import told
from trainkit.data.formats.flatbuffer import Table
from trainkit.data.items import Get, Item

HEAD = 1 << 12
"""Bytes read for the head of a message: enough for dozens of columns."""
CONTINUES = b"\xff\xff\xff\xff"
SCHEMA, DICTIONARY, BATCH = 1, 2, 3


class Message(NamedTuple):
    kind: int
    length: int
    """Bytes of head and body."""
    rows: int
    """Of a record batch; else 0."""

    @classmethod
    def read(cls, head: memoryview, length: int) -> Message:
        """`head` is at least `length` bytes, as `head_length` says. Raises ValueError."""
        start = 8 if bytes(head[:4]) == CONTINUES else 4
        table = Table.root(head[start:length])
        kind, body = table.number(1, "B"), table.number(3, "q")
        batch = table.table(2) if kind == BATCH else None
        rows = batch.number(0, "q") if batch else 0
        if rows < 0 or body < 0:
            raise ValueError("a message of negative length")
        return cls(kind, length + body, rows)


def head_length(data: memoryview) -> int:
    """Bytes of a message's head, its prefix among them; 0 where the stream ends. Writers before 2019 left the
    four bytes out that begin it today."""
    today = bytes(data[:4]) == CONTINUES
    if len(data) < (8 if today else 4):
        raise ValueError("it is cut off")
    length = int.from_bytes(data[4:8] if today else data[:4], "little")
    return length + (8 if today else 4) if length else 0


def walk(item: Item, get: Get) -> Iterator[tuple[int, Message, Callable[[], memoryview]]]:
    """Each message of a stream: where it begins, what it is, and a call that reads the whole of it."""
    position = 0
    while position < item.size:
        with told(item, "Arrow IPC stream", at=f"byte {position}", remedy="Write it again: it may be cut off"):
            head = memoryview(get(item, position, min(HEAD, item.size - position)))
            length = head_length(head)
            if not length:
                return
            if position + length > item.size:
                raise ValueError("it ends within a message")
            if length > len(head):
                head = memoryview(get(item, position, length))
            message = Message.read(head, length)
            if position + message.length > item.size:
                raise ValueError("it ends within a message")
        yield position, message, partial(_whole, item, get, position, message.length)
        position += message.length


def _whole(item: Item, get: Get, start: int, length: int) -> memoryview:
    return memoryview(get(item, start, length))
