"""Rows out of a pipe's records: lines are parsed as those of files are, and what RecordIO wraps stays as it is."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from typing import TYPE_CHECKING

from trainkit.data.formats.base import BLOCK, Format, Span, wrong
from trainkit.data.formats.tables import chosen
from trainkit.data.items import Item
from trainkit.data.sources.fifo import Cut, full_lines, lines, recordio
from trainkit.data.sources.pipe import Records, Sample
from trainkit.errors import ConfigError, DataError, Mistake

if TYPE_CHECKING:
    import pyarrow as pa

_LINES = {
    "application/jsonlines": "JSON lines",
    "application/x-jsonlines": "JSON lines",
    "application/jsonl": "JSON lines",
    "application/x-ndjson": "JSON lines",
    "application/json": "JSON lines",
    "text/csv": "CSV",
    "text/tab-separated-values": "TSV",
    "text/plain": "text",
}
_RECORDS = ("application/x-recordio", "application/x-recordio-protobuf")


class Rows:
    """The rows of one channel. JSON lines and CSV are shown a sample first, which decides their columns and types."""

    def __init__(self, where: str, kind: str, columns: Sequence[str] | None) -> None:
        self._item = Item(where, 0)
        self._kind, self._columns = kind, columns
        self._format: Format | None = _fixed(kind)
        if self._format:
            self._check(self._format)

    @classmethod
    def of(
        cls, where: str, *, channel: str, said_by: str, content_type: str | None, wrapped: bool,
        columns: Sequence[str] | None,
    ) -> Rows:  # fmt: skip
        """Raises ConfigError where the channel does not say what its bytes are, DataError for a column it lacks."""
        plain = (content_type or "").partition(";")[0].strip().lower()
        kind = "RecordIO" if wrapped or plain in _RECORDS else _LINES.get(plain)
        if kind is None:
            problem = "does not say how a pipe's bytes are cut into rows"
            remedy = (
                f"Set {channel}.RecordWrapperType to RecordIO, or ContentType to application/jsonlines, text/csv, "
                f"text/plain or application/x-recordio; or have "
                f"the objects read directly: TRAINKIT_CHANNEL_<NAME>=s3://… or =job"
            )
            raise ConfigError([Mistake(said_by, f"{channel}.ContentType", content_type, problem, remedy)])
        return cls(where, kind, columns)

    @property
    def cut(self) -> Cut:
        return {"RecordIO": recordio, "text": lines}.get(self._kind, full_lines)

    @property
    def sample(self) -> int:
        """Bytes that are to be seen before the first row is parsed: as many as a file's types are taken from."""
        return 0 if self._format else BLOCK

    def learn(self, sample: Sample) -> None:
        """Of the first epoch; the columns stay then. Raises DataError where it has not those that are wanted."""
        if self._format:
            return
        data = bytes(sample.data)
        if self._kind != "JSON lines":
            data = _header(data, "," if self._kind == "CSV" else "\t") + data
        item = self._item = self._item._replace(size=len(data))
        found = _lines(self._kind, item, data) if sample.rows else None
        if found:
            self._check(found)
        self._format = found

    def table(self, records: Records) -> pa.Table:
        """The rows of one step. Raises DataError where they are none like the first ones."""
        import numpy as np
        import pyarrow as pa

        lengths = np.frombuffer(records.lengths, "<u8").astype(np.int64)
        if self._format is None:
            raise wrong(self._item, "brought no rows", "Compare the channel's prefix with the data's")
        if not len(lengths):  # a rank that has none of the last few
            return chosen(self._format.schema, self._columns, self._item).empty_table()
        if self._kind != "RecordIO":
            return self._format.decode(
                self._item, Span(0, len(records.data), len(lengths)), records.data, self._columns
            )
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        buffers = [None, pa.py_buffer(offsets), pa.py_buffer(records.data)]
        return pa.table([pa.Array.from_buffers(pa.large_binary(), len(lengths), buffers)], schema=self._format.schema)

    def _check(self, format: Format) -> None:
        for column in self._columns or ():
            if column not in format.schema.names:
                raise DataError(f"{self._item.url} has no column {column!r}; it has {', '.join(format.schema.names)}")


def _fixed(kind: str) -> Format | None:
    """Formats whose columns are always the same."""
    if kind == "text":
        from trainkit.data.formats.text import Text

        return Text()
    if kind == "RecordIO":
        from trainkit.data.formats.records import RECORDIO, Records

        return Records(RECORDIO)
    return None


def _lines(kind: str, item: Item, data: bytes) -> Format:
    def get(item: Item, start: int, length: int) -> bytes:
        return data[start : start + length]

    if kind == "JSON lines":
        from trainkit.data.formats.jsonl import JsonLines

        return JsonLines.of([item], get)
    from trainkit.data.formats.csv import Csv

    return Csv.of([item], get, delimiter="," if kind == "CSV" else "\t")


def _header(data: bytes, delimiter: str) -> bytes:
    """Names for columns that have none: the service's CSV has no header, and objects would bring theirs in between."""
    first = data.partition(b"\n")[0].decode(errors="replace")
    count = len(next(csv.reader([first], delimiter=delimiter), []))
    return delimiter.join(f"f{number}" for number in range(count)).encode() + b"\n"
