"""From a name to a stream: what is there, how it lies there, and who reads it."""

from __future__ import annotations

from trainkit.data import formats
from trainkit.data.fetch.choose import open_fetcher
from trainkit.data.formats.base import Format
from trainkit.data.index import Index
from trainkit.data.items import Get, Listing
from trainkit.data.sources.augmented import AugmentedRows
from trainkit.data.sources.find import find
from trainkit.data.sources.manifests import Augmented
from trainkit.data.stream import Choices, Stream
from trainkit.errors import DataError


def open_stream(
    where: str,
    choices: Choices,
    *,
    rank: int,
    ranks: int,
    channel: str = "",
    said_by: str = "",
    mode: str = "File",
    own_share: bool = False,
    content_type: str | None = None,
) -> Stream:
    """A stream over what lies at a path or URL. Raises StorageError, DataError, ConfigError with what to do."""
    listing = find(where, channel=channel, said_by=said_by, mode=mode, own_share=own_share)
    fetcher = open_fetcher(listing.items[0].url if listing.items else where)
    listing, format = _format(listing, fetcher.get, content_type=content_type)
    _known(choices, format, listing)
    index = Index.of(listing, format, fetcher.get)
    return _kind(choices)(index, fetcher, choices, rank=rank, ranks=ranks)


def _format(listing: Listing, get: Get, *, content_type: str | None) -> tuple[Listing, Format]:
    if isinstance(listing, Augmented):
        return listing, AugmentedRows(listing)
    listing = formats.visible(listing)
    return listing, formats.find(listing, get, content_type=content_type)


def _known(choices: Choices, format: Format, listing: Listing) -> None:
    """Columns that are not there are a mistake, to be heard of before anything is read."""
    names = format.schema.names
    for column in choices.columns or ():
        if column not in names:
            raise DataError(f"{listing.root} has no column {column!r}; it has {', '.join(names)}")


def _kind(choices: Choices) -> type[Stream]:
    """With tensors comes torch, and with torch its DataLoader, which knows its datasets by their class."""
    if choices.kind != "torch":
        return Stream
    from trainkit.data.torch import TorchStream

    return TorchStream
