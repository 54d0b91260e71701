"""How rows lie in files: which spans of bytes can be fetched apart, and what rows come out of them.

    listing = formats.visible(listing)
    format = formats.find(listing, get)                     # reads the first item's head or footer
    spans = format.spans(item, get)                         # where rows lie, and how many
    table = format.decode(item, span, data, ["id"])         # from the span's bytes alone

What is read comes from anywhere, and is trusted in nothing: bytes that are not what they should be raise DataError,
which names the item, where in it, and what to do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from trainkit.data.formats.base import BLOCK, Format, Span, wrong
from trainkit.data.formats.choose import kind_of, visible
from trainkit.data.items import Get, Item, Listing

__all__ = ["BLOCK", "Format", "Span", "find", "visible"]

_Maker = Callable[[Sequence[Item], Get], Format]


def find(listing: Listing, get: Get, *, content_type: str | None = None) -> Format:
    """The format that all of the listing's visible items have; what is hidden is passed over.

    Reads what decides the columns: the first item's footer, or its first rows. `content_type` (as the channel says it)
    counts where names say nothing. Raises DataError for a listing without data, or with several formats.
    """
    listing = visible(listing)
    if not listing.items:
        raise wrong(Item(listing.root, 0), "there is no data, nothing but hidden or empty files", "Compare the prefix")
    kind = kind_of(listing, get, content_type=content_type)
    maker = _maker(kind.name, listing)
    if kind.codec is None:
        return maker(listing.items, get)
    from trainkit.data.formats.compressed import Compressed

    return Compressed.of(listing.items, get, codec=kind.codec, inner=maker)


def _maker(name: str, listing: Listing) -> _Maker:
    """Each format imports its own part of pyarrow, a quarter of a second in some: only the one that is needed."""
    if name == "Parquet":
        from trainkit.data.formats.parquet import Parquet

        return Parquet.of
    if name == "Arrow IPC":
        from trainkit.data.formats.arrow import Arrow

        return Arrow.of
    if name == "JSON lines":
        from trainkit.data.formats.jsonl import JsonLines

        return JsonLines.of
    if name in ("CSV", "TSV"):
        from trainkit.data.formats.csv import Csv

        return partial(Csv.of, delimiter="," if name == "CSV" else "\t")
    if name == "text":
        from trainkit.data.formats.text import Text

        return Text.of
    if name == "WebDataset":
        from trainkit.data.formats.tar import WebDataset

        return WebDataset.of
    if name == "files":
        from trainkit.data.formats.files import Files

        return lambda items, get: Files(listing)
    from trainkit.data.formats.records import RECORDIO, TFRECORD, Records

    framing = RECORDIO if name == "RecordIO" else TFRECORD
    return lambda items, get: Records(framing)
