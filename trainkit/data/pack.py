"""Data written anew, in blocks that are good to fetch and to mix: same rows, same order.

    source ─▶ blocks as they lie ─▶ tables, a few ahead ─▶ blocks of about 1 MiB ─▶ shards ─▶ DEST/part-000000.arrow …
              by threads: fetch, decode                     cut and joined          each whole or not at all

As long as it goes on, `_trainkit-packing` lies beside the shards: nobody else packs there, and no stream takes what a
killed process left for all there is. What fails takes its shards with it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import TypeVar

import pyarrow as pa

from trainkit.contract.secrets import scrub
from trainkit.data import formats
from trainkit.data.fetch.choose import open_fetcher
from trainkit.data.formats.base import said
from trainkit.data.index import Index
from trainkit.data.items import Get, Item, Listing
from trainkit.data.open import PACKING, open_index
from trainkit.data.shards import Kind, Shard, shard
from trainkit.errors import DataError, StorageError, UsageError
from trainkit.storage import files
from trainkit.storage.local import path_of
from trainkit.storage.store import Entry, ObjectExists, failure, folder

BLOCK = formats.BLOCK
SHARD = 256 << 20
_AHEAD = 64 << 20  # bytes of the source on their way; one block where blocks are larger
_MOST_AHEAD = 256  # blocks, where they are tiny
_THREADS = 4
_DIGITS = 6
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Packing:
    """How to write: bytes of a block and of a shard (its last block goes beyond), and the columns; None for all."""

    kind: Kind = "arrow"
    block: int = BLOCK
    shard: int = SHARD
    columns: tuple[str, ...] | None = None


@dataclass(slots=True)
class Progress:
    """How far it is. `read` and `written` are bytes in storage."""

    rows: int
    rows_done: int = 0
    blocks: int = 0
    shards: int = 0
    read: int = 0
    written: int = 0


def pack(where: str, dest: str, packing: Packing, tell: Callable[[Progress], None]) -> Progress:
    """Write the rows at `where` into the folder `dest`, a path or URL without anything in it.

    `tell` hears of each block. Takes the memory of 64 MiB of the source, decoded, or of its largest block and a copy.
    Raises UsageError, StorageError or DataError with what to do, and then leaves nothing in `dest`.
    """
    _apart(where, dest)
    if there := files.list(dest) or [found for found in [files.head(dest)] if found]:
        more = f", and {len(there) - 1} more" if len(there) > 1 else ""
        raise failure(
            dest, "pack into it", f"it is not empty: there is {there[0].url}{more}",
            "Name another folder, or delete what is there first", kind=ObjectExists,
        )  # fmt: skip
    index, fetcher = open_index(where, columns=packing.columns)
    try:
        if not index.total:
            raise DataError(scrub(f"{index.listing.root}: there are no rows to pack. Compare the name with the data's"))
        _claim(dest)
        written: list[Entry] = []
        try:
            progress = _write(index, fetcher.get, dest, packing, written, tell)
            _check(written, index, packing)
        except BaseException:
            _undo(dest, written)
            raise
        files.delete(folder(dest) + PACKING)
        return progress
    finally:
        fetcher.close()


def _apart(where: str, dest: str) -> None:
    """Shards below the source would be taken for a part of it the next time."""
    source, target = (url if "://" in url else str(path_of(url).resolve()) for url in (where, dest))
    if folder(target).startswith(folder(source)):
        raise UsageError(f"{dest} lies within {where}, and would be read with it. Name a folder outside")


def _claim(dest: str) -> None:
    mark = folder(dest) + PACKING
    text = b"`trainkit data pack` writes here. If no such process is left, delete this folder and pack again.\n"
    try:
        files.put_new(mark, text)
    except ObjectExists:
        raise failure(
            dest, "pack into it", "somebody else began to do so just now", "Name another folder", kind=ObjectExists
        ) from None
    except StorageError:  # some protocols cannot create: then there is no telling two packers apart
        files.put_stream(mark, [text], replace=True)


def _write(
    index: Index, get: Get, dest: str, packing: Packing, written: list[Entry], tell: Callable[[Progress], None]
) -> Progress:
    progress = Progress(index.total)
    schema = index.schema
    if packing.columns:
        schema = pa.schema([field for field in schema if field.name in packing.columns])
    with closing(_tables(index, get, packing, progress)) as tables:
        blocks = _Blocks(tables, packing.block)
        while blocks.next is not None:
            name = f"{folder(dest)}part-{len(written):0{_DIGITS}}.{packing.kind}"
            if len(written) == 10**_DIGITS:
                raise DataError(f"{dest}: there would be more than {len(written)} shards. Make them larger: --shard")
            chunks = _shard(blocks, schema, name, packing, progress, tell)
            written.append(files.put_stream(name, chunks, replace=True))
            progress.shards += 1
            tell(progress)
    return progress


def _shard(
    blocks: _Blocks, schema: pa.Schema, name: str, packing: Packing, progress: Progress,
    tell: Callable[[Progress], None],
) -> Iterator[bytes]:  # fmt: skip
    """The bytes of one shard."""
    made = _told(name, lambda: shard(packing.kind, schema, dense=blocks.dense))
    size = 0
    while (block := blocks.next) is not None and size < packing.shard:
        data = _written(name, made, block)
        size += len(data)
        progress.written += len(data)
        progress.rows_done += block.num_rows
        progress.blocks += 1
        tell(progress)
        yield data
        blocks.dense = made.dense
        del block
        blocks.advance()
    end = made.end()
    progress.written += len(end)
    yield end


def _written(name: str, made: Shard, block: pa.Table) -> bytes:
    return _told(name, lambda: made.write(block))


def _told(name: str, act: Callable[[], _T]) -> _T:
    """pyarrow's refusals are about the columns' types: what it was given has been read and checked before."""
    try:
        return act()
    except (pa.ArrowException, NotImplementedError) as error:
        raise DataError(
            scrub(
                f"{name}: cannot be written: {said(error)}. Leave that column out with --columns, or try --format arrow"
            )
        ) from error


def _tables(index: Index, get: Get, packing: Packing, progress: Progress) -> Generator[pa.Table, None, None]:
    """The source's blocks in order, decoded, as many ahead as there is room for."""
    pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="trainkit.pack")
    ahead: deque[tuple[int, Future[pa.Table]]] = deque()
    held = 0

    def load(block: int) -> pa.Table:
        span = index.span(block)
        data = memoryview(get(index.item(block), span.start, span.length))
        return index.decode(block, data, packing.columns)

    try:
        for block, length in enumerate(index.lengths.tolist()):
            while ahead and (held + length > _AHEAD or len(ahead) == _MOST_AHEAD):
                held -= ahead[0][0]
                progress.read += ahead[0][0]
                yield ahead.popleft()[1].result()
            ahead.append((length, pool.submit(load, block)))
            held += length
        while ahead:
            progress.read += ahead[0][0]
            yield ahead.popleft()[1].result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class _Blocks:
    """The same rows in blocks of about `size` bytes, once they are written; a row that is larger is a block."""

    def __init__(self, tables: Iterator[pa.Table], size: int) -> None:
        self.dense = 1.0
        self.next: pa.Table | None = None
        self._size = size
        self._blocks = self._cut(tables)
        self.advance()

    def advance(self) -> None:
        self.next = None  # two large ones at once would be one too many
        self.next = next(self._blocks, None)

    def _cut(self, tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
        waiting: list[pa.Table] = []
        size = 0
        for table in tables:
            waiting.append(table)
            size += table.nbytes
            if size < self._wanted:
                continue
            whole = pa.concat_tables(waiting).combine_chunks() if len(waiting) > 1 else table
            waiting.clear()
            del table
            while whole.nbytes >= self._wanted:
                rows = _fitting(whole, self._wanted)
                yield whole.slice(0, rows)
                whole = whole.slice(rows)
            waiting = [_copy(whole)] if whole.num_rows else []
            size = sum(one.nbytes for one in waiting)
        if waiting:
            yield pa.concat_tables(waiting).combine_chunks()

    @property
    def _wanted(self) -> int:
        return max(1, int(self._size * self.dense))


def _copy(rows: pa.Table) -> pa.Table:
    """The few rows that are left, or they would hold all the others in memory.

    Not by `take`: of a slice, it returns other values where lists of a fixed size lie in such (pyarrow 26).
    """
    return pa.concat_tables([rows, rows.slice(0, 0)]).combine_chunks()


def _fitting(table: pa.Table, size: int) -> int:
    """How many of its first rows are no more than `size` bytes; one at least."""
    return max(1, bisect_right(range(1, table.num_rows + 1), size, key=lambda rows: table.slice(0, rows).nbytes))


def _check(written: list[Entry], index: Index, packing: Packing) -> None:
    """Look at what was written as any stream would."""
    items = tuple(Item(one.url, one.size, one.etag) for one in written)
    fetcher = open_fetcher(items[0].url)
    try:
        listing = Listing(items, items[0].url.rpartition("/")[0] + "/")
        found = Index.of(listing, formats.find(listing, fetcher.get), fetcher.get)
    finally:
        fetcher.close()
    names = [name for name in index.schema.names if not packing.columns or name in packing.columns]
    if found.total != index.total or found.schema.names != names:
        raise DataError(
            scrub(
                f"{listing.root}: {found.total} rows of {', '.join(found.schema.names)} can be read there, and "
                f"{index.total} of {', '.join(names)} were written. Look at the storage's health, and pack again"
            )
        )


def _undo(dest: str, written: list[Entry]) -> None:
    """Take back what is there. Where that fails the mark stays, and the error that led here is told."""
    try:
        for one in [entry.url for entry in written]:
            files.delete(one)
        files.delete(folder(dest) + PACKING)
    except StorageError:
        pass
