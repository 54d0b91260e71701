"""torch.distributed.checkpoint's directories, by torch's own writer and reader: this is where torch comes in.

Keys are those of torch's get_model_state_dict and get_optimizer_state_dict, under the objects' names; of one object
alone (`only`) they are at the top, as torchtitan has them. What DCP keeps beside tensors it pickles.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import MetadataIndex, TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_saver import save

from trainkit.checkpoint import own
from trainkit.checkpoint.holdings import DTYPES, OF_NAME
from trainkit.checkpoint.people import target as targets
from trainkit.checkpoint.people.importing import Given
from trainkit.checkpoint.people.whole import Export, is_module, is_optimizer
from trainkit.checkpoint.people.words import some
from trainkit.checkpoint.plan import Tensor as Planned
from trainkit.errors import CheckpointError, TrainkitError, UsageError

METADATA = ".metadata"


def write(export: Export, target: str) -> tuple[str, ...]:
    """Write models and optimizers; the folder appears whole, or not at all. Returns the objects that were left out.

    Raises UsageError where something is there already, CheckpointError and StorageError for what cannot be read.
    """
    if targets.is_url(target):
        raise UsageError(f"{target}: DCP is written to local folders only. Name one, and copy it")
    targets.refuse_existing(target)
    state, sources, left_out = _state(export)
    planner = _Planner(export, sources)
    with targets.committed_folder(Path(target.removeprefix("file://"))) as scratch, _quiet():
        writer = FileSystemWriter(scratch, thread_count=1, per_thread_copy_ahead=0, overwrite=False)
        try:
            save(state, storage_writer=writer, planner=planner, no_dist=True)
        except CheckpointException as error:
            raise planner.problem or CheckpointError(f"{target}: torch could not write it: {error!s:.300}") from error
    return left_out


def _state(export: Export) -> tuple[dict[str, Any], dict[str, Planned], tuple[str, ...]]:
    """The state dict, with tensors that have no data yet; where the data of each is; and what is not in it."""
    sources = dict(export.tensors)
    state: dict[str, Any] = {}
    left_out: list[str] = []
    for name in export.images:
        if export.only not in (None, name):
            continue
        prefix = "" if export.only else f"{name}."
        described = export.tree(name)
        if is_module(described):
            tensors = {key.removeprefix(prefix): _empty(export, one) for key, one in _below(sources, prefix)}
            for alias, kept in described["aliases"].items():
                tensors[alias], sources[prefix + alias] = tensors[kept], sources[prefix + kept]
            of_name = {**tensors, **own.decode(export.images[name])["others"]}
        elif is_optimizer(described):
            of_name = _optimizer(own.decode(export.images[name]))
            for key, one in _below(sources, f"{prefix}state."):
                parameter, _, entry = key.removeprefix(f"{prefix}state.").rpartition(".")
                of_name["state"].setdefault(parameter, {})[entry] = _empty(export, one)
        else:
            left_out.append(name)
            continue
        if export.only:
            state = of_name
        else:
            state[name] = of_name
    if not state:
        raise CheckpointError(f"{export.attempt.name} has no model and no optimizer, which is what DCP could take")
    return state, sources, tuple(left_out)


def _below(sources: Mapping[str, Planned], prefix: str) -> list[tuple[str, Planned]]:
    return [(key, one) for key, one in sources.items() if key.startswith(prefix)]


def _optimizer(tree: Any) -> dict[str, Any]:
    return {"state": {name: dict(entries) for name, entries in tree["others"].items()}, "param_groups": tree["groups"]}


def _empty(export: Export, tensor: Planned) -> Tensor:
    return torch.empty(export.shape(tensor), dtype=OF_NAME[tensor.dtype], device="meta")


class _Planner(DefaultSavePlanner):
    """Reads each tensor when torch is about to write it: one of them is in memory at a time."""

    def __init__(self, export: Export, sources: Mapping[str, Planned]) -> None:
        super().__init__()
        self._export, self._sources = export, sources
        self._last = torch.empty(0)
        self.problem: TrainkitError | None = None

    def lookup_object(self, index: MetadataIndex) -> Any:
        tensor = self._sources.get(index.fqn)
        if tensor is None:
            return super().lookup_object(index)
        self._last.untyped_storage().resize_(0)  # it is written, and torch keeps all that it wrote until the end
        whole = self._last = torch.empty(self._export.shape(tensor), dtype=OF_NAME[tensor.dtype])
        at = 0
        try:
            for chunk in self._export.stream([tensor]):
                room = whole.view(-1).view(torch.uint8)[at : at + len(chunk)]
                room.copy_(torch.frombuffer(chunk, dtype=torch.uint8))  # by way of numpy, it could not be resized
                at += len(chunk)
        except TrainkitError as error:
            self.problem = error
            raise
        return whole


def read(where: str, *, prefix: str | None) -> list[Given]:
    """The tensors of a model in a DCP directory. Unpickles: only for directories of those who are trusted.

    `prefix`: the model's are those whose keys begin so, and it is taken off. Without it, those of the entry "model";
    where there is none, all that are at the top. Raises UsageError and CheckpointError.
    """
    if targets.is_url(where):
        raise UsageError(f"{where}: DCP is read from local folders only. Copy it, and name the copy")
    folder = Path(where.removeprefix("file://"))
    if not (folder / METADATA).is_file():
        raise UsageError(f"{where} has no {METADATA}: it is no DCP directory, or was never finished")
    reader = FileSystemReader(folder)
    try:
        metadata = reader.read_metadata()
        reader.set_up_storage_reader(metadata, is_coordinator=True)
        tensors = {
            key: one for key, one in metadata.state_dict_metadata.items() if isinstance(one, TensorStorageMetadata)
        }
    except Exception as error:  # noqa: BLE001 (unpickling can raise anything)
        raise CheckpointError(f"{folder / METADATA} cannot be read: {type(error).__name__}: {error!s:.200}") from None
    if prefix is None:
        prefix = _model(metadata.planner_data or {}, tensors)
    top = metadata.planner_data or {}
    chosen = {
        key.removeprefix(prefix): key for key in tensors
        if key.startswith(prefix) and key != prefix and (prefix or len(top.get(key, (key,))) == 1)
    }  # fmt: skip
    if not chosen:
        raise UsageError(f"{where} has no tensors of a model there. Name their --prefix; it has {some(tensors)}")
    if strange := [key for key in chosen.values() if tensors[key].properties.dtype not in DTYPES]:
        raise CheckpointError(f"{where}: {some(strange)} is of a dtype that no checkpoint can hold")
    loader = _Loader(reader, metadata)
    return [
        Given(name, DTYPES[one.properties.dtype], tuple(one.size), _size(one), loader.of(key, one))
        for name, key in chosen.items() for one in [tensors[key]]
    ]  # fmt: skip


def _model(paths: Mapping[str, Any], tensors: Mapping[str, Any]) -> str:
    return (
        "model." if any(len(path) > 1 and path[0] == "model" for key, path in paths.items() if key in tensors) else ""
    )


def _size(one: TensorStorageMetadata) -> int:
    return math.prod(one.size) * one.properties.dtype.itemsize


class _Loader:
    """Holds one tensor: its ranges are asked for one after the other."""

    def __init__(self, reader: FileSystemReader, metadata: Any) -> None:
        self._reader, self._metadata = reader, metadata
        self._key: str | None = None
        self._tensor = torch.empty(0)

    def of(self, key: str, what: TensorStorageMetadata) -> Any:
        def part(start: int, size: int) -> memoryview:
            if key != self._key:
                self._tensor = self._load(key, what)
                self._key = key
            return _bytes(self._tensor)[start : start + size]

        return part

    def _load(self, key: str, what: TensorStorageMetadata) -> Tensor:
        tensor = torch.empty(what.size, dtype=what.properties.dtype)
        planner = DefaultLoadPlanner(flatten_state_dict=False)
        try:
            planner.set_up_planner({key: tensor}, self._metadata, is_coordinator=True)
            self._reader.read_data(planner.finish_plan(planner.create_local_plan()), planner).wait()
        except Exception as error:  # noqa: BLE001 (torch's own, pickle's, zip's and the file system's)
            raise CheckpointError(f"{self._reader.path}: {key} cannot be read: {error!s:.200}") from None
        return tensor


def _bytes(tensor: Tensor) -> memoryview:
    """Of a tensor that lies row by row."""
    content: Any = tensor.reshape(-1).view(torch.uint8).numpy() if tensor.numel() else b""
    return memoryview(content)


@contextmanager
def _quiet() -> Iterator[None]:
    """torch warns where there is no process group, which is how it is here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")
        yield
