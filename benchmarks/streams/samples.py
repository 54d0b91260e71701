"""The data set, in every layout that a loader of streaming.py wants. Run by each layout's own interpreter, once.

    python benchmarks/streams/samples.py LAYOUT FOLDER SAMPLES SHARDS

A sample is {id, label, data}: random bytes, 4 to 100 KB of them, 25 KB on average, in 64 shards of about 8 MiB. What a
sample should be follows from its id, so one number says of a whole epoch that every byte of it came: `Check`.
"""

from __future__ import annotations

import io
import json
import random
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

_BLOCK = 1 << 20
_WORD = (1 << 64) - 1


class Sample(NamedTuple):
    id: int
    label: int
    data: bytes


class Check:
    """What has come so far: samples, bytes of data, and a sum that knows which bytes go with which id."""

    def __init__(self) -> None:
        self.samples = self.bytes = self.sum = 0

    def add(self, id: int, label: int, data: bytes) -> None:
        words = len(data) // 8
        total = int(np.frombuffer(data, np.uint64, words).sum()) + int.from_bytes(data[words * 8 :], "little")
        self.samples += 1
        self.bytes += len(data)
        self.sum = (self.sum + ((total + label) ^ (id * 0x9E3779B97F4A7C15)) % (_WORD + 1)) & _WORD

    def facts(self) -> dict[str, int]:
        return {"samples": self.samples, "bytes": self.bytes, "sum": self.sum}


def shards(samples: int, count: int) -> Iterator[tuple[int, list[Sample]]]:
    """Shard by shard, always the same."""
    sizes = np.random.default_rng(0).lognormal(np.log(21_400), 0.6, samples).clip(4_000, 100_000).astype(int)
    ends = [samples * shard // count for shard in range(count + 1)]
    for shard in range(count):
        ids = range(ends[shard], ends[shard + 1])
        yield shard, [Sample(id, id % 1000, random.Random(id).randbytes(int(sizes[id]))) for id in ids]


def _blocks(samples: list[Sample]) -> Iterator[list[Sample]]:
    """Runs of about 1 MiB."""
    block: list[Sample] = []
    for sample in samples:
        block.append(sample)
        if sum(len(one.data) for one in block) >= _BLOCK:
            yield block
            block = []
    if block:
        yield block


def check(folder: Path, samples: int, count: int) -> None:
    """Not a layout: what the whole of it sums up to."""
    whole = Check()
    for _, shard in shards(samples, count):
        for sample in shard:
            whole.add(*sample)
    (folder / "check.json").write_text(json.dumps(whole.facts()), encoding="ascii")


def parquet(folder: Path, samples: int, count: int) -> None:
    """zstd, pyarrow's defaults, row groups of about 1 MiB."""
    import pyarrow.parquet as pq

    for number, shard in shards(samples, count):
        tables = [_table(block) for block in _blocks(shard)]
        with pq.ParquetWriter(folder / f"{number:05}.parquet", tables[0].schema, compression="zstd") as writer:
            for table in tables:
                writer.write_table(table)


def arrow(folder: Path, samples: int, count: int, *, told: bool = False) -> None:
    """IPC files, record batches of about 1 MiB. `told`: how many rows each has stands in the footer."""
    import pyarrow as pa

    for number, shard in shards(samples, count):
        batches = [_table(block).combine_chunks().to_batches()[0] for block in _blocks(shard)]
        rows = {"trainkit.rows": json.dumps([batch.num_rows for batch in batches])} if told else None
        with pa.ipc.new_file(folder / f"{number:05}.arrow", batches[0].schema, metadata=rows) as writer:
            for batch in batches:
                writer.write_batch(batch)


def packed(folder: Path, samples: int, count: int) -> None:
    arrow(folder, samples, count, told=True)


def tar(folder: Path, samples: int, count: int) -> None:
    """As WebDataset wants it: id.id, id.cls, id.bin."""
    for number, shard in shards(samples, count):
        with tarfile.open(folder / f"{number:05}.tar", "w") as archive:
            for id, label, data in shard:
                for kind, content in (("id", b"%d" % id), ("cls", b"%d" % label), ("bin", data)):
                    member = tarfile.TarInfo(f"{id:08}.{kind}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))


def mds(folder: Path, samples: int, count: int) -> None:
    """Mosaic's, uncompressed."""
    import loaders

    loaders.stand_in()
    from streaming import MDSWriter

    columns = {"id": "int", "label": "int", "data": "bytes"}
    with MDSWriter(out=str(folder), columns=columns, size_limit=8 << 20) as writer:
        for _, shard in shards(samples, count):
            for sample in shard:
                writer.write(sample._asdict())


def litdata(folder: Path, samples: int, count: int) -> None:
    """LitData's chunks, uncompressed."""
    from litdata.streaming.cache import Cache

    cache = Cache(str(folder), chunk_bytes=8 << 20)
    for _, shard in shards(samples, count):
        for sample in shard:
            cache[sample.id] = sample._asdict()
    cache.done()
    cache.merge()


def _table(samples: list[Sample]) -> object:
    import pyarrow as pa

    schema = pa.schema({"id": pa.int64(), "label": pa.int64(), "data": pa.binary()})
    return pa.Table.from_pylist([sample._asdict() for sample in samples], schema=schema)


LAYOUTS: dict[str, Callable[[Path, int, int], None]] = {
    made.__name__: made for made in (check, parquet, arrow, packed, tar, mds, litdata)
}

if __name__ == "__main__":
    LAYOUTS[sys.argv[1]](Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
