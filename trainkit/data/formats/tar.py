"""WebDataset: tar archives in which the members of a sample lie side by side, under one name up to the first dot.

    0001.jpg 0001.json | 0002.jpg 0002.json | …        a row has `__key__` and a column of bytes for each extension

A tar has no index: its members' heads are read one after the other, which costs most of the item, once. A span is a
run of whole samples. The extensions are those of the first block; one that comes later is refused unless columns are
chosen, one that a sample lacks is null there. Folders, links, and members without an extension are passed over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pyarrow as pa

from trainkit.data.formats import runs
from trainkit.data.formats.base import BLOCK, NoRows, Span, counted, told, within, wrong
from trainkit.data.formats.tables import chosen
from trainkit.data.items import Get, Item

KEY = "__key__"
_UNIT = 512
_LONG_NAME, _LONG_LINK, _EXTENDED, _GLOBAL = b"LKxg"
_FILES = b"0\x007"
_EMPTY = b"123456"  # links, devices, folders: nothing is behind their heads, whatever these say
_LONGEST = 1 << 20  # bytes of a name

Read = Callable[[int, int], memoryview]


class _Part(NamedTuple):
    """A member that is part of a sample."""

    key: str
    extension: str
    begin: int
    """Where its head, or what extends it, begins."""
    start: int
    size: int

    @property
    def end(self) -> int:
        return self.start + -(-self.size // _UNIT) * _UNIT


@dataclass(frozen=True, slots=True)
class WebDataset:
    schema: pa.Schema
    name: str = "WebDataset"
    seeks: bool = True

    @classmethod
    def of(cls, items: Sequence[Item], get: Get) -> WebDataset:
        for item in items:
            extensions: set[str] = set()
            key = None
            for part in _parts(item, runs.Window(item, get), end=item.size):
                if extensions and part.begin > BLOCK and part.key != key:
                    break
                key = part.key
                extensions.add(part.extension)
            if extensions:
                binaries = [pa.field(extension, pa.large_binary()) for extension in sorted(extensions)]
                return cls(pa.schema([pa.field(KEY, pa.string()), *binaries]))
        raise NoRows.of(items[0])

    def learn(self, item: Item, get: Get) -> None:
        """A span says all."""

    def spans(self, item: Item, get: Get) -> Sequence[Span]:
        begins: list[int] = []
        key, end = None, 0
        for part in _parts(item, runs.Window(item, get), end=item.size):
            if part.key != key:
                begins.append(part.begin)
            key, end = part.key, part.end
        return runs.spans(begins, min(end, item.size))

    def decode(self, item: Item, span: Span, data: memoryview, columns: Sequence[str] | None) -> pa.Table:
        expected = chosen(self.schema, columns, item)
        keys: list[str] = []
        values: dict[str, list[memoryview | None]] = {name: [] for name in expected.names if name != KEY}
        for part in _parts(item, lambda start, length: data[start : start + length], end=len(data), offset=span.start):
            if not keys or part.key != keys[-1]:
                keys.append(part.key)
                for column in values.values():
                    column.append(None)
            if part.extension in values:
                if values[part.extension][-1] is not None:
                    raise wrong(item, f"{part.key} has two members .{part.extension}", "Give samples different names")
                values[part.extension][-1] = data[part.start : part.start + part.size]
            elif part.extension not in self.schema.names and columns is None:
                raise wrong(
                    item, f"{part.key} has a member .{part.extension}, and no sample of the first block has",
                    "Choose columns, or write a sample that has all of them first", at=within(span),
                )  # fmt: skip
        counted(item, span, len(keys))
        with told(item, "tar archive", at=within(span)):
            arrays = [
                pa.array(keys if name == KEY else values[name], expected.field(name).type) for name in expected.names
            ]
            return pa.Table.from_arrays(arrays, schema=expected)


def _parts(item: Item, read: Read, *, end: int, offset: int = 0) -> Iterator[_Part]:
    """The members that are parts of samples. Positions count from where `read` begins, which is at `offset`."""
    position, begin = 0, 0
    longer: dict[str, str] = {}
    while position < end:
        at = f"byte {offset + position}"
        with told(item, "tar archive", at=at, remedy="Write it again: it may be cut off"):
            head = bytes(read(position, _UNIT))
            if not any(head):
                return  # two units of nothing end an archive
            kind, size = head[156], _head(head)
            start = position + _UNIT
            size = int(longer.get("size", size))
            if size < 0 or start + size > end:
                raise ValueError("it ends within a member")
            if kind in (_LONG_NAME, _EXTENDED):
                if size > _LONGEST:
                    raise ValueError("a name that is longer than a megabyte")
                longer |= _longer(kind, bytes(read(start, size)))
            elif kind not in (_LONG_LINK, _GLOBAL):
                name, longer = longer.get("path") or _name(head), {}
                part = _Part(*_key(name), begin, start, size)
                if kind == ord("S"):
                    raise ValueError("a sparse member")
        position = start + (0 if kind in _EMPTY else -(-size // _UNIT) * _UNIT)
        if kind in (_LONG_NAME, _LONG_LINK, _EXTENDED, _GLOBAL):
            continue
        begin = position
        if kind in _FILES and part.extension:
            yield part


def _head(head: bytes) -> int:
    """The size that a member's head says. Raises ValueError where it is no head."""
    if len(head) < _UNIT:
        raise ValueError("it ends within a head")
    if _octal(head[148:156]) != sum(head) - sum(head[148:156]) + 8 * ord(" "):
        raise ValueError("the checksum of a head is wrong")
    size = head[124:136]
    return int.from_bytes(size[1:], "big") if size[0] == 0x80 else _octal(size)


def _octal(text: bytes) -> int:
    return int(text.partition(b"\0")[0].strip() or b"0", 8)


def _name(head: bytes) -> str:
    name = head[:100].partition(b"\0")[0].decode()
    prefix = head[345:500].partition(b"\0")[0].decode() if head[257:263] == b"ustar\0" else ""
    return f"{prefix}/{name}" if prefix else name


def _longer(kind: int, data: bytes) -> dict[str, str]:
    """What stands before a head for which that is too small: a name in GNU's way, or `length key=value` lines."""
    if kind == _LONG_NAME:
        return {"path": data.partition(b"\0")[0].decode()}
    found = {}
    while data.strip(b"\0"):
        length = int(data.partition(b" ")[0])
        if not 5 <= length <= len(data):
            raise ValueError("an extended head that ends too late")
        key, _, value = data[:length].partition(b" ")[2].partition(b"=")
        if key in (b"path", b"size"):
            found[key.decode()] = value.removesuffix(b"\n").decode()
        data = data[length:]
    return found


def _key(name: str) -> tuple[str, str]:
    """The sample's key, and the extension, in small letters as WebDataset has it; none where it is no part of one."""
    folder, slash, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    return f"{folder}{slash}{stem}", extension.lower() if stem else ""
