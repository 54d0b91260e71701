"""One shard as it is written: blocks go in, the file's bytes come out, piece by piece.

What is in a file stands at its end, and a stream reads all ends before its first row. So these are kept short, and
say all that a stream wants to know.
"""

from __future__ import annotations

import json
import struct
from typing import Any, Literal, NamedTuple, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from trainkit.data.formats.arrow import ROWS
from trainkit.data.formats.flatbuffer import Table

Kind = Literal["arrow", "parquet"]
KINDS: tuple[Kind, ...] = ("arrow", "parquet")
_MOST_DENSE = 16.0


class Shard(Protocol):
    """A file in the making. `dense`: how many bytes of a table become one byte here, as far as is known."""

    dense: float

    def write(self, block: pa.Table) -> bytes:
        """The next bytes of the file, with this block in it; no row of another one is fetched with it."""

    def end(self) -> bytes:
        """The last ones."""


def shard(kind: Kind, schema: pa.Schema, *, dense: float) -> Shard:
    """An empty one. `dense` is what the one before it found. Raises pyarrow's errors for what a format cannot hold."""
    return ArrowShard(schema) if kind == "arrow" else ParquetShard(schema, dense)


class _Sink:
    """A file, as pyarrow sees it; what was written is taken out."""

    closed = False

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def write(self, piece: Any) -> int:
        self._pieces.append(bytes(piece))
        return len(self._pieces[-1])

    def flush(self) -> None:
        """Nothing waits."""

    def close(self) -> None:
        self.closed = True

    def taken(self) -> bytes:
        taken = b"".join(self._pieces)
        self._pieces.clear()
        return taken


class ArrowShard:
    """A block is a record batch, not compressed: decoding it is no work. The footer has the rows of each."""

    dense = 1.0

    def __init__(self, schema: pa.Schema) -> None:
        self._sink = _Sink()
        self._writer = pa.ipc.new_file(self._sink, schema)
        self._rows: list[int] = []

    def write(self, block: pa.Table) -> bytes:
        for batch in block.combine_chunks().to_batches():
            self._writer.write_batch(batch)
            self._rows.append(batch.num_rows)
        return self._sink.taken()

    def end(self) -> bytes:
        self._writer.close()
        return _with_rows(self._sink.taken(), self._rows)


class ParquetShard:
    """A block is a row group, compressed with zstd."""

    def __init__(self, schema: pa.Schema, dense: float) -> None:
        self.dense = dense
        self._sink = _Sink()
        # The smallest and largest values of each row group would lie in the footer: kilobytes of every image.
        self._writer = pq.ParquetWriter(
            self._sink, schema, compression="zstd", write_statistics=False, write_page_checksum=True
        )

    def write(self, block: pa.Table) -> bytes:
        self._writer.write_table(block, row_group_size=block.num_rows)
        written = self._sink.taken()
        # Where a megabyte becomes a kilobyte, the rest of the data need not be so, and a block lies in memory.
        self.dense = min(_MOST_DENSE, max(1.0, block.nbytes / len(written)))
        return written

    def end(self) -> bytes:
        self._writer.close()
        return self._sink.taken()


class _Part(NamedTuple):
    """Where a part of the old footer is, and the number of its field."""

    field: int
    position: int | None


def _with_rows(ending: bytes, rows: list[int]) -> bytes:
    """The end of an Arrow file whose footer says the rows of each batch, too.

    pyarrow 21 takes such metadata, but before the first batch, when nobody knows them. So the footer is extended: a
    new table goes before the old one, and points into it; the new key and its value come behind.
    """
    length = int.from_bytes(ending[-10:-6], "little")
    old = ending[-10 - length : -10]
    root = Table.root(memoryview(old))
    front = 48  # a multiple of 8, so that what was aligned stays so
    parts = [_Part(field, root.target(field)) for field in (1, 2, 3)]  # schema, dictionaries, batches
    pairs = front + -(-len(old) // 4) * 4
    fields = [4, *(0 if part.position is None else 4 + 4 * part.field for part in parts), 20]
    names = struct.pack("<HH5H2x", 14, 24, *fields)
    places = [0 if part.position is None else front + part.position - (20 + 4 + 4 * part.field) for part in parts]
    table = struct.pack("<ih2x4I", 16, root.number(0, "h"), *places, pairs - 40)
    footer = struct.pack("<I", 20) + names + table
    footer = footer.ljust(front, b"\0") + old.ljust(pairs - front, b"\0") + _pair(ROWS, json.dumps(rows))
    return ending[: -10 - length] + footer + struct.pack("<i", len(footer)) + ending[-6:]


def _pair(key: str, value: str) -> bytes:
    """A list of one pair of texts, as a flatbuffer."""
    name, text = _text(key), _text(value)
    # list: 1, where the pair is · what the pair has where: 8 bytes · the pair: back to that, key, value · the texts
    head = struct.pack("<II4HiII", 1, 12, 8, 12, 4, 8, 8, 8, 4 + len(name))
    return head + name + text


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<I", len(data)) + data + bytes(4 - len(data) % 4)
