"""Blocks on their way: fetched and decoded by a few threads before they are needed, within a budget of bytes.

plan     which blocks the coming samples lie in, in the order of first need, as far ahead as the budget goes
fetch    by threads: request, decode, mix the rows                     (all of it outside of Python's lock)
gather   the rows of some batches at once, in their order: large ones are cut out where they lie, small ones copied
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from trainkit.data.feed import NAME
from trainkit.data.index import Index
from trainkit.data.items import Get
from trainkit.data.order import Integers, Order, Places

if TYPE_CHECKING:
    import pyarrow as pa


_MOST_AHEAD = 32  # chunks; where rows are tiny, their numbers would fill more memory than they do
_LARGE = 1 << 13
"""Bytes of a row from which on cutting it out (half a microsecond for each column) is cheaper than three copies."""


class Chunk(NamedTuple):
    """One rank's samples of the next few steps: `batch` of each, and what is left of the last."""

    steps: int
    batch: int
    samples: Integers


class _Block(NamedTuple):
    """A block that is here: the row of turn t is `rows[t]`, or `rows[mixed[t]]` where it was left as it came."""

    rows: pa.Table | pa.RecordBatch
    mixed: list[int] | None


class Reader:
    """Gives the rows of one epoch's samples, chunk by chunk. Close it from the thread that iterates."""

    def __init__(
        self, index: Index, order: Order, get: Get, *, columns: Sequence[str] | None, budget: int, threads: int
    ) -> None:
        self._index = index
        self._order = order
        self._get = get
        self._columns = columns
        self._budget = budget
        self._cuts = int(index.lengths.sum()) >= _LARGE * index.total
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=f"{NAME}fetch")
        self._most = 2 * threads  # asked for at a time: what they weigh when decoded shows when the first are here
        self._decoding = threading.Semaphore(max(4, os.cpu_count() or 1))  # each takes memory, and none waits
        self._lock = threading.RLock()  # over all below
        self._held: dict[int, Future[_Block]] = {}  # here, or on its way
        self._weights: dict[int, int] = {}  # of these: bytes as they are counted
        self._until: dict[int, int] = {}  # the sample after which nobody needs it any more
        self._wanted: deque[int] = deque()  # planned, and not asked for yet
        self._bytes = 0  # of what is held
        self._asked = 0  # on their way
        self._dense = 1.0  # bytes of a table for each that was fetched, by the last block
        self._closed = False

    def chunks(self, plan: Iterator[Chunk]) -> Iterator[list[pa.Table]]:
        """The rows of each step of each chunk. They may lie in blocks: copy what is to be kept."""
        ahead: deque[tuple[Chunk, Places]] = deque()
        for chunk in plan:
            places = self._order.places(chunk.samples)
            self._want(places)
            ahead.append((chunk, places))
            self._ask()
            while ahead and (self._enough() or len(ahead) == _MOST_AHEAD):
                yield self._next(*ahead.popleft())
        while ahead:
            yield self._next(*ahead.popleft())

    def close(self) -> None:
        """End the threads. What is under way is waited for: requests have deadlines."""
        with self._lock:
            self._closed = True
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._held.clear()

    def _next(self, chunk: Chunk, places: Places) -> list[pa.Table]:
        tables = self._gather(chunk, places)
        self._release(int(chunk.samples.max(initial=0)))
        self._ask()
        return tables

    def _want(self, places: Places) -> None:
        first = np.unique(places.blocks, return_index=True)[1]
        with self._lock:
            for at in np.sort(first).tolist():
                block = int(places.blocks[at])
                if block not in self._until:
                    self._until[block] = int(places.until[at])
                    self._wanted.append(block)

    def _enough(self) -> bool:
        """Whether more is planned than there is room for."""
        with self._lock:
            return self._bytes + sum(map(self._weight, self._wanted)) >= self._budget

    def _weight(self, block: int) -> int:
        """Bytes that it will take, as far as is known."""
        return int(self._index.lengths[block] * self._dense)

    def _ask(self) -> None:
        with self._lock:
            while self._wanted and not self._closed and self._asked < self._most:
                if self._bytes >= self._budget and self._held:
                    break
                block = self._wanted.popleft()
                if block in self._until:  # else it was needed before there was room, and is through
                    self._fetch(block)

    def _fetch(self, block: int) -> Future[_Block]:
        with self._lock:
            if block not in self._held:
                self._weights[block] = self._weight(block)
                self._bytes += self._weights[block]
                self._asked += 1
                self._held[block] = self._pool.submit(self._load, block)
            return self._held[block]

    def _release(self, sample: int) -> None:
        with self._lock:
            for block in [block for block, until in self._until.items() if until <= sample and block in self._held]:
                del self._held[block], self._until[block]
                self._bytes -= self._weights.pop(block)

    def _load(self, block: int) -> _Block:
        try:
            span = self._index.span(block)
            data = memoryview(self._get(self._index.item(block), span.start, span.length))
            with self._decoding:
                table = self._index.decode(block, data, self._columns)
            self._weigh(block, max(span.length, table.nbytes))
            mixed = self._order.mixed(block, span.rows)
            if self._cuts:
                return _Block(table.combine_chunks().to_batches()[0], None if mixed is None else mixed.tolist())
            return _Block(table if mixed is None else table.take(_numbers(mixed)), None)
        finally:
            with self._lock:
                self._asked -= 1
            self._ask()

    def _weigh(self, block: int, size: int) -> None:
        with self._lock:
            self._dense = size / max(1, int(self._index.lengths[block]))
            self._bytes += size - self._weights[block]
            self._weights[block] = size

    def _gather(self, chunk: Chunk, places: Places) -> list[pa.Table]:
        import pyarrow as pa

        starts = [step * chunk.batch for step in range(chunk.steps)]
        if self._cuts:
            rows = self._cut(places)
            parts = [rows[start : start + chunk.batch] for start in starts]
            return [pa.Table.from_batches(part) if part else self._none() for part in parts]
        whole = self._copied(places) if len(places.blocks) else self._none()
        return [whole.slice(start, chunk.batch) for start in starts]

    def _none(self) -> pa.Table:
        """No rows: for a rank that has none of the last few."""
        import pyarrow as pa

        schema = self._index.schema
        return (pa.schema([schema.field(name) for name in self._columns]) if self._columns else schema).empty_table()

    def _cut(self, places: Places) -> list[pa.RecordBatch]:
        """Rows one by one as they lie in their blocks."""
        # Where the budget had no room for a block, there is no way around it now.
        held = {block: self._fetch(block) for block in np.unique(places.blocks).tolist()}
        rows = []
        for block, turn in zip(places.blocks.tolist(), places.turns.tolist(), strict=True):
            batch, mixed = held[block].result()
            rows.append(batch.slice(turn if mixed is None else mixed[turn], 1))
        return rows

    def _copied(self, places: Places) -> pa.Table:
        import pyarrow as pa

        by_block = np.argsort(places.blocks, kind="stable")
        blocks, starts = np.unique(places.blocks[by_block], return_index=True)
        parts, rows, offset = [], np.empty(len(by_block), dtype=np.int64), 0
        for block, mine in zip(blocks.tolist(), np.split(by_block, starts[1:]), strict=True):
            turns = places.turns[mine]
            # Joined, slices are copied. One alone would stay a slice, of which pyarrow 26 takes other values than asked
            # for where lists of a fixed size lie in such.
            low, high = (
                (int(turns.min()), int(turns.max()) + 1) if len(blocks) > 1 else (0, self._index.span(block).rows)
            )
            parts.append(self._fetch(block).result().rows.slice(low, high - low))
            rows[mine] = offset + turns - low
            offset += high - low
        return pa.concat_tables(parts).combine_chunks().take(_numbers(rows))


def _numbers(numbers: Integers) -> pa.Array:
    """Not by `pa.array`, which imports pandas where there is one: 0.2 s of CPU, within the wait for the first batch."""
    import pyarrow as pa

    return pa.Array.from_buffers(pa.int64(), len(numbers), [None, pa.py_buffer(numbers)])
