"""From a name to a stream: what is there, how it lies there, and who reads it."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import NamedTuple

from trainkit.contract.secrets import scrub
from trainkit.data import formats
from trainkit.data.fetch.choose import open_fetcher
from trainkit.data.fetch.fetcher import Fetcher
from trainkit.data.formats.base import Format
from trainkit.data.index import Index
from trainkit.data.items import Get, Listing
from trainkit.data.memory import with_arrow
from trainkit.data.sources.augmented import AugmentedRows
from trainkit.data.sources.find import find
from trainkit.data.sources.manifests import Augmented
from trainkit.data.stream import All, Choices, Stream, lanes
from trainkit.data.together import gather
from trainkit.errors import DataError

PACKING = "_trainkit-packing"
"""What lies in a folder as long as it is being packed."""


class Place(NamedTuple):
    """What a job says about a channel, where the data is one."""

    channel: str = ""
    said_by: str = ""
    mode: str = "File"
    own_share: bool = False
    """Whether each host has other files (ShardedByS3Key on several hosts)."""
    local_rank: int = 0
    local_ranks: int = 1
    content_type: str | None = None


def open_stream(
    where: str,
    choices: Choices,
    *,
    rank: int,
    ranks: int,
    place: Place | None = None,
) -> Stream:
    """A stream over what lies at a path or URL. Raises StorageError, DataError, ConfigError with what to do."""
    place = place or Place()
    index, fetcher = open_index(where, columns=choices.columns, place=place)
    kind = _kind(choices)
    if not place.own_share:
        return kind(index, fetcher, choices, rank=rank, ranks=ranks)
    all, shared = _together(index, choices, ranks=ranks, local_ranks=place.local_ranks)
    alike = dataclasses.replace(choices, lanes=shared)
    return kind(index, fetcher, alike, rank=place.local_rank, ranks=place.local_ranks, all=all)


def open_index(
    where: str, *, columns: Sequence[str] | None = None, place: Place | None = None
) -> tuple[Index, Fetcher]:
    """What lies at a path or URL, and who reads it: close him. Raises as `open_stream` does."""
    place = place or Place()
    with_arrow()
    listing = find(where, channel=place.channel, said_by=place.said_by, mode=place.mode, own_share=place.own_share)
    _finished(listing)
    fetcher = open_fetcher(listing.items[0].url if listing.items else where)
    listing, format = _format(listing, fetcher.get, content_type=place.content_type)
    _known(columns, format, listing)
    return Index.of(listing, format, fetcher.get), fetcher


def _finished(listing: Listing) -> None:
    """Half of a data set looks like a whole one, except for this."""
    for item in listing.items:
        if item.url.endswith(f"/{PACKING}"):
            raise DataError(
                f"{scrub(item.url)}: `trainkit data pack` writes here, or was killed before it was done. Wait for it, "
                f"or delete the folder and pack again"
            )


def _together(index: Index, choices: Choices, *, ranks: int, local_ranks: int) -> tuple[All, int]:
    """What the hosts' shares come to together, and the lanes of each. Raises DataError where they make no stream."""
    root = index.listing.root
    if choices.tail == "exact":
        raise DataError(
            f"{root}: with ShardedByS3Key hosts have different numbers of rows, and tail='exact' would give some of "
            f"them steps that others have not. Use 'drop' or 'pad', or FullyReplicated"
        )
    own = choices.lanes or lanes(index, ranks=local_ranks, memory=choices.memory)
    why = f"{root} is ShardedByS3Key: each host has other files, and they must agree on the number of steps"
    said = gather((local_ranks, index.total, index.fingerprint, own), ranks=ranks, why=why)
    if len({count for count, *_ in said}) > 1:
        raise DataError(f"{root}: hosts run different numbers of ranks, and ShardedByS3Key needs them alike. Set procs")
    prints = "".join(fingerprint for _, _, fingerprint, _ in said)
    together = All(tuple(total for _, total, _, _ in said), hashlib.blake2b(prints.encode(), digest_size=8).hexdigest())
    return together, int(said[0][3])


def _format(listing: Listing, get: Get, *, content_type: str | None) -> tuple[Listing, Format]:
    if isinstance(listing, Augmented):
        return listing, AugmentedRows(listing)
    listing = formats.visible(listing)
    return listing, formats.find(listing, get, content_type=content_type)


def _known(columns: Sequence[str] | None, format: Format, listing: Listing) -> None:
    """Columns that are not there are a mistake, to be heard of before anything is read."""
    names = format.schema.names
    for column in columns or ():
        if column not in names:
            raise DataError(f"{listing.root} has no column {column!r}; it has {', '.join(names)}")


def _kind(choices: Choices) -> type[Stream]:
    """With tensors comes torch, and with torch its DataLoader, which knows its datasets by their class."""
    if choices.kind != "torch":
        return Stream
    from trainkit.data.torch import TorchStream

    return TorchStream
