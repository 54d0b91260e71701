"""Which format items have: by their names, else by the channel's content type, else by their first bytes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from trainkit.data.formats.base import wrong
from trainkit.data.formats.records import MAGIC as RECORDIO_MAGIC
from trainkit.data.formats.records import begins_tfrecord
from trainkit.data.items import Get, Item, Listing
from trainkit.errors import DataError


class Kind(NamedTuple):
    """A format, and what it is compressed with as a whole."""

    name: str
    codec: str | None = None

    def __str__(self) -> str:
        return f"{self.name} in {self.codec}" if self.codec else self.name


_NAMES = {
    "Parquet": ("parquet", "pq"),
    "Arrow IPC": ("arrow", "feather", "ipc", "arrows"),
    "JSON lines": ("jsonl", "ndjson", "json", "jsonlines"),
    "CSV": ("csv",),
    "TSV": ("tsv", "tab"),
    "text": ("txt", "text"),
    "WebDataset": ("tar",),
    "RecordIO": ("rec", "recordio"),
    "TFRecord": ("tfrecord", "tfrecords"),
    "files": (
        "jpg", "jpeg", "png", "gif", "bmp", "tif", "tiff", "webp", "ppm", "pgm", "heic", "avif", "jp2", "dcm",
        "wav", "flac", "mp3", "ogg", "opus", "m4a", "mp4", "avi", "mov", "mkv", "webm",
        "npy", "npz", "pt", "pth", "pkl", "safetensors", "pdf", "xml", "html",
    ),
}  # fmt: skip
_BY_NAME = {extension: kind for kind, extensions in _NAMES.items() for extension in extensions}
_CODECS = {"gz": "gzip", "gzip": "gzip", "zst": "zstd", "zstd": "zstd"}
_WHOLE = {"tgz": Kind("WebDataset", "gzip")}
_NOT_PACKED = ("Parquet", "Arrow IPC", "files")  # compressed within; or not to be unpacked unasked
_BY_TYPE = {
    "application/x-parquet": "Parquet",
    "application/parquet": "Parquet",
    "application/vnd.apache.parquet": "Parquet",
    "application/vnd.apache.arrow.file": "Arrow IPC",
    "application/vnd.apache.arrow.stream": "Arrow IPC",
    "application/jsonlines": "JSON lines",
    "application/x-jsonlines": "JSON lines",
    "application/jsonl": "JSON lines",
    "application/x-ndjson": "JSON lines",
    "application/json": "JSON lines",
    "text/csv": "CSV",
    "text/tab-separated-values": "TSV",
    "text/plain": "text",
    "application/x-tar": "WebDataset",
    "application/x-recordio": "RecordIO",
    "application/x-recordio-protobuf": "RecordIO",
    "application/x-tfrecord": "TFRecord",
    "application/x-image": "files",
}
_BESIDE = {"crc", "idx"}  # what writers put beside their data: checksums, and where records lie


def visible(listing: Listing) -> Listing:
    """The listing without what is no data: hidden files and folders, markers such as _SUCCESS, and empty files."""
    items = tuple(item for item in listing.items if item.size and not _hidden(listing.name(item)))
    return Listing(items, listing.root, listing.own_share)


def kind_of(listing: Listing, get: Get, *, content_type: str | None) -> Kind:
    """The one kind that all items have. Raises DataError naming two where they are of several."""
    found: dict[Kind, Item] = {}
    unnamed: Item | None = None
    for item in listing.items:
        kind = _by_name(item)
        if kind is None:
            unnamed = unnamed or item
        elif kind not in found:
            found[kind] = item
    if unnamed:
        kind = _by_type(content_type) or _by_content(unnamed, get)
        found.setdefault(kind, unnamed)
    if len(found) > 1:
        raise _mixed(found.items())
    ((kind, item),) = found.items()
    if kind.codec and kind.name in _NOT_PACKED:
        raise wrong(item, f"is {kind}", f"Decompress it, and let {kind.name} compress its own pages")
    return kind


def _mixed(found: Iterable[tuple[Kind, Item]]) -> DataError:
    (one, first), (other, second) = list(found)[:2]
    return wrong(first, f"is {one}, and {second.url} is {other}", "Give each a channel, or a prefix, of its own")


def _hidden(name: str) -> bool:
    *folders, base = name.split("/")
    stem, _, extension = base.rpartition(".")
    known = not stem or _BY_NAME.get(extension, "files") != "files" or extension in _CODECS
    return (
        any(folder.startswith((".", "_")) for folder in folders)
        or base.startswith(".")
        or (base.startswith("_") and known)  # as Hive has it; a photograph may be called so
        or extension in _BESIDE
    )


def _by_name(item: Item) -> Kind | None:
    base = item.url.rpartition("/")[2].lower()
    parts = base.split(".")[1:]
    codec = _CODECS.get(parts[-1]) if parts else None
    inner = parts[:-1] if codec else parts
    if not inner:
        return None
    if inner[-1] in _WHOLE:
        return _WHOLE[inner[-1]]
    name = _BY_NAME.get(inner[-1])
    return Kind(name, codec) if name else None


def _by_type(content_type: str | None) -> Kind | None:
    plain = (content_type or "").partition(";")[0].strip().lower()
    if plain.startswith(("image/", "audio/", "video/")):
        return Kind("files")
    return Kind(_BY_TYPE[plain]) if plain in _BY_TYPE else None


def _by_content(item: Item, get: Get) -> Kind:
    head = bytes(get(item, 0, min(item.size, 512)))
    if head[:2] == b"\x1f\x8b" or head[:4] == b"\x28\xb5\x2f\xfd":
        raise wrong(item, "is compressed, and its name does not say what it is", "Name it so: rows.jsonl.gz")
    if head[:4] in (b"PAR1", b"PARE"):
        return Kind("Parquet")
    if head[:6] == b"ARROW1" or head[:4] == b"\xff\xff\xff\xff":
        return Kind("Arrow IPC")
    if head[:4] == RECORDIO_MAGIC:
        return Kind("RecordIO")
    if head[257:262] == b"ustar":
        return Kind("WebDataset")
    if len(head) >= 12 and begins_tfrecord(head):
        return Kind("TFRecord")
    return Kind("JSON lines") if head.lstrip()[:1] == b"{" else Kind("files")
