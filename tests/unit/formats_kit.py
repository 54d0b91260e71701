"""Small data sets in every format, and a shelf to read them from."""

from __future__ import annotations

import csv
import gzip
import io
import json
import struct
import tarfile
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from trainkit.data import formats
from trainkit.data.formats import Format, Span
from trainkit.data.formats.records import MAGIC, crc32c, masked
from trainkit.data.items import Item, Listing
from trainkit.errors import StorageError

ROOT = "s3://bucket/train/"


class Shelf:
    """Objects in memory, and what was asked of them."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self.files = {ROOT + name: data for name, data in files.items()}
        self.asked: list[tuple[str, int, int]] = []
        self.listing = Listing(tuple(Item(url, len(data)) for url, data in sorted(self.files.items())), ROOT)

    def get(self, item: Item, start: int, length: int) -> bytes:
        data = self.files[item.url]
        if start < 0 or length < 0 or start + length > len(data):
            raise StorageError(f"{item.url}: {length} bytes from {start} are not there")
        self.asked.append((item.url.removeprefix(ROOT), start, length))
        return data[start : start + length]

    def find(self, content_type: str | None = None) -> Format:
        return formats.find(self.listing, self.get, content_type=content_type)

    def bytes_of(self, item: Item, span: Span) -> memoryview:
        return memoryview(self.get(item, span.start, span.length))

    def tables(self, columns: list[str] | None = None) -> list[pa.Table]:
        """Every span of every visible item, decoded."""
        found = self.find()
        return [
            found.decode(item, span, self.bytes_of(item, span), columns)
            for item in formats.visible(self.listing).items
            for span in found.spans(item, self.get)
        ]

    def whole(self, columns: list[str] | None = None) -> pa.Table:
        return pa.concat_tables(self.tables(columns))


class Sample(NamedTuple):
    """One item, the rows in it, and how many spans it has at least."""

    name: str
    data: bytes
    rows: list[dict[str, object]]
    spans: int = 2


def table(rows: int = 900, seed: int = 1) -> pa.Table:
    """About 2.3 MB."""
    rng = np.random.default_rng(seed)
    texts = [f"row {n}, 'ünïcode' " * (n % 5) for n in range(rows)]
    columns = {
        "id": pa.array(np.arange(rows)),
        "text": pa.array(texts),
        "score": pa.array([None if n % 7 == 0 else n / 3 for n in range(rows)], pa.float64()),
        "data": pa.array([rng.bytes(int(size)) for size in rng.integers(1, 5000, rows)], pa.binary()),
        "vector": pa.array([[n, n + 1] for n in range(rows)], pa.list_(pa.int32())),
        "kind": pa.array([("cat", "dog", "øre")[n % 3] for n in range(rows)]).dictionary_encode(),
    }
    return pa.table(columns)


def parquet(data: pa.Table, *, group: int = 200, compression: str = "zstd") -> bytes:
    out = io.BytesIO()
    pq.write_table(data, out, row_group_size=group, compression=compression)
    return out.getvalue()


def arrow(data: pa.Table, *, batch: int = 200, compression: str | None = None, rows: list[int] | None = None) -> bytes:
    out = pa.BufferOutputStream()
    told = None if rows is None else {b"trainkit.rows": json.dumps(rows).encode()}
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.ipc.new_file(out, data.schema, options=options, metadata=told) as writer:
        writer.write_table(data, max_chunksize=batch)
    return bytes(out.getvalue())


def stream(data: pa.Table, *, batch: int = 200, compression: str | None = None) -> bytes:
    out = pa.BufferOutputStream()
    with pa.ipc.new_stream(out, data.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_table(data, max_chunksize=batch)
    return bytes(out.getvalue())


def rows_of_text(count: int) -> list[dict[str, object]]:
    return [{"id": n, "text": f"sentence {n}, of “some” length; " * (n % 9), "score": n * 0.25} for n in range(count)]


def json_lines(rows: list[dict[str, object]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def comma(rows: list[dict[str, object]], *, delimiter: str = ",") -> bytes:
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


def tar(members: Mapping[str, bytes], *, kind: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=kind) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def recordio(records: list[bytes]) -> bytes:
    """As dmlc writes it: a record is split wherever it holds the magic number at a multiple of four."""
    out = bytearray()
    for record in records:
        places = [n for n in range(0, len(record) - 3, 4) if record[n : n + 4] == MAGIC]
        starts, ends = [0, *(n + 4 for n in places)], [*places, len(record)]
        for index, (start, end) in enumerate(zip(starts, ends, strict=True)):
            part = 0 if not places else 1 if index == 0 else 3 if index == len(places) else 2
            out += MAGIC + struct.pack("<I", part << 29 | end - start) + record[start:end] + bytes(-(end - start) % 4)
    return bytes(out)


def tfrecord(records: list[bytes]) -> bytes:
    def checked(data: bytes) -> bytes:
        return data + struct.pack("<I", masked(crc32c(data)))

    heads = [struct.pack("<Q", len(record)) for record in records]
    return b"".join(checked(head) + checked(record) for head, record in zip(heads, records, strict=True))


def samples() -> list[Sample]:
    """One of each. Most are of more than two blocks, so that they have several spans."""
    data = table()
    plain = data.to_pylist()
    rows = rows_of_text(12_000)
    lines = [str(row["text"]) for row in rows]
    quoted = [row | {"text": f'{row["text"]}\n"{n}"\r\n' if n % 5 == 0 else row["text"]} for n, row in enumerate(rows)]
    pictures = {f"class/{n:04}": {"jpg": bytes([n % 256]) * (n * 13 % 9000), "cls": b"%d" % n} for n in range(300)}
    members = {f"{key}.{name}": part for key, parts in pictures.items() for name, part in parts.items()}
    photographs: list[dict[str, object]] = [
        {"__key__": key, **dict(sorted(parts.items()))} for key, parts in pictures.items()
    ]
    records = [b"%d" % n * (n * 7 % 3000) + (MAGIC * (n % 3) if n % 10 == 0 else b"") for n in range(600)]
    recorded: list[dict[str, object]] = [{"data": record} for record in records]
    texts: list[dict[str, object]] = [{"text": line} for line in lines]
    picture = b"\xff\xd8" + bytes(range(200))
    return [
        Sample("rows.parquet", parquet(data), plain),
        Sample("rows.arrow", arrow(data), plain),
        Sample("told.arrow", arrow(data, rows=[200, 200, 200, 200, 100]), plain),
        Sample("packed.feather", arrow(data, compression="zstd"), plain),
        Sample("stream.arrow", stream(data), plain),
        Sample("packed.ipc", stream(data, compression="lz4"), plain),
        Sample("rows.jsonl", json_lines(rows), rows),
        Sample("rows.csv", comma(quoted), quoted),
        Sample("rows.tsv", comma(quoted, delimiter="\t"), quoted),
        Sample("lines.txt", "\n".join(lines).encode(), texts),
        Sample("rows.jsonl.gz", gzip.compress(json_lines(rows), 1), rows, 1),
        Sample("rows.csv.zst", pa.compress(comma(quoted), "zstd", asbytes=True), quoted, 1),
        Sample("lines.txt.gz", gzip.compress("\r\n".join(lines).encode(), 1), texts, 1),
        Sample("pictures.tar", tar(members), photographs),
        Sample("pictures.tar.gz", gzip.compress(tar(members), 1), photographs, 1),
        Sample("rows.rec", recordio(records), recorded),
        Sample("rows.tfrecord", tfrecord(records), recorded),
        Sample("one.jpg", picture, [{"path": "one.jpg", "data": picture, "label": None}], 1),
    ]  # fmt: skip
