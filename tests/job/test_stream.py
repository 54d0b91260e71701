"""job.stream: a channel, or any URL, as batches; exact in torch's DataLoader, too."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from harness import DEADLINE, environment
from servers.s3 import S3Server

from trainkit.errors import ConfigError, DataError, StorageError
from trainkit.job import facts
from trainkit.job.context import Context
from trainkit.job.signals import Stop
from trainkit.storage import files

ROWS = 230


def parquet(folder: Path) -> Path:
    """Three files of 230 rows in all, ten to a row group."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, start, end in (("a", 0, 100), ("b", 100, 101), ("c", 101, ROWS)):
        ids = np.arange(start, end)
        x = pa.array(np.stack([ids, -ids], 1).tolist(), pa.list_(pa.float32(), 2))
        table = pa.table({"id": ids, "x": x, "ids": [[row] * 3 for row in ids.tolist()]})
        pq.write_table(table, folder / f"{name}.parquet", row_group_size=10)
    (folder / "_SUCCESS").touch()
    return folder


def job(tmp_path: Path, *, rank: int = 0, ranks: int = 1, **channels: str) -> Context:
    environ = {f"TRAINKIT_CHANNEL_{name.upper()}": where for name, where in channels.items()}
    given = {**environ, "RANK": str(rank), "WORLD_SIZE": str(ranks)}
    return Context(facts.read(given, argv=[], cwd=tmp_path), stop=Stop())


def test_a_channel_streams_whole_epochs_of_numbers(tmp_path: Path) -> None:
    here = job(tmp_path, train=str(parquet(tmp_path / "data")))
    stream = here.stream("train", batch_size=50, shuffle=True, tail="exact", kind="numpy")
    assert len(stream) == 5
    batches = list(stream)
    ids = np.concatenate([batch["id"] for batch in batches])
    assert sorted(ids.tolist()) == list(range(ROWS))
    assert ids.tolist() != list(range(ROWS))
    x = np.concatenate([batch["x"] for batch in batches])
    assert x.dtype == np.float32
    assert (x == np.stack([ids, -ids], 1)).all()
    assert stream.epoch == 1


def test_the_same_data_has_the_same_order_in_s3_and_mounted(tmp_path: Path, s3: S3Server) -> None:
    data = parquet(tmp_path / "data")
    for file in data.iterdir():
        files.put_new(f"{s3.bucket}/train/{file.name}", file.read_bytes())
    s3.forget_counts()
    streams = [
        job(tmp_path, train=where).stream("train", batch_size=7, shuffle=True, kind="numpy", columns=["id"])
        for where in (f"{s3.bucket}/train", str(data))
    ]
    direct, mounted = ([batch["id"].tolist() for batch in stream] for stream in streams)
    assert direct == mounted
    assert len(direct) == ROWS // 7
    assert s3.counts["HeadObject"] == 0
    assert s3.counts["ListObjectsV2"] + s3.counts["ListObjects"] == 1
    assert s3.counts["GetObject"] <= 24 + 3 + 1  # row groups, a footer each, and one more for what the first one is


def test_images_in_lists_of_a_fixed_size_come_as_they_are_wherever_a_batch_begins(tmp_path: Path) -> None:
    """pyarrow takes wrong rows from a slice of such."""
    ids = np.arange(600, dtype=np.float32)
    images = np.broadcast_to(ids[:, None, None], (600, 4, 3))
    kind = pa.list_(pa.list_(pa.float32(), 3), 4)
    pq.write_table(
        pa.table({"id": ids, "image": pa.array(images.tolist(), kind)}), tmp_path / "a.parquet", row_group_size=300
    )
    for shuffle in (False, True):
        for batch in job(tmp_path).stream(str(tmp_path), batch_size=7, shuffle=shuffle, lanes=1, kind="numpy"):
            assert (batch["image"] == batch["id"][:, None, None]).all()


def test_a_url_needs_no_channel(tmp_path: Path) -> None:
    stream = job(tmp_path).stream(str(parquet(tmp_path / "data")), batch_size=10, kind="arrow")
    assert sum(batch.num_rows for batch in stream) == ROWS


def test_what_is_not_there_is_said_before_anything_is_read(tmp_path: Path) -> None:
    here = job(tmp_path, train=str(parquet(tmp_path / "data")), empty=str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="is no channel of this job; there are train, empty"):
        here.stream("test", batch_size=1)
    with pytest.raises(StorageError, match="nothing is there"):
        here.stream("empty", batch_size=1)
    with pytest.raises(DataError, match=r"has no column 'y'; it has id, x, ids"):
        here.stream("train", batch_size=1, columns=["y"])
    with pytest.raises(ValueError, match="batch_size is 0"):
        here.stream("train", batch_size=0)
    with pytest.raises(ValueError, match=r"cache_bytes is 5: .* goes with cache, a folder"):
        here.stream("train", batch_size=1, cache_bytes=5)
    with pytest.raises(ValueError, match="tail is 'keep'"):
        here.stream("train", batch_size=1, tail="keep")  # type: ignore[arg-type]


TORCH = """
import itertools
import torch
from torch.utils.data import DataLoader
import trainkit
from trainkit.errors import DataError

job = trainkit.job()

def stream(**more):
    return job.stream("train", batch_size=8, shuffle=True, **more)

alone = [batch["id"].tolist() for batch in stream()]
batch = next(iter(stream()))
assert batch["id"].dtype == torch.int64 and batch["x"].shape == (8, 2) and batch["x"].dtype == torch.float32
for workers in (0, 2):
    loader = DataLoader(stream(), batch_size=None, num_workers=workers)
    assert len(loader) == len(alone)
    assert [batch["id"].tolist() for batch in loader] == alone, workers

from accelerate import Accelerator
from accelerate.data_loader import prepare_data_loader
mixture = job.mixture({"a": (stream(), 0.5), "b": (stream(seed=1), 0.5)})
packed = stream().packed("ids", length=4, batch_size=2)
for dispatch, whole in itertools.product((False, True), (stream(), mixture, packed)):
    try:
        size = None if dispatch else 2  # without a size, accelerate's own shards fail
        loader = prepare_data_loader(DataLoader(whole, batch_size=size), num_processes=2, process_index=0,
                                     device=torch.device("cpu"), put_on_device=True, dispatch_batches=dispatch)
        next(iter(loader))
    except DataError as error:
        assert "a second time" in str(error)
    else:
        raise AssertionError(f"dispatch_batches={dispatch} split the {whole}")
with_steps = [batch["id"].tolist() for step, batch in job.steps(stream())]
assert with_steps == alone
print("all is well")
"""


@pytest.mark.torch
def test_torchs_loaders_give_the_same_batches_and_accelerate_may_not_split_any_stream_again(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(TORCH)
    environ = environment(TRAINKIT_CHANNEL_TRAIN=str(parquet(tmp_path / "data")))
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=DEADLINE,
        check=False,
    )  # fmt: skip
    assert "all is well" in done.stdout, done.stdout + done.stderr
