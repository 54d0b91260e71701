"""What is asked of every format."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple, Protocol

from trainkit.contract.secrets import scrub
from trainkit.data.items import Get, Item
from trainkit.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

BLOCK = 1 << 20
"""Bytes that a span should have where the format lets us choose: what one request fetches, and one rank mixes."""


class Span(NamedTuple):
    """Bytes of an item that are fetched together, and the rows in them. Rows of an item lie in the spans' order."""

    start: int
    length: int
    rows: int


class Format(Protocol):
    """One format, over one listing. Any number of threads may use it at once."""

    @property
    def name(self) -> str: ...

    @property
    def seeks(self) -> bool:
        """Whether a row can be had without the whole item it lies in."""

    @property
    def schema(self) -> pa.Schema:
        """The columns of every table that `decode` returns: those of the first item, without metadata."""

    def spans(self, item: Item, get: Get) -> Sequence[Span]:
        """Where the item's rows lie; none has no rows. Reads as little of it as it can, and learns it.

        Raises DataError for what is no such file, or has other columns than the first item.
        """

    def learn(self, item: Item, get: Get) -> None:
        """Read what decoding needs to know of an item (a footer, a header), once. For items whose spans are known."""

    def decode(self, item: Item, span: Span, data: memoryview, columns: Sequence[str] | None) -> pa.Table:
        """The span's rows: exactly `span.rows` of them, only `columns` where given, in the format's own order.

        Reads nothing else: the item was learned before. The table may lie in `data`, which must not change then.
        Raises DataError where the bytes are not what the span says.
        """


class NoRows(DataError):
    """Rows are needed to know the columns, and there are none."""

    @classmethod
    def of(cls, item: Item) -> NoRows:
        return cls(
            scrub(f"{item.url}: has no rows, and no other item has. Compare the channel's prefix with the data's.")
        )


def wrong(item: Item, problem: str, remedy: str, *, at: str = "") -> DataError:
    """The error, in the order in which people read: which item, where in it, what is wrong, what to do."""
    where = f"{item.url}, {at}" if at else item.url
    return DataError(scrub(f"{where}: {problem}. {remedy}."))


def within(span: Span) -> str:
    return f"bytes {span.start} to {span.start + span.length}"


def counted(item: Item, span: Span, rows: int, *, remedy: str = "Write the file again") -> None:
    """Rows that do not come as counted would shift all rows behind them: refuse them."""
    if rows != span.rows:
        raise wrong(item, f"there are {rows} rows, where {span.rows} were counted", remedy, at=within(span))


@contextmanager
def told(item: Item, kind: str, *, at: str = "", remedy: str = "Write it again, or take it out") -> Iterator[None]:
    """Turn what pyarrow and Python say about bytes they do not understand into DataError.

    pyarrow's errors are ValueError, OSError, KeyError, MemoryError (a length that is nonsense) and their kin.
    """
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, ValueError, LookupError, OSError, OverflowError, MemoryError) as error:
        raise wrong(item, f"is no readable {kind} ({said(error)})", remedy, at=at) from error


def said(error: BaseException, *, limit: int = 200) -> str:
    """The first line of what an error says; data in it is cut."""
    text = (str(error).strip() or repr(error)).splitlines()[0].rstrip(".")
    return text if len(text) <= limit else f"{text[:limit]}…"
