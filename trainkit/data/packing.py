"""Token lists of any length as sequences of one length: no padding within, and every token once.

    rows        [a a a] [b b b b b] [c] [d d d d] …         in the order of the epoch, whatever the number of ranks
    sequences   a a a b b b | b b c d d d | d …             `length` tokens each, here 6
    a step      rank 0 ─────┘ rank 1 ─────┘                 `batch_size` sequences for each rank

How many tokens a row has is known when it was read (and tokenized, where transform= does that). Ranks that each packed
their own rows would run out of tokens at different steps, and hold leftovers that only they know. So every rank reads
all rows and keeps the tokens of its own sequences: which these are depends on the data, the seed and the number of
sequences before them, and on nothing else. The state does not have the tokens carried over, but where they lie: the row
at which those begin that were read together and not used up, and how many tokens of them were. They are read again.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import numpy as np

from trainkit.data.batches import Kind, Ragged, converter, wrapper
from trainkit.data.feed import Feed
from trainkit.data.order import Integers
from trainkit.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

VERSION = 1
PADDING = -1  # the segment of tokens that fill up the last sequences
_READY = 2
PackedTail = Literal["drop", "pad"]


class Rows(Protocol):
    """What is packed: the stream of all rows, as tables."""

    epoch: int
    position: int

    def __iter__(self) -> Iterator[Any]: ...
    def set_epoch(self, epoch: int) -> None: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...
    def close(self) -> None: ...


class At(NamedTuple):
    """Between two tokens of an epoch: so many tokens into the rows that are read together from this row on."""

    row: int
    tokens: int


class Step(NamedTuple):
    """This rank's tokens of a step, where documents and sequences begin in them, and where the next step begins."""

    tokens: Integers
    begins: Integers
    padded: int
    """Tokens at the end that only fill it up."""
    after: At | None
    """None where the epoch is over."""


class Packed:
    """Batches of packed sequences, epoch after epoch. Iterate it once for each epoch; `Stream.packed` makes one.

        tokens       (batch_size, length)   int64
        segments     (batch_size, length)   int64: which document of its sequence a token is of: 0, 1, …; padding is -1
        positions    (batch_size, length)   int64: its place in the document, counted anew in each sequence
        cu_seqlens   (documents + 1,)       int32: where documents begin in the flattened batch, and where the last ends

    How many batches an epoch has shows at its end, so there is no len(); it is the same number on every rank.
    """

    def __init__(
        self,
        rows: Rows,
        column: str,
        *,
        rank: int,
        ranks: int,
        length: int,
        batch_size: int,
        end: int | None,
        tail: PackedTail,
        pad: int,
        kind: Kind,
    ) -> None:
        for name, value in (("length", length), ("batch_size", batch_size)):
            if value < 1:
                raise ValueError(f"{name} is {value}: must be 1 or more")
        if tail not in ("drop", "pad"):
            raise ValueError(f"tail is {tail!r}: must be drop or pad")
        if kind == "arrow":
            raise ValueError("packed sequences are tensors or arrays: make the stream with kind='torch' or 'numpy'")
        self._rows = rows
        self._column = column
        self._rank, self._ranks = rank, ranks
        self._length, self._own = length, length * batch_size
        self._end, self._tail, self._pad = end, tail, pad
        self._wrap = wrapper(kind)
        self._at = At(0, 0)
        self.epoch = 0
        self.waited = 0.0
        """Seconds that the loop has waited for batches so far."""
        self._feed: Feed | None = None

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The batches that are left of this epoch; the next one begins when they are through."""
        self.close()
        epoch, at = self.epoch, self._at
        feed = self._feed = Feed(self._steps(epoch, at), ahead=_READY)
        try:
            for step in feed:
                self.waited += feed.waited
                self._at = step.after or At(0, 0)
                self.epoch = epoch if step.after else epoch + 1
                yield self._batch(step)
        finally:
            feed.close()
        if self._feed is feed and self.epoch == epoch:  # what was left fills no step of this many ranks
            self.epoch, self._at = epoch + 1, At(0, 0)

    def state_dict(self) -> dict[str, Any]:
        """Where it is, after the last batch that it gave: alike on every rank."""
        rows = {**self._rows.state_dict(), "epoch": self.epoch, "position": self._at.row}
        return {"version": VERSION, "rows": rows, "tokens": self._at.tokens}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on at the token where another one was, on any number of ranks and with any batch size and length.

        Raises DataError where the data, or what its order depends on, is not the same.
        """
        if set(state) != {"version", "rows", "tokens"} or state["version"] != VERSION:
            raise DataError(
                f"{json.dumps(dict(state), default=str)[:200]} is no state of a packed stream of this version"
            )
        self.close()
        self._rows.load_state_dict(state["rows"])
        self.epoch, self._at = self._rows.epoch, At(self._rows.position, int(state["tokens"]))

    def close(self) -> None:
        """End what is under way. It may be iterated again, from where it is."""
        if self._feed:
            self._feed.close()
            self._feed = None

    def _steps(self, epoch: int, at: At) -> Generator[Step, None, None]:
        """What the feeding thread does. One step is held back: only what follows tells whether it is the last."""
        held: Step | None = None
        for step in self._filled(epoch, at):
            if held:
                yield held
            held = step
        if held:
            yield held._replace(after=None)
        elif at == At(0, 0):
            raise DataError(
                f"a whole epoch has too few tokens for one step of {self._ranks} ranks, which takes "
                f"{self._ranks * self._own}. Choose a smaller batch_size, or tail='pad'"
            )

    def _filled(self, epoch: int, at: At) -> Generator[Step, None, None]:
        rows, used = self._rows, at.tokens
        rows.set_epoch(epoch)
        rows.position = began = at.row
        filling = self._filling()
        try:
            for table in rows:
                lists = self._lists(table)
                if used > len(lists.values):
                    raise DataError(
                        f"the rows from {began} on had at least {used} tokens, and now have {len(lists.values)}: "
                        f"transform must make the same of the same rows, with the batch_size that the stream had"
                    )
                while (used := filling.take(lists, used)) < len(lists.values) or filling.full:
                    yield filling.step(self._length, after=At(began, used))
                    filling = self._filling()
                used, began = 0, rows.position
            if filling.count and self._tail == "pad":
                yield filling.step(self._length, after=At(began, 0))
        finally:
            rows.close()

    def _filling(self) -> _Filling:
        return _Filling(first=self._rank * self._own, own=self._own, whole=self._ranks * self._own, pad=self._pad)

    def _lists(self, rows: Any) -> Ragged:
        """The rows' tokens, and where each row's begin."""
        import pyarrow as pa

        if not isinstance(rows, pa.Table) or self._column not in rows.column_names:
            what = f"columns {', '.join(rows.column_names)}" if isinstance(rows, pa.Table) else type(rows).__name__
            raise DataError(
                f"packing needs tables with a column {self._column!r} of token lists, and transform returned {what}"
            )
        lists = _ragged(rows, self._column)
        if self._end is None:
            return lists
        count = np.arange(len(lists.offsets))
        ended = np.insert(lists.values, lists.offsets[1:], self._end)
        return Ragged(ended, lists.offsets + count)

    def _batch(self, step: Step) -> dict[str, Any]:
        size, begins = self._own, step.begins
        begun = np.zeros(size, dtype=np.int64)
        begun[begins] = 1
        documents = np.cumsum(begun) - 1
        positions = np.arange(size) - begins[documents]
        segments = documents.reshape(-1, self._length)
        segments = segments - segments[:, :1]
        segments.reshape(-1)[size - step.padded :] = PADDING
        positions[size - step.padded :] = 0
        shaped = {"tokens": step.tokens, "segments": segments, "positions": positions}
        batch = {name: self._wrap(array.reshape(-1, self._length)) for name, array in shaped.items()}
        return {**batch, "cu_seqlens": self._wrap(np.append(begins, size).astype(np.int32))}


class _Filling:
    """One step in the making: all its tokens are counted, and this rank's are kept."""

    def __init__(self, *, first: int, own: int, whole: int, pad: int) -> None:
        self._first = first
        self._whole = whole
        self._tokens = np.full(own, pad, dtype=np.int64)
        self._begins = [np.zeros(0, dtype=np.int64)]
        self.count = 0

    @property
    def full(self) -> bool:
        return self.count == self._whole

    def take(self, lists: Ragged, used: int) -> int:
        """As many tokens as there is room for, from `used` on; how many of the lists are used then."""
        until = min(len(lists.values), used + self._whole - self.count)
        shift = self.count - used - self._first  # the lists' token i would be this rank's token i + shift
        low, high = max(used, -shift), min(until, len(self._tokens) - shift)
        if low < high:
            self._tokens[low + shift : high + shift] = lists.values[low:high]
            inside = slice(*np.searchsorted(lists.offsets, [low, high]))
            self._begins.append(lists.offsets[inside] + shift)
        self.count += until - used
        return until

    def step(self, length: int, *, after: At) -> Step:
        size = len(self._tokens)
        mine = min(size, max(0, self.count - self._first))
        sequences = np.arange(0, size, length)
        padding = np.arange(mine, size)[:1]
        begins = np.unique(np.concatenate([*self._begins, sequences, padding]))
        return Step(self._tokens, begins, size - mine, after)


def _ragged(rows: pa.Table, column: str) -> Ragged:
    lists = converter("numpy")(rows.select([column]))[column]
    if isinstance(lists, np.ndarray) and lists.ndim == 2:  # lists of a fixed size
        lists = Ragged(lists.reshape(-1), np.arange(0, lists.size + 1, max(1, lists.shape[1])))
    if not isinstance(lists, Ragged) or lists.values.dtype.kind not in "iu":
        raise DataError(
            f"column {column!r} has the type {rows.schema.field(column).type}, and packing needs lists of whole numbers"
        )
    return lists
