"""Blocks on their way: fetched and decoded by a few threads before they are needed, within a budget of bytes.

plan     which blocks the coming samples lie in, in the order of first need, as far ahead as the budget goes
fetch    by threads: request, decode, mix the rows                     (all of it outside of Python's lock)
gather   the rows of some batches at once, in their order
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from trainkit.data.index import Index
from trainkit.data.items import Get
from trainkit.data.order import Integers, Order, Places

if TYPE_CHECKING:
    import pyarrow as pa


_MOST_AHEAD = 32  # chunks; where rows are tiny, their numbers would fill more memory than they do


class Chunk(NamedTuple):
    """One rank's samples of the next few steps."""

    steps: int
    samples: Integers


class _Rows(NamedTuple):
    rows: Any
    mixed: Integers | None


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
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="trainkit.fetch")
        self._held: dict[int, Future[_Rows]] = {}  # here, or on its way
        self._until: dict[int, int] = {}  # the sample after which nobody needs it any more
        self._bytes = 0
        self._large = index.lengths.sum() >= index.total << 13
        self._wanted: deque[int] = deque()  # planned, and not asked for yet

    def chunks(self, plan: Iterator[Chunk]) -> Iterator[tuple[int, pa.Table]]:
        """For each chunk, its steps and its rows."""
        ahead: deque[tuple[Chunk, Places]] = deque()
        for chunk in plan:
            places = self._order.places(chunk.samples)
            self._want(places)
            ahead.append((chunk, places))
            self._ask()
            # Planning goes on until there is more to ask for than there is room.
            while ahead and (self._wanted or len(ahead) == _MOST_AHEAD):
                yield self._next(*ahead.popleft())
        while ahead:
            yield self._next(*ahead.popleft())

    def _next(self, chunk: Chunk, places: Places) -> tuple[int, pa.Table]:
        table = self._gather(places)
        self._release(int(chunk.samples.max(initial=0)))
        self._ask()
        return chunk.steps, table

    def close(self) -> None:
        """End the threads. What is under way is waited for: requests have deadlines."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._held.clear()

    def _want(self, places: Places) -> None:
        first = np.unique(places.blocks, return_index=True)[1]
        for at in np.sort(first).tolist():
            block = int(places.blocks[at])
            if block not in self._until:
                self._until[block] = int(places.until[at])
                self._wanted.append(block)

    def _ask(self) -> None:
        while self._wanted and (self._bytes < self._budget or not self._held):
            self._fetch(self._wanted.popleft())

    def _fetch(self, block: int) -> None:
        if block not in self._held:
            self._bytes += int(self._index.lengths[block])
            self._held[block] = self._pool.submit(self._load, block)

    def _release(self, sample: int) -> None:
        for block in [block for block, until in self._until.items() if until <= sample and block in self._held]:
            del self._held[block], self._until[block]
            self._bytes -= int(self._index.lengths[block])

    def _load(self, block: int) -> _Rows:
        span = self._index.span(block)
        data = memoryview(self._get(self._index.item(block), span.start, span.length))
        table = self._index.decode(block, data, self._columns)
        mixed = self._order.mixed(block, span.rows)
        if self._large:
            return _Rows(table.combine_chunks().to_batches()[0], None if mixed is None else mixed)
        return _Rows(table if mixed is None else table.take(_numbers(mixed)), None)

    def _gather(self, places: Places) -> pa.Table:
        import pyarrow as pa

        if not len(places.blocks):  # a rank that has none of the last few
            schema = self._index.schema
            return (
                pa.schema([schema.field(name) for name in self._columns]) if self._columns else schema
            ).empty_table()
        return self._cut(places) if self._large else self._taken(places)

    def _cut(self, places: Places) -> pa.Table:
        """Rows as they lie in their blocks, cut out one by one: nothing is copied."""
        import pyarrow as pa

        held = {}
        for block in np.unique(places.blocks).tolist():
            self._fetch(block)
            batch, mixed = self._held[block].result()
            held[block] = batch, None if mixed is None else mixed.tolist()
        parts = []
        for block, turn in zip(places.blocks.tolist(), places.turns.tolist(), strict=True):
            batch, mixed = held[block]
            parts.append(batch.slice(turn if mixed is None else mixed[turn], 1))
        return pa.Table.from_batches(parts)

    def _taken(self, places: Places) -> pa.Table:
        import pyarrow as pa

        by_block = np.argsort(places.blocks, kind="stable")
        blocks, starts = np.unique(places.blocks[by_block], return_index=True)
        parts, rows, offset = [], np.empty(len(by_block), dtype=np.int64), 0
        for block, mine in zip(blocks.tolist(), np.split(by_block, starts[1:]), strict=True):
            self._fetch(block)  # where the budget had no room for it, there is no way around it now
            turns = places.turns[mine]
            # Joined, slices are copied. One alone would stay a slice, of which pyarrow 26 takes other values than asked
            # for where lists of a fixed size lie in such.
            low, high = (
                (int(turns.min()), int(turns.max()) + 1) if len(blocks) > 1 else (0, self._index.span(block).rows)
            )
            parts.append(self._held[block].result().rows.slice(low, high - low))
            rows[mine] = offset + turns - low
            offset += high - low
        return pa.concat_tables(parts).combine_chunks().take(_numbers(rows))


def _numbers(numbers: Integers) -> pa.Array:
    """Not by `pa.array`, which imports pandas where there is one: 0.2 s of CPU, within the wait for the first batch."""
    import pyarrow as pa

    return pa.Array.from_buffers(pa.int64(), len(numbers), [None, pa.py_buffer(numbers)])
