"""job.stream(fetcher=…): who reads, where that is not left to the URL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from servers.s3 import S3Server

from trainkit.job import facts
from trainkit.job.context import Context
from trainkit.job.signals import Stop
from trainkit.storage import files

ROWS = b"".join(b'{"id": %d}\n' % number for number in range(100))


@pytest.fixture
def job(tmp_path: Path) -> Context:
    return Context(facts.read({}, argv=[], cwd=tmp_path), stop=Stop())


@pytest.mark.parametrize("fetcher", [None, "http", "boto3", "fsspec"])
def test_each_fetcher_reads_the_same_rows(job: Context, s3: S3Server, fetcher: Any) -> None:
    files.put_new(f"{s3.bucket}/train/a.jsonl", ROWS)
    streams = {
        name: job.stream(f"{s3.bucket}/train", batch_size=10, kind="numpy", fetcher=fetcher) for name in ("one", "two")
    }
    assert {stream._fetcher.name for stream in streams.values()} == {fetcher or "http"}  # type: ignore[union-attr]
    both = job.mixture({name: (stream, 0.5) for name, stream in streams.items()}, until=30)
    assert {int(one) for batch in both for one in batch["id"]} == set(range(100))


def test_a_fetcher_that_is_none_or_reads_elsewhere_is_said(job: Context, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(ROWS)
    with pytest.raises(ValueError, match="fetcher is 'obstore': must be one of local, http, boto3, fsspec, or None"):
        job.stream("s3://nowhere/x", batch_size=1, fetcher="obstore")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="fetcher is 'boto3', which reads s3://, and the data is at /"):
        job.stream(str(tmp_path), batch_size=1, fetcher="boto3")
