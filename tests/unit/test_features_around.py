"""What a features.py takes from the job around it, and what it refuses there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from harness import lay_tree

from trainkit.errors import UsageError
from trainkit.processing import Features, Source, Standardize
from trainkit.processing.features import around, command, spark_run
from trainkit.processing.features.run import Choices

FEATURES = Features(
    tables={"f": Source("flights"), "planes": "planes"}, table="FROM f JOIN planes", numeric=[Standardize("x")]
)


def job(root: Path, *, hosts: int = 1, sharded: str = "", mode: str = "File", outputs: int = 1) -> around.Around:
    """A processing job with the inputs flights, planes and code, as the service lays it."""
    (root / "config").mkdir(exist_ok=True)
    names = [f"algo-{number}" for number in range(1, hosts + 1)]
    (root / "config/resourceconfig.json").write_text(json.dumps({"current_host": "algo-1", "hosts": names}))
    inputs: list[Mapping[str, Any]] = [
        {"InputName": name, "S3Input": {
            "LocalPath": f"/opt/ml/processing/in/{name}", "S3Uri": "s3://b/k", "S3InputMode": mode,
            "S3DataDistributionType": "ShardedByS3Key" if name in sharded.split() else "FullyReplicated"}}
        for name in ("flights", "planes", "code")
    ]  # fmt: skip
    made = [
        {"OutputName": f"out{n}", "S3Output": {"LocalPath": f"/opt/ml/processing/out{n}", "S3Uri": "s3://b/o"}}
        for n in range(outputs)
    ]
    config = {"ProcessingJobName": "j", "ProcessingInputs": inputs, "ProcessingOutputConfig": {"Outputs": made}}
    (root / "config/processingjobconfig.json").write_text(json.dumps(config))
    return around.of_processing({"SAGEMAKER_BASE_DIR": str(root)})


def test_inputs_and_the_one_output_are_those_of_the_job(tmp_path: Path) -> None:
    one = job(tmp_path)
    elsewhere = tmp_path / "elsewhere"

    assert one.chosen(FEATURES, {"planes": elsewhere}) == {
        "flights": tmp_path / "processing/in/flights", "planes": elsewhere,
    }  # fmt: skip
    assert one.output(tmp_path / "default") == tmp_path / "processing/out0"
    assert job(tmp_path, outputs=0).output(tmp_path / "default") == tmp_path / "default"
    assert around.share(one, FEATURES, fits=True) == ""


def test_without_a_job_an_input_may_lie_where_jobs_have_it(tmp_path: Path) -> None:
    (tmp_path / "processing/input/planes").mkdir(parents=True)
    none = around.of_processing({"SAGEMAKER_BASE_DIR": str(tmp_path)})

    assert none.chosen(FEATURES, {}) == {"planes": tmp_path / "processing/input/planes"}


@pytest.mark.parametrize(
    ("changes", "given", "said"),
    [
        ({}, {"airports": Path("x")}, "--input airports: features.py reads flights, planes, and no airports"),
        ({"mode": "Pipe"}, {}, "the input flights comes through a pipe, and features are made from files"),
        ({"outputs": 2}, {}, "outputs out0, out1, and features are written to one: name it, --output"),
        ({"hosts": 2}, {}, r"fitted on one host, and this job has 2 \(algo-1, algo-2\): give it InstanceCount 1"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(
    tmp_path: Path, changes: dict[str, Any], given: dict[str, Path], said: str
) -> None:
    one = job(tmp_path, **changes)
    with pytest.raises(UsageError, match=said):
        around.share(one, FEATURES, fits=True)
        one.chosen(FEATURES, given)
        one.output(tmp_path)


def test_hosts_share_the_rows_of_one_input_and_no_more(tmp_path: Path) -> None:
    assert around.share(job(tmp_path, hosts=2, sharded="flights"), FEATURES, fits=False) == "algo-1"
    with pytest.raises(UsageError, match="none of the inputs is ShardedByS3Key, and each host would make the same"):
        around.share(job(tmp_path, hosts=2, sharded="code"), FEATURES, fits=False)
    with pytest.raises(UsageError, match="flights and planes are ShardedByS3Key, and rows that belong together"):
        around.share(job(tmp_path, hosts=2, sharded="flights planes"), FEATURES, fits=False)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "the following arguments are required: script\nusage: trainkit process"),
        (["features.py", "--frobnicate"], "unrecognized arguments: --frobnicate"),
        (["features.py"], "there is no features.py: name the file that says"),
    ],
)
def test_a_command_line_that_makes_no_sense_is_the_callers_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as refused:
        command.make(arguments)
    assert str(refused.value).startswith(said)


def test_inside_a_training_job_tables_are_channels_and_lie_whole_on_every_host(tmp_path: Path) -> None:
    lay_tree(tmp_path, "", hosts=("algo-1", "algo-2"))
    channels = {
        "flights": {"S3DistributionType": "ShardedByS3Key"}, "planes": {"TrainingInputMode": "Pipe"}, "code": {},
    }  # fmt: skip
    (tmp_path / "input/config/inputdataconfig.json").write_text(json.dumps(channels))
    one, settings = around.of_training({"SAGEMAKER_BASE_DIR": str(tmp_path), "TRAINKIT_FEATURES_URL": "s3://b/f"})

    assert (dict(one.inputs), settings.features_url) == ({"flights": tmp_path / "input/data/flights"}, "s3://b/f")
    with pytest.raises(UsageError, match="the input planes comes through a pipe"):
        one.chosen(FEATURES, {})
    with pytest.raises(UsageError, match="the channel flights is ShardedByS3Key on 2 hosts, and each makes features"):
        around.whole(one, around.wants(FEATURES))


def test_the_engine_is_duckdb_and_in_a_cluster_of_spark_that(tmp_path: Path) -> None:
    one, two = job(tmp_path), job(tmp_path, hosts=2)
    spark = {"TRAINKIT_CLUSTER": "spark"}

    assert [around.engine_of({}, asked, one) for asked in (None, "spark")] == ["duckdb", "spark"]
    assert [around.engine_of(spark, None, this) for this in (one, two)] == ["spark", "spark"]
    assert around.engine_of({"TRAINKIT_CLUSTER": "none"}, None, two) == "duckdb"
    for environ, asked in (({}, "spark"), (spark, "duckdb"), ({"TRAINKIT_CLUSTER": "ray"}, None)):
        with pytest.raises(UsageError, match="TRAINKIT_CLUSTER=spark"):
            around.engine_of(environ, asked, two)


def test_on_spark_a_sharded_input_is_refused_with_what_to_do(tmp_path: Path) -> None:
    around.replicated(job(tmp_path, hosts=2), FEATURES)
    with pytest.raises(
        UsageError, match=r"flights is ShardedByS3Key.*use FullyReplicated; or leave TRAINKIT_CLUSTER out"
    ):
        around.replicated(job(tmp_path, hosts=2, sharded="flights"), FEATURES)


def test_on_spark_an_input_at_a_url_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"flights is a URL, s3://b/f, and on Spark .*--engine duckdb"):
        spark_run.run(
            FEATURES, {"flights": "s3://b/f"}, tmp_path / "out", choices=Choices(), cluster=False, hosts=("algo-1",),
            first="algo-1",
        )  # fmt: skip
    assert list(tmp_path.iterdir()) == []
