"""All rows through the transform, into Parquet by split.

An engine makes the table and looks words up, batch by batch; numpy computes with numbers, and pyarrow writes row groups
of about 1 MiB (decoded), which training streams fetch and mix one by one. Rows come in the order in which threads
finish them: with joins, and more than one thread, duckdb keeps none. Its own COPY would hold a buffer for each split
and thread: more memory, for the same CPU time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from trainkit.processing.features import batches, declared, sql
from trainkit.processing.features.artifact import Applied
from trainkit.processing.features.declared import RESERVED
from trainkit.processing.features.engine import TABLE, arriving, asked
from trainkit.processing.features.sql import DUCKDB
from trainkit.storage import commit

GROUP = 1 << 20  # bytes of a row group, decoded
FILE = 128 << 20  # bytes of a file, decoded
_NUMERIC = declared.Standardize | declared.Log1p | declared.Bucketize
SPLIT, SAMPLE = f"{RESERVED}_split", f"{RESERVED}_sample"
SAMPLED = 200_000
"""Rows, about, that the report's histograms are made of."""


@dataclass(slots=True)
class Written:
    """One split as it was written."""

    rows: int = 0
    files: list[str] = field(default_factory=list)
    bytes: list[int] = field(default_factory=list)
    """How long each file is."""
    unknown: dict[str, int] = field(default_factory=dict)
    """Of each vocabulary: rows (of Tokens: tokens) that are not in it."""
    known: dict[str, int] = field(default_factory=dict)
    sample: list[pa.RecordBatch] = field(default_factory=list)


def write(
    connection: Any, applied: Applied, *, kept: Sequence[str], splits: Sequence[str], into: Path,
    rows: int, sampled: Sequence[str], went: Callable[[int], None], host: str = "",
) -> dict[str, Written]:  # fmt: skip
    """Write `into/<split>/part-00000.parquet`, …; `sampled`: columns of the table that the report wants rows of.

    `host`: is in the files' names, `part-<host>-00000.parquet`, where several hosts write for one output. `went` hears
    how many rows are through. Raises DataError where a value does not fit.
    """
    statement = prepared(connection, applied, kept=kept, rows=rows, sampled=sampled)
    return through(
        arriving(connection, statement, "transforming"), applied, splits=splits, into=into, went=went, host=host
    )


def through(
    batches: Iterable[pa.RecordBatch], applied: Applied, *, splits: Sequence[str], into: Path,
    went: Callable[[int], None] = lambda done: None, host: str = "",
) -> dict[str, Written]:  # fmt: skip
    """Write what an engine made, as `write` does. The first batch tells the schema, and may be without rows.

    A split without rows is a file without rows.
    """
    with ExitStack() as stack:
        finish = _Finish(applied)
        outs = [_Split(name, into / name, applied, stack, host=host) for name in splits]
        done = 0
        for batch in batches:
            table = finish(batch)
            _deal(table, outs)
            went(done := done + batch.num_rows)
        for out in outs:
            out.end(table.schema)
            out.written.bytes = [(out.folder / name).stat().st_size for name in out.written.files]
    return {out.name: out.written for out in outs}


def schema_of(connection: Any, applied: Applied, *, kept: Sequence[str]) -> pa.Schema:
    """Of the batches that duckdb makes: another engine's are cast to it, so that the files are alike."""
    statement = prepared(connection, applied, kept=kept, rows=1, sampled=())
    return connection.sql(f"SELECT * FROM (\n{statement}\n) LIMIT 0").to_arrow_reader(1).schema


def prepared(connection: Any, applied: Applied, *, kept: Sequence[str], rows: int, sampled: Sequence[str]) -> str:
    """The statement that transforms everything, its vocabularies laid as tables."""
    for place, (one, learnt) in enumerate(zip(applied.transforms, applied.fitted, strict=True)):
        if isinstance(one, declared.Vocabulary | declared.OneHot):
            name, words = sql.vocabulary(place), pa.array(learnt.words, pa.string())
            held = pa.table({sql.VALUE: words, sql.CODE: pa.array(range(2, len(words) + 2), pa.int32())})
            connection.register(f"{name}_given", held)
            asked(connection, f"CREATE OR REPLACE TEMP TABLE {name} AS SELECT * FROM {name}_given", "the vocabularies")
            connection.unregister(f"{name}_given")
    every = max(1, rows // SAMPLED)
    more = []
    if sampled:
        inside = ", ".join(f"{DUCKDB.string(name)}: {DUCKDB.quoted(name)}" for name in sampled)
        chosen = "TRUE" if every == 1 else f"hash({', '.join(map(DUCKDB.quoted, sampled))}) % {every} = 0"
        more.append((SAMPLE, f"CASE WHEN {chosen} THEN {{{inside}}} END"))
    return sql.features(
        applied.transforms, applied.split, kept, table=TABLE, kinds=applied.kinds, fitted=applied.fitted,
        dialect=DUCKDB, more=more,
    )  # fmt: skip


class _Finish:
    """What is done to an engine's batches: numbers, tokens to codes, lists to lists of one length."""

    def __init__(self, applied: Applied) -> None:
        both = tuple(zip(applied.transforms, applied.fitted, strict=True))
        self.numbers = [(one, learnt, applied.kinds[one.column]) for one, learnt in both if isinstance(one, _NUMERIC)]
        self.hot = {one.output: len(learnt.words) for one, learnt in both if isinstance(one, declared.OneHot)}
        self.tokens = {
            one.output: (one.length, pa.array(learnt.words, pa.string()))
            for one, learnt in both
            if isinstance(one, declared.Tokens)
        }

    def __call__(self, batch: pa.RecordBatch) -> pa.Table:
        columns = dict(zip(batch.schema.names, batch.columns, strict=True))
        for one, learnt, kind in self.numbers:
            columns[one.output] = pa.array(batches.numbers(one, learnt, batches.floats(columns[one.output], kind)))
        table = pa.table(columns)
        for name, length in self.hot.items():
            flat = pc.list_flatten(table[name].combine_chunks()).cast(pa.int8())
            table = _with(table, name, _lists(flat, [length] * len(table)))
        for name, (length, words) in self.tokens.items():
            table = _with(table, name, _codes(table[name].combine_chunks(), words, length))
        return table


def _codes(tokens: pa.ListArray, words: pa.Array, length: int) -> pa.ListArray:
    counts = pc.list_value_length(tokens).to_numpy(zero_copy_only=False)
    places = pc.fill_null(pc.index_in(pc.list_flatten(tokens), words), -1).to_numpy(zero_copy_only=False) + 2
    padded = np.zeros((len(tokens), length), np.int32)
    padded[np.arange(length) < counts[:, None]] = np.maximum(places, 1)
    return _lists(pa.array(padded.reshape(-1)), [length] * len(tokens))


def _lists(flat: pa.Array, lengths: Sequence[int]) -> pa.ListArray:
    offsets = np.zeros(len(lengths) + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    return pa.ListArray.from_arrays(pa.array(offsets), flat)


def _with(table: pa.Table, name: str, column: pa.Array) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, column)


class _Split:
    """One split's files, and what is counted on the way."""

    def __init__(self, name: str, folder: Path, applied: Applied, stack: ExitStack, *, host: str) -> None:
        self.name, self.folder, self.written = name, folder, Written()
        self._part = f"part-{host}-" if host else "part-"
        self._metadata = {"trainkit.features": applied.hash}
        self._vocabularies = [
            one for one in applied.transforms if isinstance(one, declared.Vocabulary | declared.Tokens)
        ]
        self._file, self._size = ExitStack(), 0
        self._writer: Any = None
        self._held: list[pa.Table] = []
        self._held_bytes = 0
        stack.push(self._file.__exit__)

    def take(self, table: pa.Table) -> None:
        self._count(table)
        self._held.append(_without_ours(table))
        self._held_bytes += self._held[-1].nbytes
        if self._held_bytes >= GROUP:
            self._flush()

    def end(self, schema: pa.Schema) -> None:
        self._flush()
        if self._writer is None and not self.written.files:  # a split without rows is a file without rows
            self._open(_without_ours(schema.empty_table()).schema)
        self._file.close()

    def _flush(self) -> None:
        if not self._held:
            return
        table = pa.concat_tables(self._held)
        groups = max(1, round(self._held_bytes / GROUP))
        if self._writer is None:
            self._open(table.schema)
        self._writer.write_table(table, row_group_size=-(-len(table) // groups))
        self.written.rows += len(table)
        self._size += self._held_bytes
        self._held, self._held_bytes = [], 0
        if self._size >= FILE:
            self._file.close()
            self._writer, self._size = None, 0

    def _open(self, schema: pa.Schema) -> None:
        name = f"{self._part}{len(self.written.files):05}.parquet"
        self.written.files.append(name)
        scratch = self._file.enter_context(commit.committed(self.folder / name))
        # Dictionaries pay where values repeat: codes and words, not floats or keys.
        alone = (pa.types.is_floating, pa.types.is_list, pa.types.is_int64)
        repeating = [one.name for one in schema if not any(is_one(one.type) for is_one in alone)]
        plain = schema.with_metadata(self._metadata)
        self._writer = self._file.enter_context(
            pq.ParquetWriter(scratch, plain, use_dictionary=repeating, compression="snappy")
        )

    def _count(self, table: pa.Table) -> None:
        for one in self._vocabularies:
            column = table[one.output]
            codes = pc.list_flatten(column) if isinstance(one, declared.Tokens) else column
            unknown = pc.sum(pc.equal(codes, 1)).as_py() or 0
            present = pc.sum(pc.greater(codes, 0)).as_py() or 0
            self.written.unknown[one.output] = self.written.unknown.get(one.output, 0) + unknown
            self.written.known[one.output] = self.written.known.get(one.output, 0) + present - unknown


def _deal(table: pa.Table, outs: Sequence[_Split]) -> None:
    place = table[SPLIT]
    if SAMPLE in table.column_names:  # taken out first, so that few of its rows are sorted by split
        chosen = table.select([SPLIT, SAMPLE]).filter(pc.is_valid(table[SAMPLE]))
        for number, out in enumerate(outs):
            rows = chosen[SAMPLE].filter(pc.equal(chosen[SPLIT], number)).combine_chunks()
            out.written.sample += [pa.RecordBatch.from_struct_array(rows)] if len(rows) else []
        table = table.drop_columns([SAMPLE])
    for number, out in enumerate(outs):
        mine = table.filter(pc.equal(place, number)) if len(outs) > 1 else table
        if len(mine):
            out.take(mine)


def _without_ours(table: pa.Table) -> pa.Table:
    return table.drop_columns([name for name in table.column_names if name.startswith(RESERVED)])


def manifest(
    applied: Applied, written: Mapping[str, Written], *, key: str, report: bool, failed: Sequence[str]
) -> dict[str, Any]:
    """What MANIFEST.json says: which artifact made the rows, of what, and what there is."""
    splits = {name: {"rows": one.rows, "files": one.files, "bytes": one.bytes} for name, one in written.items()}
    return {"artifact": applied.hash, "key": key, "splits": splits, "report": report, "failed_checks": list(failed)}
