"""Safetensors files as everybody writes them: whole tensors, one file or several with an index, as Hugging Face's are.

Written and read without the library: it would hold a whole file in memory.
"""

from __future__ import annotations

import json
import math
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from trainkit.checkpoint.people import target as targets
from trainkit.checkpoint.people.importing import Given, Read
from trainkit.checkpoint.people.whole import Export
from trainkit.checkpoint.people.words import plain, some
from trainkit.checkpoint.plan import DTYPES, Tensor
from trainkit.errors import CheckpointError, UsageError
from trainkit.storage import files

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
_UNKNOWN = frozenset({"C128", "F8_E4M3FNUZ", "F8_E5M2FNUZ"})
_MOST_HEADER = 100_000_000
"""Bytes: the library's own limit."""
_MOST_INDEX = 1 << 28


class Source(NamedTuple):
    """A tensor in a file: `size` bytes from `start`."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    url: str
    start: int
    size: int


@dataclass(frozen=True, slots=True)
class Written:
    files: int
    bytes: int
    tensors: int


def write(export: Export, target: str, *, most: int) -> Written:
    """Write all tensors to `target`: one file where that ends in .safetensors, else a folder, in files of `most` bytes.

    Raises UsageError where something is there already, CheckpointError and StorageError for what cannot be read.
    """
    if strange := [tensor.name for _, tensor in export.tensors if tensor.dtype in _UNKNOWN]:
        raise CheckpointError(
            f"safetensors has no dtype for {some(strange)}. Export to dcp, or --only what it can hold"
        )
    targets.refuse_existing(target)
    if target.endswith(".safetensors"):
        return Written(1, _put(target, export, export.tensors), len(export.tensors))
    if targets.is_url(target):
        return _folder(target, export, most)
    path = Path(target.removeprefix("file://"))
    with targets.committed_folder(path) as scratch:
        return _folder(str(scratch), export, most)


def _folder(folder: str, export: Export, most: int) -> Written:
    shards = list(_shards(export, most))
    if len(shards) == 1:
        return Written(1, _put(f"{folder}/{SINGLE}", export, shards[0]), len(export.tensors))
    total = 0
    names: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        total += _put(f"{folder}/{name}", export, shard)
        names |= {key: name for key, _ in shard}
    size = sum(export.size(tensor) for _, tensor in export.tensors)
    index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(names.items()))}
    files.put_new(f"{folder}/{INDEX}", (json.dumps(index, indent=2) + "\n").encode())  # last: it names the others
    return Written(len(shards) + 1, total, len(export.tensors))


def _shards(export: Export, most: int) -> Iterator[list[tuple[str, Tensor]]]:
    """Tensors that go into one file. One that is larger than `most` has a file of its own."""
    shard: list[tuple[str, Tensor]] = []
    held = 0
    for name, tensor in export.tensors:
        size = export.size(tensor)
        if shard and held + size > most:
            yield shard
            shard, held = [], 0
        shard.append((name, tensor))
        held += size
    yield shard


def _put(url: str, export: Export, tensors: Sequence[tuple[str, Tensor]]) -> int:
    names = {name for name, _ in tensors}
    # What safetensors.torch.load_model looks for: which names are further ones of the same tensor.
    tied = {alias: kept for alias, kept in export.aliases().items() if kept in names and alias not in names}
    entries: dict[str, Any] = {"__metadata__": {**tied, "format": "pt"}}
    at = 0
    for name, tensor in tensors:
        size = export.size(tensor)
        shape = list(export.shape(tensor))
        entries[name] = {"dtype": tensor.dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(entries, separators=(",", ":")).encode()
    text = text.ljust(-(-len(text) // 8) * 8)
    if len(text) > _MOST_HEADER:
        raise UsageError(f"{len(tensors)} tensors are too many for one file; export to a folder, with a --max-size")

    def chunks() -> Iterator[bytes | memoryview]:
        yield len(text).to_bytes(8, "little") + text
        yield from export.stream([tensor for _, tensor in tensors])

    files.put_stream(url, chunks(), replace=False)
    return 8 + len(text) + at


def given(where: str, *, prefix: str) -> tuple[list[Given], dict[str, str]]:
    """What `read` finds, to be imported: the tensors whose names begin with `prefix`, without it."""
    sources, tied = read(where)
    chosen = [one for one in sources if one.name.startswith(prefix) and one.name != prefix]
    if not chosen:
        raise UsageError(
            f"{where} has no tensors {f'below {prefix!r}; it has' if prefix else ''} {some(s.name for s in sources)}"
        )
    names = {one.name for one in chosen}
    return [
        Given(one.name.removeprefix(prefix), one.dtype, one.shape, one.size, _reader(one)) for one in chosen
    ], {alias.removeprefix(prefix): kept.removeprefix(prefix)
        for alias, kept in tied.items() if kept in names and alias.startswith(prefix)}  # fmt: skip


def _reader(one: Source) -> Read:
    return lambda start, size: memoryview(files.get_range(one.url, one.start + start, size))


def read(where: str) -> tuple[list[Source], dict[str, str]]:
    """The tensors of a file, of an index, or of a folder with either; and further names of tied ones.

    Nothing but headers is read. Raises CheckpointError, with file and key, for what is no such thing; StorageError.
    """
    if where.endswith(".safetensors"):
        return _file(where)
    if where.endswith(".json"):
        return _index(where)
    folder = where.rstrip("/")
    if files.head(f"{folder}/{INDEX}"):
        return _index(f"{folder}/{INDEX}")
    if files.head(f"{folder}/{SINGLE}"):
        return _file(f"{folder}/{SINGLE}")
    raise UsageError(f"{where} has neither {INDEX} nor {SINGLE}. Name the .safetensors file itself")


def _index(url: str) -> tuple[list[Source], dict[str, str]]:
    entry = files.head(url)
    if entry and entry.size > _MOST_INDEX:
        raise CheckpointError(f"{url}: an index of {entry.size} bytes is none")
    try:
        shards: Mapping[str, str] = json.loads(files.get(url))["weight_map"]
        wrong = next(((key, name) for key, name in shards.items() if not _is_name(name)), None)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{url} is no index of safetensors: {type(error).__name__}: {error!s:.100}") from None
    if wrong:
        raise CheckpointError(
            f"{url}: weight_map says that {plain(wrong[0])} is in {plain(wrong[1])!r}, which is no file beside it"
        )
    found: dict[str, Source] = {}
    tied: dict[str, str] = {}
    for name in sorted(set(shards.values())):
        sources, further = _file(posixpath.join(posixpath.dirname(url), name))
        found |= {one.name: one for one in sources if shards.get(one.name) == name}
        tied |= further
    if missing := sorted(shards.keys() - found.keys()):
        raise CheckpointError(f"{url}: {some(missing)} is not in the file that weight_map says ({shards[missing[0]]})")
    return list(found.values()), {alias: kept for alias, kept in tied.items() if kept in found}


def _is_name(name: Any) -> bool:
    return isinstance(name, str) and name.endswith(".safetensors") and not {"/", "\\", "\0"} & {*name}


def _file(url: str) -> tuple[list[Source], dict[str, str]]:
    entry = files.head(url)
    if entry is None:
        raise UsageError(f"{url}: there is no such file. Compare the name, letter by letter")
    length = int.from_bytes(files.get_range(url, 0, 8), "little") if entry.size >= 8 else 0
    if not 2 <= length <= min(_MOST_HEADER, entry.size - 8):
        raise CheckpointError(f"{url} is no safetensors file: of its {entry.size} bytes, the header would be {length}")
    try:
        header = json.loads(files.get_range(url, 8, length), object_pairs_hook=_once)
        metadata = header.pop("__metadata__", None) or {}
        tied = {str(alias): str(kept) for alias, kept in metadata.items()}
        sources = [_source(url, name, one, 8 + length) for name, one in header.items()]
    except _Wrong as wrong:
        raise CheckpointError(f"{url}: {wrong}") from None
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{url} is no safetensors file: its header: {error!s:.100}") from None
    end = 8 + length
    for one in sorted(sources, key=lambda one: (one.start, one.size)):
        if one.start != end:
            raise CheckpointError(f"{url}: {plain(one.name)} does not begin where the tensor before it ends")
        end += one.size
    if end != entry.size:
        raise CheckpointError(f"{url} has {entry.size} bytes, and its header speaks of {end}: it is not whole")
    names = {one.name for one in sources}
    return sources, {alias: kept for alias, kept in tied.items() if kept in names and alias not in names}


class _Wrong(Exception):
    pass


def _source(url: str, name: str, entry: Any, base: int) -> Source:
    try:
        dtype, shape, (start, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    except (TypeError, KeyError, ValueError):
        raise _Wrong(f"what it says of {plain(name)} makes no sense") from None
    if dtype not in DTYPES:
        raise _Wrong(f"{plain(name)} is of dtype {plain(dtype)}, which no checkpoint can hold")
    if not isinstance(shape, list) or not all(type(n) is int and 0 <= n < 1 << 60 for n in (*shape, start, end)):
        raise _Wrong(f"what it says of {plain(name)} makes no sense")
    if end - start != math.prod(shape) * DTYPES[dtype]:
        raise _Wrong(f"{plain(name)} has {end - start} bytes, and needs {math.prod(shape) * DTYPES[dtype]}")
    return Source(name, dtype, tuple(shape), url, base + start, end - start)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    return found
