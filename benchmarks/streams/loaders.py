"""Every loader that streaming.py compares, at its best documented settings: one process, no workers, batches of 64.

A loader is a function that imports what it needs and returns (versions, run): imports are not measured, `run()` is. It
yields lists of (id, label, data). The endpoint and the credentials come from the environment, as in a job.
"""

from __future__ import annotations

import importlib.machinery
import itertools
import json
import os
import sys
import types
from collections.abc import Callable, Generator, Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

BATCH = 64
Rows = list[tuple[int, int, bytes]]


class Asked(NamedTuple):
    """What a run is told."""

    url: str
    cache: Path
    """An empty folder, for loaders that need a disk."""
    state: str = ""
    """A stream's state to go on from, as JSON."""


class Loader(NamedTuple):
    versions: str
    run: Callable[[], Generator[Rows, None, None]]


def trainkit(asked: Asked, *, kind: str = "numpy", fetcher: str | None = None, save: Path | None = None) -> Loader:
    """Ours, shuffled. `save`: only write the state at 90 % of the epoch."""
    import trainkit
    import trainkit.data.fetch.http
    import trainkit.data.formats.arrow
    import trainkit.data.formats.parquet
    import trainkit.data.formats.tar
    import trainkit.data.open
    import trainkit.storage.files

    versions = f"{version('trainkit')}, pyarrow {version('pyarrow')}, boto3 {version('boto3')}"
    if kind == "torch":
        import trainkit.data.torch
    if fetcher == "fsspec":
        import s3fs

        versions += f", s3fs {s3fs.__version__}"

    def run() -> Generator[Rows, None, None]:
        stream = trainkit.job().stream(
            asked.url, batch_size=BATCH, shuffle=True, kind=kind, tail="exact", fetcher=fetcher  # type: ignore[arg-type]
        )  # fmt: skip
        if save:
            state = {**stream.state_dict(), "position": int(len(stream) * 0.9) * BATCH}
            save.write_text(json.dumps(state), encoding="ascii")
            return
        if asked.state:
            stream.load_state_dict(json.loads(asked.state))
        for batch in stream:
            if "bin" in batch:  # tars: everything is bytes
                rows = zip(batch["id"], batch["cls"], batch["bin"], strict=True)
                yield [(int(id), int(label), data) for id, label, data in rows]
            else:
                yield list(zip(batch["id"].tolist(), batch["label"].tolist(), batch["data"], strict=True))

    return Loader(versions, run)


def pyarrow_dataset(asked: Asked, *, format: str) -> Loader:
    """In the order of the files, which it is given by name; its read-ahead and pre-buffering are on by default."""
    import pyarrow.dataset
    import pyarrow.fs

    ending = {"feather": "arrow"}.get(format, format)
    place = asked.url.removeprefix("s3://")
    paths = [f"{place}{shard:05}.{ending}" for shard in range(int(os.environ["BENCH_SHARDS"]))]

    def run() -> Generator[Rows, None, None]:
        endpoint = os.environ["AWS_ENDPOINT_URL_S3"].removeprefix("http://")
        system = pyarrow.fs.S3FileSystem(endpoint_override=endpoint, scheme="http", region="us-east-1")
        data = pyarrow.dataset.dataset(paths, filesystem=system, format=format)
        for batch in data.to_batches():
            columns = [batch.column(name).to_pylist() for name in ("id", "label", "data")]
            yield from _batches(zip(*columns, strict=True))

    return Loader(version("pyarrow"), run)


def mosaic(asked: Asked) -> Loader:
    """py1e, its default shuffle."""
    stand_in()
    import boto3  # noqa: F401 (or it would be imported while the time runs)
    import streaming
    import streaming.base.storage

    streaming.base.util.clean_stale_shared_memory()

    def run() -> Generator[Rows, None, None]:
        data = streaming.StreamingDataset(
            remote=asked.url, local=str(asked.cache), shuffle=True, shuffle_algo="py1e", batch_size=BATCH
        )
        yield from _batches((one["id"], one["label"], one["data"]) for one in data)

    return Loader(version("mosaicml-streaming"), run)


def litdata(asked: Asked) -> Loader:
    """FullShuffle. Its obstore refuses plain HTTP, which it has no setting for: allowed here."""
    import boto3  # noqa: F401
    import litdata
    import litdata.streaming.downloader as downloader
    import obstore.store  # noqa: F401

    downloader._OBSTORE_CLIENT_OPTIONS["allow_http"] = True
    options = {"endpoint_url": os.environ["AWS_ENDPOINT_URL_S3"], "region_name": "us-east-1"}

    def run() -> Generator[Rows, None, None]:
        data = litdata.StreamingDataset(asked.url, cache_dir=str(asked.cache), shuffle=True, storage_options=options)
        yield from _batches((one["id"], one["label"], one["data"]) for one in data)

    return Loader(f"{version('litdata')}, obstore {version('obstore')}", run)


def webdataset(asked: Asked) -> Loader:
    """pipe:curl as its documentation has it; shards shuffled, and 1,000 samples in a buffer."""
    import webdataset

    endpoint = os.environ["AWS_ENDPOINT_URL_S3"]
    count = int(os.environ["BENCH_SHARDS"])
    place = asked.url.removeprefix("s3://")
    urls = [f"pipe:curl -s -L -f --retry 5 {endpoint}/{place}{shard:05}.tar" for shard in range(count)]

    def run() -> Generator[Rows, None, None]:
        data = webdataset.WebDataset(urls, shardshuffle=count).shuffle(1000)
        yield from _batches((int(one["id"]), int(one["cls"]), one["bin"]) for one in data)

    return Loader(version("webdataset"), run)


def s3torchconnector(asked: Asked) -> Loader:
    """Its sequential reader under tarfile: it knows no samples, and does not shuffle."""
    import tarfile

    import s3torchconnector

    def run() -> Generator[Rows, None, None]:
        data = s3torchconnector.S3IterableDataset.from_prefix(
            asked.url,
            region="us-east-1",
            endpoint=os.environ["AWS_ENDPOINT_URL_S3"],
            s3client_config=s3torchconnector.S3ClientConfig(force_path_style=True),
        )
        yield from _batches(itertools.chain.from_iterable(map(members, data)))

    def members(reader: Any) -> Iterator[tuple[int, int, bytes]]:
        parts: list[bytes] = []
        with tarfile.open(fileobj=reader, mode="r|") as archive:
            for member in archive:
                file = archive.extractfile(member)
                assert file
                parts.append(file.read())
                if len(parts) == 3:
                    yield int(parts[0]), int(parts[1]), parts[2]
                    parts = []

    return Loader(version("s3torchconnector"), run)


def floor(asked: Asked) -> Loader:
    """Bytes only: each object of the packed Arrow files by one connection of http.client into one buffer."""
    import http.client

    count = int(os.environ["BENCH_SHARDS"])

    def run() -> Generator[Rows, None, None]:
        line = http.client.HTTPConnection(os.environ["AWS_ENDPOINT_URL_S3"].removeprefix("http://"))
        buffer = memoryview(bytearray(32 << 20))
        for shard in range(count):
            line.request("GET", f"/{asked.url.removeprefix('s3://')}{shard:05}.arrow")
            with line.getresponse() as answer:
                at = 0
                while came := answer.readinto(buffer[at : at + (1 << 20)]):
                    at += came
            yield []
        line.close()

    return Loader("", run)


def stand_in() -> None:
    """Mosaic imports transformers and torchvision for its text and image data sets, and nothing that runs here."""
    for name in (
        "torchvision", "torchvision.datasets", "torchvision.transforms", "torchvision.transforms.functional",
        "transformers", "transformers.feature_extraction_utils", "transformers.tokenization_utils_base",
        "transformers.models", "transformers.models.auto", "transformers.models.auto.tokenization_auto",
    ):  # fmt: skip
        module = types.ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)
        module.__path__ = []
        for used in ("VisionDataset", "CIFAR10", "to_tensor", "AutoTokenizer", "BatchFeature", "BatchEncoding"):
            setattr(module, used, type(used, (), {}))
        sys.modules[name] = module


def _batches(samples: Iterable[tuple[int, int, bytes]]) -> Iterator[Rows]:
    running = iter(samples)
    while batch := list(itertools.islice(running, BATCH)):
        yield batch


LOADERS: dict[str, Callable[..., Loader]] = {
    made.__name__: made for made in (trainkit, pyarrow_dataset, mosaic, litdata, webdataset, s3torchconnector, floor)
}
