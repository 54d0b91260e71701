"""job.stream over Pipe channels: real FIFOs, a writer and ranks in processes of their own."""

from __future__ import annotations

import json
import struct
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import boto3
import pytest
from harness import DEADLINE, Ran, lay_tree, train
from pipe_service import served
from servers.s3 import S3Server

from trainkit.errors import ConfigError, DataError
from trainkit.job import facts
from trainkit.job.context import Context
from trainkit.job.signals import Stop
from trainkit.storage import files

ROWS = 1003
JSON = b"".join(b'{"id": %d, "x": [%d.5, 1]}\n' % (number, number) for number in range(ROWS))
CSV = b"".join(b"%d,%d.5,a%d\r\n" % (number, number, number) for number in range(50))


def channel(**more: str) -> dict[str, str]:
    return {"TrainingInputMode": "Pipe", "S3DistributionType": "FullyReplicated", **more}


def lay(root: Path, script: str, channels: dict[str, Any], **more: Any) -> Path:
    lay_tree(root, script, **more)
    (root / "input/config/inputdataconfig.json").write_text(json.dumps(channels))
    return root


def recordio(*bodies: bytes) -> bytes:
    return b"".join(struct.pack("<II", 0xCED7230A, len(body)) + body + b"\0" * (-len(body) % 4) for body in bodies)


TWO_RANKS = """
import json, torch, torch.distributed as dist, trainkit
from trainkit.errors import DataError, StorageError
job = trainkit.job()
dist.init_process_group("gloo")

def everybody(value):
    found = [None] * job.world_size
    dist.all_gather_object(found, value)
    return found

# An epoch with a collective in each step: it would hang where one rank had a step more.
stream = job.stream("train", batch_size=8)
first = []
for step, batch in job.steps(stream):
    assert batch["id"].dtype == torch.int64 and batch["x"].values.dtype == torch.float64
    dist.all_reduce(torch.ones(1))
    first += batch["id"].tolist()
assert (stream.epoch, stream.position) == (1, 0)
ids = everybody(first)
assert [len(one) for one in ids] == [496, 496], "62 steps of 16 fit into 1003 rows"
assert ids == [list(range(rank, 992, 2)) for rank in range(2)]

# Left early, at a step that only some of them saw the reader come to; gone on with; left again for the next epoch.
early = []
for batch in stream:
    early += batch["id"].tolist()
    if len(early) == 24:
        break
state = stream.state_dict()
assert everybody(state) == [state] * 2 and state["position"] == 48 and state["epoch"] == 1
rest = [number for batch in stream for number in batch["id"].tolist()]
assert early + rest == first and stream.epoch == 2
next(iter(stream))
stream.set_epoch(3)
assert sum((batch["id"].tolist() for batch in stream), []) == first and stream.waited > 0

# Mixed, with a transform, each row once; and resumed by another stream, out of the next FIFO.
def mixed():
    return job.stream("mixed", batch_size=10, shuffle=True, memory=4000, tail="exact", columns=["id"],
                      transform=lambda rows: rows.column("id").to_pylist())
stream, seen = mixed(), []
for batch in stream:
    seen.append(batch)
    if len(seen) == 20:
        state = stream.state_dict()
again = mixed()
again.load_state_dict(state)
left = list(again)
assert seen[20:] == left and len(state) == 8
both = everybody(sum(seen, []))
assert sorted(both[0] + both[1]) == list(range(1003)) and both[0] != sorted(both[0])

# CSV without names; a last batch that is filled up.
rows = list(job.stream("csv", batch_size=13, tail="pad"))
assert list(rows[0]) == ["f0", "f1", "f2"] and [len(batch["f0"]) for batch in rows] == [13, 13]
assert rows[0]["f1"].dtype == torch.float64 and rows[0]["f2"][0] == f"a{job.rank}"
assert everybody(rows[1]["f0"].tolist()[-1]) == [0, 1]

# The writer dies half-way.
got = 0
try:
    for batch in job.stream("cut", batch_size=2, columns=["data"]):
        assert batch["data"] == [bytes([65 + job.world_size * (2 * got + one) + job.rank]) * 5000 for one in (0, 1)]
        got += 1
except StorageError as error:
    assert "cut_0: cannot read it: it ends within a record" in str(error), error
else:
    raise AssertionError(f"{got} steps, and no error")

# Where the job's own request is asked, it is asked once.
asked = job.stream("asked", batch_size=1)
assert sum(len(batch["id"]) for batch in asked) == 4
try:
    job.stream("nowhere", batch_size=1)
except trainkit.errors.ConfigError as error:
    assert "TRAINKIT_CHANNEL_NOWHERE" in str(error) and error.mistakes
print("all is well", job.rank, flush=True)
dist.destroy_process_group()
"""


@pytest.mark.torch
def test_ranks_share_a_pipe_step_by_step(tmp_path: Path, s3: S3Server) -> None:
    json_lines = channel(ContentType="application/jsonlines")
    channels = {
        "train": json_lines, "mixed": json_lines, "csv": channel(ContentType="text/csv"),
        "cut": channel(RecordWrapperType="RecordIO"),
    }  # fmt: skip
    root = lay(tmp_path / "ml", TWO_RANKS, channels)
    data = root / "input/data"
    files.put_new(f"{s3.bucket}/asked/a.jsonl", JSON[:200].rpartition(b"\n")[0])
    described(s3, uri=f"{s3.bucket}/asked")
    before = s3.counts["POST"]
    wrapped = recordio(*(bytes([65 + number]) * 5000 for number in range(26)))
    with ExitStack() as services:
        services.enter_context(served(data / "train", JSON, epochs=5))
        services.enter_context(served(data / "mixed", JSON, epochs=2))
        services.enter_context(served(data / "csv", CSV))
        services.enter_context(served(data / "cut", wrapped, die=100_000))
        ran = train(
            root, "--procs", "2", TRAINING_JOB_NAME="my-job", TRAINKIT_CHANNEL_ASKED="job",
            TRAINKIT_CHANNEL_NOWHERE="job", AWS_ENDPOINT_URL_SAGEMAKER=s3.endpoint, TRAINKIT_RUN_DIR=str(tmp_path),
        )  # fmt: skip
    assert ran.code == 0, ran.out
    assert ran.out.count("all is well") == 2
    assert s3.counts["POST"] - before == 2, "once for each channel, not for each rank"


def described(s3: S3Server, *, uri: str) -> None:
    source = {"S3DataType": "S3Prefix", "S3Uri": uri, "S3DataDistributionType": "FullyReplicated"}
    boto3.session.Session().client("sagemaker", endpoint_url=s3.endpoint).create_training_job(
        TrainingJobName="my-job",
        AlgorithmSpecification={"TrainingImage": "image", "TrainingInputMode": "File"},
        RoleArn="arn:aws:iam::123456789012:role/a-role-of-tests",
        InputDataConfig=[{"ChannelName": "asked", "DataSource": {"S3DataSource": source}}],
        OutputDataConfig={"S3OutputPath": s3.bucket},
        ResourceConfig={"InstanceType": "ml.m5.large", "InstanceCount": 1, "VolumeSizeInGB": 1},
        StoppingCondition={"MaxRuntimeInSeconds": 60},
    )


DYING = """
import os, signal, trainkit
job = trainkit.job()
stream = job.stream("train", batch_size=1, kind="numpy")
for step, batch in job.steps(stream):
    if step == 3 and os.environ.get("TORCHELASTIC_RESTART_COUNT") == "0":
        if job.hp("how") == "killed" and job.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if job.hp("how") == "raised" and job.rank == 0:
            raise ArithmeticError("the loss is no number")
if job.hp("how") == "again":
    assert (step, stream.epoch) == (501 - 1, 1)
"""


def dying(tmp_path: Path, *, how: str, epochs: int = 1, restarts: int = 0) -> Ran:
    channels = {"train": channel(ContentType="application/jsonlines")}
    root = lay(tmp_path / "ml", DYING, channels, hyperparameters={"how": how})
    with served(root / "input/data/train", JSON * (1 if restarts else 100), epochs=epochs):
        return train(
            root, "--procs", "2", "--max-restarts", str(restarts), TRAINKIT_RUN_DIR=str(tmp_path), deadline=DEADLINE
        )


def test_a_rank_that_is_killed_is_the_reason_and_nobody_hangs(tmp_path: Path) -> None:
    ran = dying(tmp_path, how="killed")
    assert ran.code == 137, ran.out
    assert ran.failure is not None
    assert "rank 1" in ran.failure


def test_the_rank_that_reads_fails_and_is_the_reason(tmp_path: Path) -> None:
    ran = dying(tmp_path, how="raised")
    assert ran.code == 1, ran.out
    assert ran.failure is not None
    assert ran.failure.startswith("ArithmeticError: the loss is no number")


def test_ranks_that_start_again_read_the_next_fifo(tmp_path: Path) -> None:
    ran = dying(tmp_path, how="killed", epochs=2, restarts=1)
    assert ran.code == 0, ran.out


def job(tmp_path: Path, **facts_of_channel: str) -> Context:
    tree = lay(tmp_path / "ml", "", {"train": channel(**facts_of_channel)})
    given = {"SM_CURRENT_HOST": "algo-1", "SAGEMAKER_BASE_DIR": str(tree)}
    return Context(facts.read(given, argv=[], cwd=tmp_path), stop=Stop())


def test_a_channel_that_does_not_say_what_it_brings_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"inputdataconfig.json: train.ContentType does not say .*RecordWrapperType"):
        job(tmp_path).stream("train", batch_size=1)


def test_what_a_pipe_cannot_do_is_said(tmp_path: Path) -> None:
    here = job(tmp_path, ContentType="text/plain")
    stream = here.stream("train", batch_size=2, kind="numpy")
    with pytest.raises(TypeError, match="a pipe does not say"):
        len(stream)
    with pytest.raises(DataError, match="packing needs every rank to read all rows"):
        stream.packed("text", length=2, batch_size=1)
    with pytest.raises(ValueError, match="lanes are blocks that are mixed, and a pipe has none"):
        here.stream("train", batch_size=2, lanes=2)
    with pytest.raises(ValueError, match="nothing is fetched from a pipe"):
        here.stream("train", batch_size=2, fetcher="boto3")
    with pytest.raises(DataError, match="has no column 'y'; it has text"):
        here.stream("train", batch_size=2, columns=["y"])
    with pytest.raises(DataError, match="its seed is 0, and was 1"):
        stream.load_state_dict({**stream.state_dict(), "seed": 1})


def test_an_epoch_that_gives_no_step_is_an_error(tmp_path: Path) -> None:
    stream = job(tmp_path, ContentType="text/plain").stream("train", batch_size=5, kind="numpy")
    with served(tmp_path / "ml/input/data/train", b"a\nb\n\n", epochs=3):
        with pytest.raises(DataError, match="brought 3 rows, and a step of 1 ranks takes 5"):
            list(stream)
        stream.load_state_dict({**stream.state_dict(), "position": 10})
        with pytest.raises(DataError, match="brought 3 rows, and 10 were had before"):
            list(stream)


def test_a_row_that_is_none_names_the_channel(tmp_path: Path) -> None:
    stream = job(tmp_path, ContentType="application/jsonlines").stream(
        "train", batch_size=500, kind="numpy", tail="exact"
    )
    with (
        served(tmp_path / "ml/input/data/train", JSON * 60 + b'{"id": 5, "x"'),
        pytest.raises(DataError, match=r"input/data/train, byte .*: is no row like the first ones"),
    ):
        list(stream)
