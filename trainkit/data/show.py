"""What lies at a path or URL, and what a stream would have of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainkit.contract.secrets import scrub
from trainkit.data import MEMORY
from trainkit.data.formats import BLOCK
from trainkit.data.index import Index
from trainkit.data.items import Get
from trainkit.data.open import open_index
from trainkit.data.stream import lanes

RANKS = (1, 8, 64)
_FEW = 16  # blocks that a rank mixes at a time: with fewer, neighbours in the data are neighbours in batches
_LITTLE = 16 << 20  # bytes that may well be fetched by several ranks
_LONGEST = 200  # characters of a text that are kept
_MOST = 8  # values of a list


@dataclass(frozen=True, slots=True)
class Shuffle:
    """What shuffling costs in a world of `ranks`, at that memory."""

    ranks: int
    lanes: int
    """Blocks that are mixed at a time, by all ranks together."""
    by_rank: int
    """Of these, how many each rank holds."""
    held: int
    """Their bytes as they are stored, where they are of middling size."""
    at_most: int
    """And where the largest ones meet."""
    readers: int
    """How many ranks fetch each block; one, where there are blocks for all."""


@dataclass(frozen=True, slots=True)
class Look:
    """All that `trainkit data show` says."""

    where: str
    format: str
    items: int
    rows: int
    bytes: int
    """Of the blocks: what an epoch fetches."""
    columns: Mapping[str, str]
    blocks: int
    median: int
    largest: int
    seeks: bool
    decoded: float | None
    """Bytes of the first block's table for each stored byte; None where it was not read."""
    first: Sequence[Mapping[str, Any]]
    memory: int
    """Of each rank, for the shuffles."""
    shuffles: Sequence[Shuffle]
    hint: str


def look(where: str, *, rows: int, memory: int = MEMORY) -> Look:
    """Find all blocks, and read the first ones for `rows` rows; `memory` is a stream's on each rank.

    Raises StorageError, DataError, ConfigError.
    """
    index, fetcher = open_index(where)
    try:
        first, decoded = _first(index, fetcher.get, rows)
    finally:
        fetcher.close()
    lengths = index.lengths
    shuffles = [_shuffle(index, ranks, memory) for ranks in RANKS] if len(lengths) else []
    return Look(
        where=scrub(where),
        format=index.format.name,
        items=len(index.listing.items),
        rows=index.total,
        bytes=int(lengths.sum()),
        columns={field.name: str(field.type) for field in index.schema},
        blocks=len(lengths),
        median=int(np.median(lengths)) if len(lengths) else 0,
        largest=int(lengths.max(initial=0)),
        seeks=index.format.seeks,
        decoded=decoded,
        first=first,
        memory=memory,
        shuffles=shuffles,
        hint=_hint(index, shuffles, memory, scrub(where)) if shuffles else "",
    )


def _first(index: Index, get: Get, count: int) -> tuple[list[dict[str, Any]], float | None]:
    rows: list[dict[str, Any]] = []
    decoded = None
    for block in range(len(index.rows)):
        if len(rows) >= count:
            break
        span = index.span(block)
        table = index.decode(block, memoryview(get(index.item(block), span.start, span.length)), None)
        decoded = decoded or table.nbytes / max(1, span.length)
        rows += [
            {name: _short(value) for name, value in row.items()}
            for row in table.slice(0, count - len(rows)).to_pylist()
        ]
    return rows, decoded


def _shuffle(index: Index, ranks: int, memory: int) -> Shuffle:
    count = len(index.lengths)
    mixed = min(count, lanes(index, ranks=ranks, memory=memory))
    by_rank = mixed // math.gcd(mixed, ranks)  # a rank takes every so manieth row, and lanes take turns
    largest = np.sort(index.lengths)[::-1][:by_rank]
    held, at_most = int(by_rank * index.lengths.mean()), int(largest.sum())
    return Shuffle(ranks, mixed, by_rank, held, at_most, readers=ranks * by_rank // mixed)


def _hint(index: Index, shuffles: Sequence[Shuffle], memory: int, where: str) -> str:
    """Why shuffling would be poor, large or slow, and what helps; nothing where it is fine."""
    count, total = len(index.lengths), int(index.lengths.sum())
    reasons = []
    if not index.format.seeks and index.total > count:
        reasons.append("to go on in the middle reads a whole item, for one row")
    if over := [one for one in shuffles if one.at_most > memory]:
        held = f"{over[0].by_rank} of the largest blocks" if over[0].by_rank > 1 else "the largest block"
        reasons.append(f"{held} would take {size(over[0].at_most)} of each rank, which has {size(memory)} for them")
    if few := [one for one in shuffles if one.lanes < min(count, _FEW * one.ranks)]:
        reasons.append(
            f"{_ranks(few[0].ranks)} would mix {few[0].lanes:,} of {count:,} blocks at a time, where "
            f"{_FEW * few[0].ranks:,} are good"
        )
    if total > _LITTLE and (shared := [one for one in shuffles if one.readers > 1]):
        readers = f"{shared[0].readers} of {_ranks(shared[0].ranks)}"
        reasons.append(f"each block would be fetched by {readers}, since there are only {count:,}")
    if not reasons:
        return ""
    text = "; ".join(reasons)
    text = text[0].upper() + text[1:]
    if not ((index.lengths > 2 * BLOCK) & (index.rows > 1)).any():
        if over or few:
            return f"{text}. A block is one row here, and cannot be smaller: shrink what is in it"
        return f"{text}. `trainkit data pack {where} DEST --block 128KiB` makes more of them"
    return f"{text}. `trainkit data pack {where} DEST` makes blocks of about {size(BLOCK)} of the same rows"


def _ranks(count: int) -> str:
    return "1 rank" if count == 1 else f"{count} ranks"


def as_text(found: Look, *, width: int) -> str:
    """For people; rows are cut to `width` characters."""
    lines = [
        f"format   {found.format}",
        f"items    {found.items:,}",
        f"rows     {found.rows:,}",
        f"bytes    {size(found.bytes)}" + (f", {found.decoded:.1f} times as much decoded" if found.decoded else ""),
        f"blocks   {found.blocks:,}: {size(found.median)} the median, {size(found.largest)} the largest",
        "columns",
        *_aligned([(_name(name), kind) for name, kind in found.columns.items()], width=width),
    ]
    if found.first:
        lines += ["first rows", *(_cut(f"  {_line(row)}", width) for row in found.first)]
    if found.shuffles:
        lines += [f"a shuffle, with {size(found.memory)} of memory for each rank"]
        lines += [f"  {_ranks(one.ranks):>8}  {_cost(one)}" for one in found.shuffles]
    if found.hint:
        lines += ["hint", f"  {found.hint}"]
    return "\n".join(lines)


def _cost(one: Shuffle) -> str:
    shared = f"; each fetched by {one.readers} ranks" if one.readers > 1 else ""
    held = f"{size(one.held)}, at most {size(one.at_most)}"
    return f"{one.lanes:,} blocks mixed at a time, {one.by_rank:,} in each rank: {held}{shared}"


def _aligned(pairs: Sequence[tuple[str, str]], *, width: int) -> list[str]:
    longest = max((len(name) for name, _ in pairs), default=0)
    return [_cut(f"  {name:{longest}}  {kind}", width) for name, kind in pairs]


def _line(row: Mapping[str, Any]) -> str:
    return "  ".join(f"{_name(name)}={value!r}" for name, value in row.items())


def _name(name: str) -> str:
    return name if name.isprintable() else repr(name)  # a terminal obeys what data says


def _cut(line: str, width: int) -> str:
    return line if len(line) <= width else f"{line[: max(0, width - 1)]}…"


def _short(value: object) -> object:
    """Something like it that JSON can say, and a person wants to see."""
    match value:
        case None | bool() | int():
            return value
        case float():
            return value if math.isfinite(value) else str(value)
        case bytes():
            return f"<{len(value):,} bytes>"
        case list():
            return [_short(one) for one in value[:_MOST]] + (["…"] if len(value) > _MOST else [])
        case dict():
            return {str(name): _short(one) for name, one in value.items()}
    text = str(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def size(count: float) -> str:
    """`1.5 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:,.3g} TiB"
