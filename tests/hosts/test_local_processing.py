"""`trainkit local` as the processing service: requests as SDKs send them, inputs and outputs of every kind."""

from __future__ import annotations

import gzip
import json
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from harness import DEADLINE, TRAINKIT, Ran, environment, limited, local, processes_mentioning

from trainkit.errors import IsolationUnavailable
from trainkit.local import isolation


def available(kind: str) -> Any:
    try:
        isolation.choose(kind)[0].close()
    except IsolationUnavailable as reason:
        return pytest.param(kind, marks=pytest.mark.skip(reason=str(reason)))
    return kind


isolations = pytest.mark.parametrize("kind", [available(kind) for kind in ("namespace", "process")])

LOOK = """
import json, os, sys
from pathlib import Path
import trainkit.processing
job = trainkit.processing.job()
seen = {name: sorted(str(p.relative_to(one.path)) for p in one.path.rglob("*") if p.is_file() and name != "code")
        for name, one in job.inputs.items() if one.path and one.mode == "File"}
facts = {"argv": sys.argv[1:], "seen": seen, "hosts": job.hosts, "url": {n: o.url for n, o in job.inputs.items()},
         "env": os.environ.get("COLOUR"), "piped": {}}
for name, one in job.inputs.items():
    if one.mode == "Pipe":
        facts["piped"][name] = [one.pipe(epoch).read_bytes().decode() for epoch in range(2)]
for output in job.outputs.values():
    if output.path: (output.path / f"{job.host}.json").write_text(json.dumps(facts))
(job.paths.message).write_text("done by " + job.host)
"""


def request(**changes: Any) -> dict[str, Any]:
    """A CreateProcessingJob request as boto3 takes it."""
    return {
        "ProcessingJobName": "tidy",
        "RoleArn": "arn:aws:iam::123456789012:role/SageMakerRole",
        "ProcessingResources": {
            "ClusterConfig": {"InstanceType": "ml.m5.xlarge", "InstanceCount": 2, "VolumeSizeInGB": 30}
        },
        "AppSpecification": {"ImageUri": "image", "ContainerArguments": ["prep.py", "--x", "1"]},
    } | changes


def source(name: str, url: str, **changes: Any) -> dict[str, Any]:
    s3 = {"S3Uri": url, "LocalPath": f"/opt/ml/processing/{name}", "S3DataType": "S3Prefix", "S3InputMode": "File"}
    return {"InputName": name, "S3Input": s3 | changes}


def target(name: str, url: str, *, upload: str = "EndOfJob") -> dict[str, Any]:
    local_path = f"/opt/ml/processing/{name}"
    return {"OutputName": name, "S3Output": {"S3Uri": url, "LocalPath": local_path, "S3UploadMode": upload}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A request's folder: data beside it, and what the image has at /opt/ml/code."""
    for number in range(1, 6):
        path = tmp_path / f"data/part-{number}.csv"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"{number}\n")
    (tmp_path / "image").mkdir()
    (tmp_path / "image/prep.py").write_text(LOOK)
    return tmp_path


def laid(folder: Path, job: dict[str, Any]) -> tuple[Path, str, str]:
    """The request in its file, and where the image's code is."""
    (folder / "job.json").write_text(json.dumps(job))
    return folder / "job.json", "--code", str(folder / "image")


def run(folder: Path, job: dict[str, Any], *arguments: str, **environ: str) -> Ran:
    return local(*laid(folder, job), *arguments, output=folder / "out", **environ)


def facts(ran: Ran, output: str = "found", hosts: int = 2) -> list[dict[str, Any]]:
    paths = [ran.root / f"outputs/{output}/algo-{number}.json" for number in range(1, hosts + 1)]
    return [json.loads(path.read_text()) for path in paths]


@isolations
def test_every_kind_of_input_reaches_the_hosts_as_the_service_lays_it(folder: Path, kind: str) -> None:
    for number in (1, 2, 3):
        (folder / "packed").mkdir(exist_ok=True)
        (folder / f"packed/{number}.gz").write_bytes(gzip.compress(f"row {number}\n".encode()))
    (folder / "list.json").write_text(json.dumps([{"prefix": f"{folder}/data/"}, "part-5.csv", "part-2.csv"]))
    sharded = {"S3DataDistributionType": "ShardedByS3Key"}
    job = request(
        Environment={"COLOUR": "green"},
        ProcessingInputs=[
            source("whole", "data"), source("shard", (folder / "data").as_uri(), **sharded),
            source("listed", "list.json", S3DataType="ManifestFile"),
            source("piped", "packed", S3InputMode="Pipe", S3CompressionType="Gzip", **sharded),
            {"InputName": "own", "AppManaged": True, "S3Input": {"S3Uri": "s3://b/own", "S3DataType": "S3Prefix"}},
        ],
        ProcessingOutputConfig={"Outputs": [target("found", "s3://bucket/found")]},
    )  # fmt: skip
    ran = run(folder, job, "--isolation", kind)

    assert ran.code == 0, ran.out
    first, second = facts(ran)
    everything = [f"part-{number}.csv" for number in range(1, 6)]
    for one in (first, second):
        assert one["argv"] == ["--x", "1"]
        assert one["env"] == "green"
        assert one["seen"]["whole"] == everything
        assert one["seen"]["listed"] == ["part-2.csv", "part-5.csv"]
        assert one["url"]["own"] == "s3://b/own"
    assert first["seen"]["shard"] == ["part-1.csv", "part-3.csv", "part-5.csv"]
    assert second["seen"]["shard"] == ["part-2.csv", "part-4.csv"]
    assert first["piped"]["piped"] == ["row 1\nrow 3\n"] * 2
    assert second["piped"]["piped"] == ["row 2\n"] * 2
    described = ran.described
    assert (described["ProcessingJobStatus"], described["ExitMessage"]) == ("Completed", "done by algo-1")
    assert described["ProcessingStartTime"] <= described["ProcessingEndTime"]
    assert "done by algo-2" in ran.out
    assert processes_mentioning(str(folder)) == []


def test_inputs_and_outputs_on_s3_and_a_single_object_as_an_input(folder: Path, s3: Any) -> None:
    from trainkit.storage import files

    for key in ("in/a.csv", "in/deep/b.csv", "in2/no.csv", "code/prep.py"):
        files.put_new(f"{s3.bucket}/{key}", LOOK.encode())
    job = request(
        AppSpecification={"ImageUri": "i", "ContainerEntrypoint": ["process", "/opt/ml/processing/code/prep.py"]},
        ProcessingInputs=[source("raw", f"{s3.bucket}/in"), source("code", f"{s3.bucket}/code/prep.py")],
        ProcessingOutputConfig={"Outputs": [target("found", f"{s3.bucket}/out", upload="Continuous")]},
    )
    ran = run(folder, job, "--upload", **s3.environ)

    assert ran.code == 0, ran.out
    assert [e.url.rpartition("/")[2] for e in files.list(f"{s3.bucket}/out")] == ["algo-1.json", "algo-2.json"]
    assert json.loads(files.get(f"{s3.bucket}/out/algo-1.json"))["seen"]["raw"] == ["a.csv", "deep/b.csv"]
    again = run(folder, job, **s3.environ)
    assert (again.code, len(facts(again))) == (0, 2), again.out


SDK = {
    "script-processor": {
        "ImageUri": "i", "ContainerEntrypoint": ["python3", "/opt/ml/processing/input/code/prep.py"],
        "ContainerArguments": ["--n", "3"],
    },
    "processor": {"ImageUri": "i", "ContainerEntrypoint": ["trainkit", "process"], "ContainerArguments": ["--n", "3"]},
    "framework-processor": {
        "ImageUri": "i", "ContainerEntrypoint": ["/bin/bash", "/opt/ml/processing/input/code/runproc.sh"],
        "ContainerArguments": ["--n", "3"],
    },
    "framework-processor-that-runs-process": {
        "ImageUri": "i", "ContainerEntrypoint": ["process"],
        "ContainerArguments": ["bash", "/opt/ml/processing/input/code/runproc.sh", "--n", "3"],
    },
}  # fmt: skip


@pytest.mark.parametrize("shape", SDK)
def test_a_request_of_each_shape_that_the_sdks_send_runs_to_its_end(folder: Path, shape: str) -> None:
    """As both versions of the SDK send them: nothing of theirs is left out or made up."""
    code = folder / "code"
    code.mkdir()
    (code / "prep.py").write_text(LOOK)
    runproc = '#!/bin/bash\ncd /opt/ml/processing/input/code/\nset -e\npython prep.py "$@"\n'
    (code / "runproc.sh").write_text(runproc)
    (folder / "image/process.py").write_text(LOOK)
    job = request(
        AppSpecification=SDK[shape],
        ProcessingInputs=[
            {
                "InputName": "input-1", "AppManaged": False,
                "S3Input": source("input", "data", S3CompressionType="None")["S3Input"],
            },
            source("code", "code", LocalPath="/opt/ml/processing/input/code"),
        ],
        ProcessingOutputConfig={"Outputs": [{**target("found", "s3://data/out"), "AppManaged": False}]},
    )  # fmt: skip
    ran = run(folder, job, "--isolation", "namespace") if available("namespace") == "namespace" else run(folder, job)

    assert ran.code == 0, ran.out
    assert [one["argv"] for one in facts(ran)] == [["--n", "3"]] * 2


def test_two_hosts_that_write_one_name_differently_fail_the_job_and_are_both_named(folder: Path) -> None:
    (folder / "image/prep.py").write_text(
        "import os\nfrom trainkit.processing import job\nplace = job().outputs['o'].path\n"
        "(place / 'part-0').write_text(job().host)\n(place / 'same').write_text('schema')\n"
    )
    ran = run(folder, request(ProcessingOutputConfig={"Outputs": [target("o", "s3://b/o")]}))

    assert ran.code == 65
    assert ran.described["ProcessingJobStatus"] == "Failed"
    assert "output o: algo-1 and algo-2 both wrote part-0, differently" in ran.described["FailureReason"]
    assert "same" not in ran.described["FailureReason"]


def test_continuous_outputs_are_copied_while_the_job_runs_and_again_when_they_change(folder: Path) -> None:
    (folder / "image/prep.py").write_text(
        "import os, time\nfrom pathlib import Path\nfrom trainkit.processing import job\n"
        "place, there = job().outputs['o'].path, Path(job().environment['THERE'])\n"
        "def see(text):\n"
        "    (place / job().host).write_text(text)\n"
        "    end = time.monotonic() + 60\n"
        "    while not ((there / job().host).exists() and (there / job().host).read_text() == text):\n"
        "        assert time.monotonic() < end, text\n"
        "        time.sleep(0.02)\n"
        "see('one'); see('the second')\n"
    )
    there = folder / "there"
    job = request(
        Environment={"THERE": str(there)},
        ProcessingOutputConfig={"Outputs": [target("o", there.as_uri(), upload="Continuous")]},
    )
    ran = run(folder, job)

    assert ran.code == 0, ran.out
    assert sorted(path.name for path in there.iterdir()) == ["algo-1", "algo-2"]


@isolations
def test_a_failure_on_one_host_is_the_jobs_with_its_cause_in_the_message(folder: Path, kind: str) -> None:
    (folder / "image/prep.py").write_text(
        "import time\nfrom trainkit.processing import job\n(job().outputs['o'].path / job().host).touch()\n"
        "if job().host == 'algo-2': raise ValueError('x' * 2000)\ntime.sleep(600)\n"
    )
    job = request(ProcessingOutputConfig={"Outputs": [target("o", "s3://b/o")]})
    ran = run(folder, job, "--isolation", kind)

    assert ran.code == 1
    described = ran.described
    assert described["ProcessingJobStatus"] == "Failed"
    assert described["FailureReason"] == "AlgorithmError: , exit code: 1"
    assert described["ExitMessage"].startswith("ValueError: xxx")
    assert len(described["ExitMessage"].encode()) <= 1000
    assert not (ran.root / "outputs").exists(), "what a failed job has written is no result"


@pytest.mark.parametrize("flag", ["--stop-after", "--max-runtime"])
def test_a_stop_ends_it_as_stopped_and_keeps_what_there_is(folder: Path, flag: str) -> None:
    (folder / "image/prep.py").write_text(
        "import time\nfrom trainkit.processing import job\n(job().outputs['o'].path / job().host).touch()\n"
        "print('ready', flush=True)\ntime.sleep(600)\n"
    )
    job = request(ProcessingOutputConfig={"Outputs": [target("o", "s3://b/o")]})
    ran = limited(*laid(folder, job), limit=flag, ready=2, output=folder / "out")

    assert (ran.code, ran.described["ProcessingJobStatus"]) == (0, "Stopped"), ran.out
    assert "ExitMessage" not in ran.described
    assert len(list((ran.root / "outputs/o").iterdir())) == 2


@pytest.mark.parametrize("victim", ["1", "2"])
def test_a_host_that_is_killed_is_named_in_the_message(folder: Path, victim: str) -> None:
    (folder / "image/prep.py").write_text("import time\nprint('ready', flush=True)\ntime.sleep(600)\n")
    for seconds in (3, 15, 60):
        ran = run(folder, request(), "--kill", f"host={victim}@{seconds}s", TRAINKIT_PEER_WAIT="20")
        if ran.out.count("] ready") == 2:
            break  # else the machine is busy, and it was killed before the hosts had met

    assert ran.code == 75, ran.out
    assert ran.described["ExitMessage"].startswith(f"lost algo-{victim}: its connection broke")
    assert processes_mentioning(str(folder)) == []


def test_describe_says_in_progress_and_stopping_meanwhile_and_a_killed_runner_leaves_nothing(folder: Path) -> None:
    (folder / "image/prep.py").write_text(
        "import signal, time\nsignal.signal(signal.SIGTERM, lambda *_: print('heard', flush=True))\n"
        "print('ready', flush=True)\nwhile True: time.sleep(1)\n"
    )
    job = request(ProcessingInputs=[source("p", "data", S3InputMode="Pipe")])
    (folder / "job.json").write_text(json.dumps(job))
    argv = [*TRAINKIT, "local", str(folder / "job.json"), "--code", str(folder / "image"), "--output"]
    with subprocess.Popen(
        [*argv, str(folder / "out")], env=environment(MARK=str(folder)), stdout=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout

        def until(word: str, times: int) -> str:
            assert running.stdout
            while times:
                times -= word in running.stdout.readline()
            described: dict[str, Any] = json.loads((folder / "out/describe.json").read_text())
            return str(described["ProcessingJobStatus"])

        assert until("ready", 2) == "InProgress"
        running.send_signal(signal.SIGTERM)
        assert until("heard", 2) == "Stopping"
        running.kill()
    deadline = time.monotonic() + DEADLINE
    while left := processes_mentioning(str(folder)):
        assert time.monotonic() < deadline, left
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"RoleArn": None, "Foo": 1}, ["RoleArn is missing", "Foo is 1: is nothing that the API knows"]),
        (
            {"ProcessingInputs": [source("a", "data", S3InputMode="FastFile"), {"S3Input": {}}]},
            ["S3InputMode is 'FastFile': is none of Pipe, File", "ProcessingInputs[1].InputName is missing"],
        ),
        (
            {"ProcessingInputs": [{"InputName": "q", "DatasetDefinition": {"RedshiftDatasetDefinition": {
                "ClusterId": "c", "Database": "d", "DbUser": "u", "QueryString": "q", "OutputFormat": "CSV",
                "ClusterRoleArn": "arn:aws:iam::123456789012:role/r", "OutputS3Uri": "s3://b/x"}}}],
             "ProcessingOutputConfig": {"Outputs": [
                 {"OutputName": "f", "AppManaged": True, "FeatureStoreOutput": {"FeatureGroupName": "g"}}]}},
            ["input q comes from Redshift, which is not here", "output f goes into the Feature Store"],
        ),
        (
            {"ProcessingInputs": [source("a", "data", S3CompressionType="Gzip", LocalPath="/tmp/a")]},
            ["S3CompressionType is 'Gzip': goes with S3InputMode Pipe only", "LocalPath is '/tmp/a': must begin with"],
        ),
        ({"ProcessingInputs": [source("a", "nowhere")]}, ["there is no ", "nowhere"]),
    ],
)  # fmt: skip
def test_a_request_that_cannot_run_here_is_refused_before_anything_starts(
    folder: Path, changes: dict[str, Any], says: list[str]
) -> None:
    ran = run(folder, {key: value for key, value in request(**changes).items() if value is not None})

    assert ran.code in (64, 78), ran.out
    assert [word for word in says if word not in ran.out] == []
    assert not (folder / "out").exists()


def test_the_shorthand_runs_a_script_and_shards_its_inputs(folder: Path) -> None:
    script = folder / "code/prep.py"
    script.parent.mkdir()
    script.write_text(LOOK)
    (script.parent / "__pycache__").mkdir()
    (script.parent / "__pycache__/x.pyc").touch()
    ran = shorthand(folder, script)

    assert ran.code == 0, ran.out
    first, second = facts(ran)
    assert (first["argv"], len(first["seen"]["raw"]), len(second["seen"]["raw"])) == (["--x", "1"], 3, 2)
    assert sorted(path.name for path in (folder / "copy").iterdir()) == ["algo-1.json", "algo-2.json"]
    assert not (ran.root / "hosts/algo-1/processing/input/code/__pycache__").exists()
    assert "message  done by algo-1" in ran.out


def shorthand(folder: Path, script: Path) -> Ran:
    done = subprocess.run(
        [
            *TRAINKIT, "local", str(script), "--processing", "--hosts", "2", "--input", f"raw={folder / 'data'}",
            "--shard", "raw", "--result", "found", "--result", f"copy={folder / 'copy'}",
            "--output", str(folder / "out"), "--", "--x", "1",
        ],
        env=environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=DEADLINE, check=False,
    )  # fmt: skip
    return Ran(done.returncode, done.stdout + done.stderr, folder / "out")
