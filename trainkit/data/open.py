"""From a name to a stream: what is there, how it lies there, and who reads it."""

from __future__ import annotations

import dataclasses
import hashlib
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, get_args

from trainkit.contract.secrets import scrub
from trainkit.data import formats
from trainkit.data.fetch.cache import Cache, CachedFetcher
from trainkit.data.fetch.choose import open_fetcher
from trainkit.data.fetch.fetcher import Fetcher, Name
from trainkit.data.formats.base import Format
from trainkit.data.index import Index
from trainkit.data.items import Get, Listing
from trainkit.data.kept import KeptSpans
from trainkit.data.memory import with_arrow
from trainkit.data.mixture import Mixture, Source, Until
from trainkit.data.sources.augmented import AugmentedRows
from trainkit.data.sources.described import ask_once
from trainkit.data.sources.find import find
from trainkit.data.sources.manifests import Augmented
from trainkit.data.stream import All, Choices, Stream, lanes
from trainkit.data.together import gather
from trainkit.errors import DataError

FETCHERS: tuple[Name, ...] = get_args(Name)
PACKING = "_trainkit-packing"
"""What lies in a folder as long as it is being packed."""


class Keep(NamedTuple):
    """Where blocks are kept on this host's disk, and how many bytes of them; by default half of what is free there."""

    folder: str
    limit: int | None = None


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
    fetcher: Name | None = None,
    keep: Keep | None = None,
) -> Stream:
    """A stream over what lies at a path or URL, read by the `fetcher` that is named, else by the one for such URLs.

    Raises StorageError, DataError, ConfigError with what to do; ValueError for a fetcher that cannot read there.
    """
    place = place or Place()
    index, reading = open_index(where, columns=choices.columns, place=place, fetcher=fetcher, keep=keep, ranks=ranks)
    kind = _kind(choices)
    if not place.own_share:
        return kind(index, reading, choices, rank=rank, ranks=ranks)
    all, shared = _together(index, choices, ranks=ranks, local_ranks=place.local_ranks)
    alike = dataclasses.replace(choices, lanes=shared)
    return kind(index, reading, alike, rank=place.local_rank, ranks=place.local_ranks, all=all)


def open_index(
    where: str,
    *,
    columns: Sequence[str] | None = None,
    place: Place | None = None,
    fetcher: Name | None = None,
    keep: Keep | None = None,
    ranks: int = 1,
) -> tuple[Index, Fetcher | CachedFetcher]:
    """What lies at a path or URL, and who reads it: close him. Raises as `open_stream` does."""
    _is_fetcher(fetcher)
    place = place or Place()
    with_arrow()
    listing = find(
        where, channel=place.channel, said_by=place.said_by, mode=place.mode, own_share=place.own_share,
        ask=partial(ask_once, ranks=ranks),
    )  # fmt: skip
    _finished(listing)
    first = listing.items[0].url if listing.items else where
    _reads(fetcher, first)
    plain = open_fetcher(first, prefer=fetcher)
    cache = None
    if keep and any(item.etag for item in listing.items):  # without versions nothing can be kept
        cache = Cache(Path(keep.folder), limit=keep.limit, items=listing.items)
    reader = CachedFetcher(plain, cache) if cache else plain
    listing, format = _format(listing, reader.get, content_type=place.content_type)
    _known(columns, format, listing)
    kept = KeptSpans(cache, format, scan=plain.get, get=reader.get).spans if cache else None
    return Index.of(listing, format, reader.get, spans=kept), reader


def _is_fetcher(name: str | None) -> None:
    """Before anything is listed, which may take a while."""
    if name is not None and name not in FETCHERS:
        raise ValueError(f"fetcher is {name!r}: must be one of {', '.join(FETCHERS)}, or None for the URL's own")


def _reads(name: Name | None, url: str) -> None:
    protocol = url.partition("://")[0].lower() if "://" in url else "file"
    if name in ("http", "boto3") and protocol not in ("s3", "s3a"):
        raise ValueError(f"fetcher is {name!r}, which reads s3://, and the data is at {scrub(url)}. Leave fetcher out")
    if name == "local" and protocol not in ("file", "local"):
        raise ValueError(f"fetcher is {name!r}, which reads paths, and the data is at {scrub(url)}. Leave fetcher out")


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


def open_mixture(streams: Mapping[str, tuple[Source, float]], *, until: Until, seed: int) -> Mixture:
    """A mixture, for DataLoader too where all of its streams are. Raises ValueError for what makes no sense."""
    module = sys.modules.get("trainkit.data.torch")  # a stream that it knows has imported it
    known = module is not None and all(isinstance(stream, module.Loaded) for stream, _ in streams.values())
    kind: type[Mixture] = module.TorchMixture if module is not None and known else Mixture
    return kind(streams, until=until, seed=seed)
