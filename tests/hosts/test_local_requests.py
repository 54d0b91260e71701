"""`trainkit local job.json`: requests of training and tuning jobs as boto3 and the SDKs send them, run to their end."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from harness import Ran, local, processes_mentioning

from trainkit.errors import IsolationUnavailable
from trainkit.local import isolation, recordio

REQUESTS = Path(__file__).parents[1] / "local_requests"
PROBE = (REQUESTS / "probe.py").read_text()


def available(kind: str) -> Any:
    try:
        isolation.choose(kind)[0].close()
    except IsolationUnavailable as reason:
        return pytest.param(kind, marks=pytest.mark.skip(reason=str(reason)))
    return kind


isolations = pytest.mark.parametrize("kind", [available(kind) for kind in ("namespace", "process")])
namespaces = pytest.mark.parametrize("kind", [available("namespace")])


def channel(name: str, url: str, mode: str | None = None, **changes: Any) -> dict[str, Any]:
    """A channel; changes of what begins with S3, AttributeNames and InstanceGroupNames go to its source."""
    source = {"S3DataType": "S3Prefix", "S3Uri": url}
    inner = ("S3DataType", "S3DataDistributionType", "AttributeNames", "InstanceGroupNames")
    source |= {key: value for key, value in changes.items() if key in inner}
    outer = {key: value for key, value in changes.items() if key not in inner}
    return {
        "ChannelName": name, "DataSource": {"S3DataSource": source}, **({"InputMode": mode} if mode else {}), **outer,
    }  # fmt: skip


def request(**changes: Any) -> dict[str, Any]:
    """A CreateTrainingJob request as boto3 takes it; members that are None are left out."""
    made = {
        "TrainingJobName": "look-around",
        "AlgorithmSpecification": {"TrainingImage": "image", "TrainingInputMode": "File"},
        "RoleArn": "arn:aws:iam::123456789012:role/SageMakerRole",
        "InputDataConfig": [channel("train", "data")],
        "OutputDataConfig": {"S3OutputPath": "s3://bucket/out"},
        "ResourceConfig": {"InstanceType": "ml.m5.xlarge", "InstanceCount": 2, "VolumeSizeInGB": 30},
        "StoppingCondition": {"MaxRuntimeInSeconds": 3600},
    } | changes
    return {key: value for key, value in made.items() if value is not None}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A request's folder: data beside it, and code."""
    for number in range(1, 6):
        path = tmp_path / f"data/part-{number}"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"{number}\n")
    (tmp_path / "code/__pycache__").mkdir(parents=True)
    (tmp_path / "code/train.py").write_text(PROBE)
    return tmp_path


def run(folder: Path, job: dict[str, Any], *arguments: str, code: bool = True, **environ: str) -> Ran:
    (folder / "job.json").write_text(json.dumps(job))
    given = ("--code", str(folder / "code")) if code else ()
    return local(folder / "job.json", *given, *arguments, output=folder / "out", **environ)


def inside(archive: Path) -> dict[str, bytes]:
    with tarfile.open(archive) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]


def facts(ran: Ran) -> dict[str, dict[str, Any]]:
    """What the script saw on each host."""
    return {name.removesuffix(".json"): json.loads(data) for name, data in inside(ran.root / "output.tar.gz").items()}


@isolations
def test_every_kind_of_channel_reaches_the_hosts_as_the_service_lays_it(folder: Path, kind: str) -> None:
    (folder / "packed").mkdir()
    for number in (1, 2, 3):
        (folder / f"packed/{number}.gz").write_bytes(gzip.compress(b"row %d\n" % number))
    (folder / "list.json").write_text(json.dumps([{"prefix": "data/"}, "part-5", "part-2"]))
    (folder / "rows.jsonl").write_text('{"x-ref": "data/part-1", "y": 1}\n{"x-ref": "data/part-2", "y": 2}\n')
    sharded = {"S3DataDistributionType": "ShardedByS3Key"}
    job = request(
        InputDataConfig=[
            channel("whole", "data"), channel("shard", (folder / "data").as_uri(), **sharded),
            channel("one", "data/part-3", ContentType="text/csv"),
            channel("listed", "list.json", S3DataType="ManifestFile"),
            channel("fast", "data", "FastFile"),
            channel("piped", "packed", "Pipe", CompressionType="Gzip", **sharded),
            channel("drawn", "data", "Pipe", ShuffleConfig={"Seed": 3}),
            channel("rows", "rows.jsonl", "Pipe", S3DataType="AugmentedManifestFile", AttributeNames=["y", "x-ref"],
                    RecordWrapperType="RecordIO"),
        ],
        AlgorithmSpecification={
            "TrainingImage": "image", "TrainingInputMode": "File",
            "MetricDefinitions": [
                {"Name": "train:loss", "Regex": r"loss=([0-9.]+)"}, {"Name": "never", "Regex": "nothing=(.*)"},
                {"Name": "word", "Regex": "probe on (algo-1)"},
            ],
        },
        HyperParameters={"epochs": "3", "name": "it's $(id)"},
        Environment={"COLOUR": "green"},
        CheckpointConfig={"S3Uri": "kept/checkpoints"},
        TensorBoardOutputConfig={"S3OutputPath": "board", "LocalPath": "/opt/ml/output/tensorboard"},
        VpcConfig={"SecurityGroupIds": ["sg-1"], "Subnets": ["subnet-1"]},
    )  # fmt: skip
    ran = run(folder, job, "--isolation", kind)

    assert ran.code == 0, ran.out
    seen = facts(ran)
    everything = {f"part-{number}": f"{number}\n" for number in range(1, 6)}
    for one in seen.values():
        assert one["argv"] == ["--epochs", "3", "--name", "it's $(id)"]
        assert one["env"]["COLOUR"] == "green"
        assert one["files"]["whole"] == one["files"]["fast"] == everything
        assert one["files"]["one"] == {"part-3": "3\n"}
        assert one["files"]["listed"] == {"part-2": "2\n", "part-5": "5\n"}
        assert list(one["files"]["code"]) == ["train.py"]
        assert one["channels"]["one"]["ContentType"] == "text/csv"
        assert one["channels"]["piped"]["CompressionType"] == "Gzip"
        assert one["channels"]["rows"]["RecordWrapperType"] == "RecordIO"
        first, second = one["piped"]["drawn"]
        assert sorted(first.split()) == sorted(second.split()) == list("12345")
        assert first != second
        records = b"".join(recordio.record(data) for data in (b"1", b"1\n", b"2", b"2\n"))
        assert one["piped"]["rows"] == [records.decode("latin-1")] * 2
    assert seen["algo-1"]["piped"]["drawn"] == seen["algo-2"]["piped"]["drawn"]
    assert list(seen["algo-1"]["files"]["shard"]) == ["part-1", "part-3", "part-5"]
    assert list(seen["algo-2"]["files"]["shard"]) == ["part-2", "part-4"]
    assert seen["algo-1"]["piped"]["piped"] == ["row 1\nrow 3\n"] * 2
    assert seen["algo-2"]["piped"]["piped"] == ["row 2\n"] * 2
    if kind == "namespace":
        assert [one["written"]["fast"] for one in seen.values()] == [["Read-only file system"] * 2] * 2
    else:
        assert [one["modes"]["fast"] for one in seen.values()] == [[0o555]] * 2
    assert (folder / "data/part-1").read_text() == "1\n"
    described = ran.described
    assert (described["TrainingJobStatus"], described["SecondaryStatus"]) == ("Completed", "Completed")
    assert [(m["MetricName"], m["Value"]) for m in described["FinalMetricDataList"]] == [("train:loss", 0.25)]
    assert described["ModelArtifacts"]["S3ModelArtifacts"] == (ran.root / "model.tar.gz").as_uri()
    assert sorted(path.name for path in (folder / "kept/checkpoints").iterdir()) == ["algo-1.ckpt", "algo-2.ckpt"]
    assert sorted(p.name for p in (folder / "board/look-around/tensorboard-output").iterdir()) == ["algo-1", "algo-2"]
    assert "without effect here: VpcConfig: hosts have this machine's network" in ran.out
    assert processes_mentioning(str(folder)) == []


@isolations
def test_a_cluster_of_two_groups_is_one_job_and_channels_may_be_for_one_of_them(folder: Path, kind: str) -> None:
    groups = [("data", "ml.c5.xlarge", 1), ("gpu", "ml.g5.xlarge", 2)]
    sharded = {"S3DataDistributionType": "ShardedByS3Key"}
    job = request(
        ResourceConfig={
            "VolumeSizeInGB": 1,
            "InstanceGroups": [
                {"InstanceGroupName": name, "InstanceType": instance, "InstanceCount": count}
                for name, instance, count in groups
            ],
        },
        InputDataConfig=[
            channel("all", "data", **sharded), channel("some", "data", InstanceGroupNames=["gpu"], **sharded),
        ],
    )  # fmt: skip
    ran = run(folder, job, "--isolation", kind)

    assert ran.code == 0, ran.out
    seen = facts(ran)
    assert [seen[f"algo-{n}"]["env"]["SM_CURRENT_INSTANCE_GROUP"] for n in (1, 2, 3)] == ["data", "gpu", "gpu"]
    assert [seen[f"algo-{n}"]["env"]["WORLD_SIZE"] for n in (1, 2, 3)] == ["1", "2", "2"]
    assert [sorted(seen[f"algo-{n}"]["files"]["all"]) for n in (1, 2)] == [["part-1", "part-4"], ["part-2", "part-5"]]
    assert "some" not in seen["algo-1"]["files"]
    assert sorted(seen["algo-3"]["files"]["some"]) == ["part-2", "part-4"]


def bundle(**files: str) -> bytes:
    """A tar.gz as SDKs upload code."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(name.replace("__", "."))
            member.size = len(text.encode())
            tar.addfile(member, io.BytesIO(text.encode()))
    return made.getvalue()


DRIVER = """#!/bin/bash
set -e
cd /opt/ml/input/data/code
export SM_CURRENT_HOST=$(hostname) SM_INPUT_DIR=/opt/ml/input SM_OUTPUT_DATA_DIR=/opt/ml/output/data
export SM_MODEL_DIR=/opt/ml/model SM_INPUT_CONFIG_DIR=/opt/ml/input/config RANK=0
export SM_INPUT_DATA_CONFIG=$(cat /opt/ml/input/config/inputdataconfig.json)
export SM_RESOURCE_CONFIG=$(cat /opt/ml/input/config/resourceconfig.json)
python3 train.py --driven "$0"
"""
"""What stands for the SDK's own program: it starts the script without `train`."""


def on_s3(s3: Any, text: str) -> str:
    """The request with all its buckets in the one of this test, and all that it names there."""
    from trainkit.storage import files

    for old in ("s3://sagemaker-us-east-1-123456789012", "s3://data"):
        text = text.replace(old, f"{s3.bucket}/{old[5:]}")
    for number in range(4):
        files.put_new(f"{s3.bucket}/data/train/{number}.txt", b"%d" % number)
    prefix = f"{s3.bucket}/sagemaker-us-east-1-123456789012"
    for job in ("trainkit-2026-11-22-08-10-29-022/source", "tk/tuning-1795335007/input/sourcedir"):
        files.put_new(f"{prefix}/{job}/sourcedir.tar.gz", bundle(train__py=PROBE))
    for job in ("tk/tk-20261122080957/input", "tk/tuning-1795335007/input"):
        files.put_new(f"{prefix}/{job}/code/train.py", PROBE.encode())
        files.put_new(f"{prefix}/{job}/sm_drivers/sm_train.sh", DRIVER.encode())
    files.put_new(f"{s3.bucket}/data/ckpt/earlier", b"E")
    return text


@pytest.mark.parametrize("file", sorted(path.name for path in REQUESTS.glob("*.json")))
@namespaces
def test_a_request_of_an_sdk_runs_to_its_end(folder: Path, s3: Any, kind: str, file: str) -> None:
    """As both versions of the SDK send them, bucket by bucket on an S3 server: nothing of theirs is left out."""
    text = on_s3(s3, (REQUESTS / file).read_text())
    (folder / "job.json").write_text(text)
    asked = json.loads(text)["request"]
    own_image = file.endswith("own-image.json")
    code = ("--code", str(folder / "code")) if own_image else ()
    ran = local(folder / "job.json", *code, "--isolation", kind, "--upload", output=folder / "out", **s3.environ)

    from trainkit.storage import files

    assert ran.code == 0, ran.out
    definition = asked.get("TrainingJobDefinition", asked)
    described = ran.described
    model = described["ModelArtifacts"]["S3ModelArtifacts"]
    there = definition["OutputDataConfig"]["S3OutputPath"].rstrip("/")
    assert model == f"{there}/{described['TrainingJobName']}/output/model.tar.gz"
    with tarfile.open(fileobj=io.BytesIO(files.get(model))) as tar:
        assert tar.getnames() == ["model.bin"]
    seen = facts(ran)
    count = definition["ResourceConfig"]["InstanceCount"]
    assert sorted(seen) == [f"algo-{number}" for number in range(1, count + 1)]
    modes = {one["ChannelName"]: one.get("InputMode", "File") for one in definition["InputDataConfig"]}
    for name, facts_of in seen["algo-1"]["channels"].items():
        assert facts_of["TrainingInputMode"] == modes.get(name, "File")
    sharded = [n for n, one in seen["algo-1"]["channels"].items() if one["S3DistributionType"] == "ShardedByS3Key"]
    for name in sharded:
        assert [sorted(seen[host]["files"][name]) for host in sorted(seen)] == [["0.txt", "2.txt"], ["1.txt", "3.txt"]]
    argv = " ".join(seen["algo-1"]["argv"])
    assert ("--driven" if "ContainerEntrypoint" in text else "--epochs 3") in argv
    if "CheckpointConfig" in definition:
        assert "earlier" in seen["algo-2"]["checkpoints"]
        kept = [entry.url.rpartition("/")[2] for entry in files.list(definition["CheckpointConfig"]["S3Uri"])]
        assert kept == ["algo-1.ckpt", "algo-2.ckpt", "earlier"]
    assert processes_mentioning(str(folder)) == []


@isolations
def test_without_an_upload_nothing_is_written_to_s3(folder: Path, s3: Any, kind: str) -> None:
    from trainkit.storage import files

    files.put_new(f"{s3.bucket}/data/a b", b"A")
    files.put_new(f"{s3.bucket}/ckpt/earlier", b"E")
    job = request(
        InputDataConfig=[channel("train", f"{s3.bucket}/data")],
        OutputDataConfig={"S3OutputPath": f"{s3.bucket}/out", "CompressionType": "NONE"},
        CheckpointConfig={"S3Uri": f"{s3.bucket}/ckpt", "LocalPath": "/opt/ml/checkpoints/"},
    )
    before = [entry.url for entry in files.list(s3.bucket)]
    ran = run(folder, job, "--isolation", kind, **s3.environ)

    assert ran.code == 0, ran.out
    assert [entry.url for entry in files.list(s3.bucket)] == before
    assert (ran.root / "model/model.bin").read_text() == "M"
    assert sorted(path.name for path in (ran.root / "checkpoints").iterdir()) == [
        "algo-1.ckpt",
        "algo-2.ckpt",
        "earlier",
    ]
    seen = json.loads((ran.root / "output/algo-1.json").read_text())
    assert seen["files"]["train"] == {"a b": "A"}
    assert seen["checkpoints"] == ["earlier"]


@namespaces
def test_a_tuning_job_is_one_trial_with_its_objective_reported_or_missed(folder: Path, kind: str) -> None:
    job = json.loads((REQUESTS / "sdk-v3-tuner.json").read_text())["request"]
    definition = job["TrainingJobDefinition"]
    definition["InputDataConfig"] = [channel("train", "data")]
    definition["StaticHyperParameters"] = {"epochs": "3"}
    definition["AlgorithmSpecification"]["MetricDefinitions"][0]["Regex"] = "loss=([0-9.]+)"
    ran = run(folder, job, "--hp", "lr=0.001", "--seed", "5", "--isolation", kind)

    assert ran.code == 0, ran.out
    (seen,) = facts(ran).values()
    argv = dict(zip(seen["argv"][::2], seen["argv"][1::2], strict=True))
    assert argv["--lr"] == "0.001"
    assert 8 <= int(argv["--bs"]) <= 64
    assert ran.described["HyperParameters"]["_tuning_objective_metric"] == "val:loss"
    reached = ran.described["FinalHyperParameterTuningJobObjectiveMetric"]
    assert reached == {"MetricName": "val:loss", "Type": "Minimize", "Value": 0.25}
    assert "objective  Minimize val:loss: 0.25" in ran.out
    definition["AlgorithmSpecification"]["MetricDefinitions"][0]["Regex"] = "val_loss=([0-9.]+)"
    again = run(folder, job, "--isolation", kind)
    assert "warning: the objective val:loss was not in the log" in again.out
    assert "FinalHyperParameterTuningJobObjectiveMetric" not in again.described


LOSES = """
import json, os, time, trainkit
from pathlib import Path
host, others = os.environ["SM_CURRENT_HOST"], Path(os.environ["DESCRIBED"]).parent
checkpoints = Path(os.environ["SM_MODEL_DIR"]).parent / "checkpoints"
found = sorted(path.name for path in checkpoints.iterdir() if ".sagemaker-" not in path.name)
described = json.loads(Path(os.environ["DESCRIBED"]).read_text())
print("began with", found, "while", described["SecondaryStatus"], flush=True)
(checkpoints / f"{host}.ckpt").write_text("C")
(others / f"{host}.saved").touch()
if not found:
    while not (others / "algo-1.saved").exists(): time.sleep(0.01)
    if host == "algo-2":
        for _ in trainkit.job().steps(range(2)): pass  # at the second one it is lost
    time.sleep(600)
Path(os.environ["SM_MODEL_DIR"], "model.bin").write_text("M")
"""


@isolations
@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"RetryStrategy": {"MaximumRetryAttempts": 1}}, "Restarting"),
        (
            {"EnableManagedSpotTraining": True, "StoppingCondition": {
                "MaxRuntimeInSeconds": 600, "MaxWaitTimeInSeconds": 600}},
            "Interrupted",
        ),
    ],
)  # fmt: skip
def test_a_job_whose_host_is_lost_starts_again_where_the_request_says_so(
    folder: Path, kind: str, changes: dict[str, Any], status: str
) -> None:
    (folder / "code/train.py").write_text(LOSES)
    described = {"DESCRIBED": str(folder / "out/describe.json")}
    job = request(CheckpointConfig={"S3Uri": "kept"}, Environment=described, **changes)
    ran = run(folder, job, "--kill", "host=2@step=1", "--isolation", kind)

    assert ran.code == 0, ran.out
    assert [t["Status"] for t in ran.described["SecondaryStatusTransitions"]] == [
        "Starting", "Downloading", "Training", status, "Starting", "Downloading", "Training", "Uploading", "Completed",
    ]  # fmt: skip
    assert "began with [] while Training" in ran.out
    assert "began with ['algo-1.ckpt" in ran.out
    assert (ran.root / "model.tar.gz").exists()
    assert sorted(path.name for path in (ran.root / "logs").iterdir()) == [
        "algo-1.log", "algo-2.log", "attempt-1-algo-1.log", "attempt-1-algo-2.log",
    ]  # fmt: skip


def test_a_lost_host_that_is_not_tried_again_is_the_services_own_error(folder: Path) -> None:
    (folder / "code/train.py").write_text(
        "import os, time, trainkit\n"
        "if os.environ['SM_CURRENT_HOST'] == 'algo-2':\n    for _ in trainkit.job().steps(range(2)): pass\n"
        "time.sleep(600)"
    )
    ran = run(folder, request(), "--kill", "host=2@step=1", "--isolation", "process")

    assert ran.code
    reason = "InternalServerError: We encountered an internal error. Please try again."
    assert (ran.described["TrainingJobStatus"], ran.described["FailureReason"]) == ("Failed", reason)
    assert "algo-2" in (ran.failure or ""), "here it is told who was lost"


@pytest.mark.parametrize(
    ("limits", "end"),
    [
        ({"MaxRuntimeInSeconds": 1}, "MaxRuntimeExceeded"),
        ({"MaxRuntimeInSeconds": 1, "MaxWaitTimeInSeconds": 1}, "MaxWaitTimeExceeded"),
    ],
)
def test_a_limit_ends_the_job_and_keeps_what_it_left(folder: Path, limits: dict[str, int], end: str) -> None:
    (folder / "code/train.py").write_text(LOSES.replace("if not found:", "time.sleep(600)\nif not found:"))
    spot = "MaxWaitTimeInSeconds" in limits
    described = {"DESCRIBED": str(folder / "out/describe.json")}
    job = request(StoppingCondition=limits, EnableManagedSpotTraining=spot, Environment=described)
    ran = run(folder, job, "--isolation", "process")

    assert (ran.code, ran.described["SecondaryStatus"]) == (0, end), ran.out
    assert ran.described["TrainingJobStatus"] == "Stopped"


def test_network_isolation_leaves_hosts_each_other_and_nothing_else(folder: Path) -> None:
    if not isinstance(available("network"), str):
        pytest.skip("this machine makes no networks")
    (folder / "code/train.py").write_text(
        "import os, socket\nfrom pathlib import Path\n"
        "names = sorted(name for _, name in socket.if_nameindex())\n"
        "assert names == ['eth0', 'lo'], names\n"
        "assert socket.gethostbyname('algo-2')\n"
        "Path(os.environ['SM_MODEL_DIR'], 'm').write_text('M')\n"
    )
    ran = run(folder, request(EnableNetworkIsolation=True))
    assert ran.code == 0, ran.out
    open_ended = run(folder, request(EnableNetworkIsolation=True), "--isolation", "process")
    assert "EnableNetworkIsolation: not with --isolation process" in open_ended.out
    assert open_ended.code == 1, open_ended.out


WRONG = {
    "a shape that the API does not know": (
        {"RoleArn": None, "Foo": 1, "TrainingJobName": "a_b", "HyperParameters": {"lr": 0.1}},
        ["RoleArn is missing", "Foo is 1: is nothing that the API knows", "TrainingJobName is 'a_b': must match",
         "HyperParameters.lr is 0.1: must be a string"],
    ),
    "what is not here": (
        {"ServerlessJobConfig": {"BaseModelArn": "arn:aws:sagemaker:us-east-1:aws:hub-content/h/Model/m/1",
                                 "JobType": "FineTuning"},
         "AlgorithmSpecification": {"AlgorithmName": "xgboost", "TrainingInputMode": "File"},
         "InputDataConfig": [{"ChannelName": "a", "DataSource": {"FileSystemDataSource": {
             "FileSystemId": "fs-0123456789abcdef0", "FileSystemAccessMode": "ro", "FileSystemType": "EFS",
             "DirectoryPath": "/x"}}}]},
        ["ServerlessJobConfig is a job without a container", "AlgorithmName is an algorithm that AWS runs",
         "InputDataConfig[0].DataSource.FileSystemDataSource is a file system (EFS or FSx)"],
    ),
    "what does not go together": (
        {"InputDataConfig": [
            channel("a", "data", CompressionType="Gzip"), channel("a", "data", "FastFile", S3DataType="ManifestFile"),
            channel("c", "data", S3DataType="AugmentedManifestFile", AttributeNames=["x"]),
            channel("d", "data", "Pipe", S3DataType="AugmentedManifestFile"),
            channel("e", "data", InstanceGroupNames=["gpu"]), channel("f", "data", RecordWrapperType="RecordIO"),
         ],
         "EnableManagedSpotTraining": True,
         "CheckpointConfig": {"S3Uri": "k", "LocalPath": "/tmp/k"},
         "AlgorithmSpecification": {"TrainingImage": "i", "TrainingInputMode": "File", "MetricDefinitions": [
             {"Name": "a", "Regex": "loss=(["}, {"Name": "b", "Regex": "loss=.*"}]}},
        ["InputDataConfig[0].CompressionType is 'Gzip': goes with the mode Pipe only",
         "InputDataConfig[1].ChannelName is 'a': is no name, or another channel's",
         "S3DataType is 'ManifestFile': does not go with the mode FastFile",
         "S3DataType is 'AugmentedManifestFile': goes with the mode Pipe only",
         "InputDataConfig[3].DataSource.S3DataSource.AttributeNames go with an AugmentedManifestFile",
         "InstanceGroupNames is 'gpu': is no instance group of this job",
         "InputDataConfig[5].RecordWrapperType is 'RecordIO': goes with the mode Pipe only",
         "MaxWaitTimeInSeconds must be given for spot training", "LocalPath is '/tmp/k': is not below /opt/ml",
         "Regex is 'loss=([': is no regular expression", "Regex is 'loss=.*': has 0 groups"],
    ),
    "machines": (
        {"ResourceConfig": {"InstanceType": "ml.m5.large", "VolumeSizeInGB": 1, "InstanceGroups": [
            {"InstanceGroupName": "g", "InstanceType": "ml.m5.large", "InstanceCount": 0}] * 2}},
        ["InstanceType is 'ml.m5.large': stands beside InstanceGroups", "InstanceGroupName is 'g': is another group's",
         "InstanceCount is 0: must be 1 or more"],
    ),
    "data that is not there": ({"InputDataConfig": [channel("a", "nowhere")]}, ["there is no ", "nowhere"]),
    "a command without an /opt/ml": (
        {"AlgorithmSpecification": {"TrainingImage": "i", "TrainingInputMode": "File",
                                    "ContainerEntrypoint": ["/bin/bash", "-c", "true"]}},
        ["ContainerEntrypoint and ContainerArguments say '/bin/bash -c true'", "--isolation namespace"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_a_request_that_cannot_run_here_is_refused_before_anything_starts(folder: Path, what: str) -> None:
    changes, says = WRONG[what]
    ran = run(folder, request(**changes), "--isolation", "process")

    assert ran.code in (64, 78), ran.out
    assert [word for word in says if word not in ran.out] == []
    assert not (folder / "out").exists()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "is no JSON"), ("[]", "holds no request: it must be an object"), ("{}", "it has none of TrainingJobName"),
        ('{"operation": "CreateModel", "request": {}}', "is a request for CreateModel"),
        ('{"Version": "2020-12-01", "Steps": []}', "is a pipeline"),
    ],
)  # fmt: skip
def test_a_file_that_holds_no_request_is_told(folder: Path, content: str, says: str) -> None:
    (folder / "job.json").write_text(content)
    ran = local(folder / "job.json", output=folder / "out")
    assert (ran.code, says in ran.out) == (64, True), ran.out
