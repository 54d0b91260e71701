"""Which items a channel has: the same ones in the same order however it comes, or an error that helps."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from servers.s3 import S3Server
from servers.s3sim import S3Sim

from trainkit.data.fetch.choose import open_fetcher
from trainkit.data.items import Item, Listing
from trainkit.data.sources.augmented import AugmentedRows
from trainkit.data.sources.find import find
from trainkit.data.sources.manifests import Augmented
from trainkit.errors import ConfigError, StorageError
from trainkit.storage import files

NAMES = ("a.parquet", "b/part-10.parquet", "b/part-9.parquet", "b-c/x.parquet", "b0.parquet")


@pytest.fixture
def sim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Sim]:
    for name in tuple(os.environ):
        if name.startswith("AWS_") or name in ("S3_ENDPOINT_URL", "TRAINKIT_S3_EXPECTED_OWNER"):
            monkeypatch.delenv(name)
    lay(tmp_path / "bucket/train")
    with S3Sim(tmp_path) as server:
        for name, value in server.environ.items():
            monkeypatch.setenv(name, value)
        yield server


def lay(folder: Path) -> None:
    for name in NAMES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())


def names(listing: Listing) -> list[str]:
    return [listing.name(item) for item in listing.items]


def test_a_folder_a_mount_and_s3_have_the_same_order(sim: S3Sim, tmp_path: Path) -> None:
    mounted = find(str(tmp_path / "bucket/train"), mode="FastFile")
    direct = find("s3://bucket/train")

    assert names(mounted) == names(direct) == sorted(NAMES)
    assert names(find("s3://bucket/train/")) == names(find(f"file://{tmp_path}/bucket/train/")) == sorted(NAMES)
    assert [item.size for item in direct.items] == [len(name) for name in sorted(NAMES)]
    assert all(item.etag for item in direct.items), "versions are not pinned"


def test_a_listing_takes_one_request_for_a_thousand_keys(sim: S3Sim, tmp_path: Path) -> None:
    many = tmp_path / "bucket/many"
    many.mkdir()
    for number in range(2500):
        (many / f"{number}.jpg").touch()

    assert len(find("s3://bucket/many").items) == 2500

    assert sim.stats["ListObjectsV2"] == sim.stats["requests"] == 3


def test_one_file_and_one_object_are_listings_of_one(sim: S3Sim, tmp_path: Path) -> None:
    for where in ("s3://bucket/train/a.parquet", str(tmp_path / "bucket/train/a.parquet")):
        listing = find(where)
        assert names(listing) == ["a.parquet"]
        assert listing.items[0].size == len("a.parquet")


def test_any_protocol_of_fsspec_is_listed() -> None:
    for name in NAMES:
        files.put_new(f"memory://listed/{name}", name.encode())
    assert names(find("memory://listed")) == sorted(NAMES)
    for name in NAMES:
        files.delete(f"memory://listed/{name}")


@pytest.mark.parametrize("where", ["s3://bucket/trian", "{tmp}/bucket/trian"])
def test_what_is_missing_is_told_with_what_is_beside_it(sim: S3Sim, tmp_path: Path, where: str) -> None:
    with pytest.raises(
        StorageError, match=r"bucket/trian: cannot list it: nothing is there.*Beside it are .*/train/?\."
    ):
        find(where.format(tmp=tmp_path))


def test_an_empty_channel_is_an_error_and_an_empty_share_is_not(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    with pytest.raises(StorageError, match="train: cannot list it: nothing is there"):
        find(str(tmp_path / "train"))
    assert find(str(tmp_path / "train"), own_share=True) == Listing((), f"{tmp_path}/train/", own_share=True)


def test_a_bucket_that_is_not_there_is_named(sim: S3Sim) -> None:
    with pytest.raises(StorageError, match=r"s3://bukket/train/?: cannot list it: NoSuchBucket"):
        find("s3://bukket/train")


def test_a_manifest_is_read_as_it_stands(sim: S3Sim, tmp_path: Path) -> None:
    chosen = ["b0.parquet", "b/part-9.parquet", "a.parquet"]
    manifest = [{"prefix": "s3://bucket/train/"}, *chosen]
    (tmp_path / "bucket/some.manifest").write_text(json.dumps(manifest))

    listing = find("s3://bucket/some.manifest")

    assert names(listing) == chosen
    assert [item.size for item in listing.items] == [len(name) for name in chosen]
    assert all(item.etag for item in listing.items)


def test_the_sizes_of_a_manifests_objects_are_listed_where_they_lie_together(sim: S3Sim, tmp_path: Path) -> None:
    many = tmp_path / "bucket/many"
    many.mkdir()
    for number in range(3000):
        (many / f"{number:04}.jpg").touch()
    chosen = [f"{number:04}.jpg" for number in range(1000, 1900)]
    manifest = json.dumps([{"prefix": "s3://bucket/many/"}, *chosen])
    (tmp_path / "bucket/some.manifest").write_text(manifest)

    assert names(find("s3://bucket/some.manifest")) == chosen

    assert sim.stats["ListObjectsV2"] == 1
    assert sim.stats["HeadObject"] == 1, "but for the manifest itself"


def test_few_objects_among_many_are_asked_for_one_by_one(sim: S3Sim, tmp_path: Path) -> None:
    many = tmp_path / "bucket/many"
    many.mkdir()
    for number in range(9000):
        (many / f"{number:04}.jpg").touch()
    chosen = [f"{number:04}.jpg" for number in range(0, 9000, 450)]
    manifest = json.dumps([{"prefix": "s3://bucket/many/"}, *chosen])
    (tmp_path / "bucket/some.manifest").write_text(manifest)

    assert names(find("s3://bucket/some.manifest")) == chosen

    assert sim.stats["ListObjectsV2"] == 1
    assert sim.stats["HeadObject"] <= len(chosen) + 1


def test_the_rows_of_an_augmented_manifest_are_lines_with_their_objects(sim: S3Sim, tmp_path: Path) -> None:
    lines = [
        {"source-ref": "s3://bucket/train/b0.parquet", "class": 3, "weight": 1, "label-metadata": {"by": "me"}},
        {"source-ref": "s3://bucket/train/a.parquet", "class": 1, "weight": 0.5, "note": "né"},
        {"source-ref": "s3://bucket/train/b0.parquet", "class": 2, "weight": 2, "note": None},
    ]
    (tmp_path / "bucket/some.manifest").write_text("\n".join(map(json.dumps, lines)) + "\n")

    listing = find("s3://bucket/some.manifest")
    assert isinstance(listing, Augmented)
    assert names(listing) == ["b0.parquet", "a.parquet"]
    fetcher, rows = open_fetcher("s3://bucket"), AugmentedRows(listing)
    tables = []
    for item in listing.items:
        (span,) = rows.spans(item, fetcher.get)
        tables.append(rows.decode(item, span, fetcher.get(item, span.start, span.length), None))

    assert [table.schema for table in tables] == [rows.schema] * 2
    assert tables[0].to_pylist() == [
        {"source-ref": b"b0.parquet", "class": 3, "weight": 1.0, "label-metadata": '{"by": "me"}', "note": None},
        {"source-ref": b"b0.parquet", "class": 2, "weight": 2.0, "label-metadata": None, "note": None},
    ]
    light = {"source-ref": b"a.parquet", "weight": 0.5, "note": "né"}
    assert tables[1].select(list(light)).to_pylist() == [light]
    assert rows.decode(listing.items[1], rows.spans(listing.items[1], fetcher.get)[0], memoryview(b""), ["class"])[
        "class"
    ].to_pylist() == [1]
    fetcher.close()


def test_objects_that_a_manifest_names_and_nobody_has_are_named(sim: S3Sim, tmp_path: Path) -> None:
    (tmp_path / "bucket/some.manifest").write_text('[{"prefix": "s3://bucket/train/"}, "a.parquet", "gone.parquet"]')
    with pytest.raises(StorageError, match=r"some.manifest: .*: s3://bucket/train/gone.parquet of it are not there"):
        find("s3://bucket/some.manifest")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ('["a"]', "does not begin with"),
        ('[{"prefix": "s3://bucket/"}]', "must list keys"),
        ('[{"prefix": "s3://bucket/"}, 3]', "must list keys"),
        ("", "has no lines"),
        ('{"source-ref": "s3://bucket/train/a.parquet"}\n{"class": 3}', "line 2 is no JSON object with 'source-ref'"),
        ('{"class": 3}', "line 1 is no JSON object with an attribute that ends with '-ref'"),
        ('{"source-ref": 3}', "line 1: 'source-ref' is no URL"),
        ("3", "line 1 is no JSON object"),
    ],
)
def test_what_is_no_manifest_is_told_with_its_line(tmp_path: Path, content: str, problem: str) -> None:
    (tmp_path / "x.manifest").write_text(content)
    with pytest.raises(StorageError, match=f"x.manifest: cannot use it as a manifest: .*{problem}"):
        find(str(tmp_path / "x.manifest"))


def job(s3: S3Server, *, kind: str, uri: str) -> None:
    """A training job in the service, with one channel."""
    source = {"S3DataType": kind, "S3Uri": uri, "S3DataDistributionType": "FullyReplicated"}
    boto3.session.Session().client("sagemaker", endpoint_url=s3.endpoint).create_training_job(
        TrainingJobName="my-job",
        AlgorithmSpecification={"TrainingImage": "image", "TrainingInputMode": "File"},
        RoleArn="arn:aws:iam::123456789012:role/a-role-of-tests",
        InputDataConfig=[{"ChannelName": "train-data", "DataSource": {"S3DataSource": source}}],
        OutputDataConfig={"S3OutputPath": s3.bucket},
        ResourceConfig={"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 1},
        StoppingCondition={"MaxRuntimeInSeconds": 60},
    )


@pytest.fixture
def at_job(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    monkeypatch.setenv("TRAINING_JOB_NAME", "my-job")
    monkeypatch.setenv("AWS_ENDPOINT_URL_SAGEMAKER", s3.endpoint)
    for name in ("train/1", "train-2/1", "other/1"):
        files.put_new(f"{s3.bucket}/{name}", b"x")
    return s3


def test_the_jobs_own_request_says_where_the_channel_is_and_means_the_beginning_of_keys(at_job: S3Server) -> None:
    job(at_job, kind="S3Prefix", uri=f"{at_job.bucket}/train")
    listing = find("job", channel="train-data")
    assert [item.url for item in listing.items] == [f"{at_job.bucket}/{name}" for name in ("train-2/1", "train/1")]


def test_the_jobs_own_manifest_needs_no_ending(at_job: S3Server) -> None:
    files.put_new(f"{at_job.bucket}/list", json.dumps([{"prefix": at_job.bucket}, "/other/1"]).encode())
    job(at_job, kind="ManifestFile", uri=f"{at_job.bucket}/list")
    assert [item.url for item in find("job", channel="train-data").items] == [f"{at_job.bucket}/other/1"]


def test_a_job_that_may_not_be_described_tells_what_to_allow(at_job: S3Server) -> None:
    at_job.faults.refuse(next=None, kind="POST", status=400, code="AccessDeniedException")
    with pytest.raises(StorageError, match=r"training job my-job: cannot describe it.*sagemaker:DescribeTrainingJob"):
        find("job", channel="train")


def test_a_service_that_is_silent_is_not_waited_for(at_job: S3Server) -> None:
    from trainkit.data.sources import described

    at_job.faults.delay(60, next=None, kind="POST")
    with pytest.raises(StorageError, match=r"no answer came within 0\.5 s\. Allow"):
        described.ask("train", environ=os.environ, limit=0.5)
    at_job.faults.clear()


def test_a_channel_that_the_job_does_not_have_is_told_with_those_it_has(at_job: S3Server) -> None:
    job(at_job, kind="S3Prefix", uri=f"{at_job.bucket}/train")
    with pytest.raises(ConfigError, match=r"TRAINKIT_CHANNEL_VALID.*its channels: train-data"):
        find("job", channel="valid")


def test_there_is_no_job_to_ask_on_a_laptop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRAINING_JOB_NAME", raising=False)
    with pytest.raises(ConfigError, match="this is no SageMaker job"):
        find("job", channel="train")


def test_a_pipe_has_no_listing_and_tells_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"inputdataconfig.json: train.TrainingInputMode .*TRAINKIT_CHANNEL_<NAME>=s3"
    ):
        find(str(tmp_path / "train"), channel="train", mode="Pipe")


def test_a_plain_item_is_what_the_listing_says(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"123")
    assert find(str(tmp_path)).items == (Item(f"{tmp_path}/one", 3),)
