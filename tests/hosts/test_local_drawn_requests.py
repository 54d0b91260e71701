"""`trainkit local job.json` with requests drawn at random from the API's model (see drawing).

TRAINKIT_TEST_REQUESTS=200 draws so many; TRAINKIT_TEST_REQUESTS=7.. begins with the seed 7, to see one again.
"""

from __future__ import annotations

import json
import os
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from harness import Ran, local, processes_mentioning
from hosts.drawing import Drawn

from trainkit.errors import IsolationUnavailable
from trainkit.local import isolation

ASKED = os.environ.get("TRAINKIT_TEST_REQUESTS", "6")
SEEDS = [int(ASKED[:-2])] if ASKED.endswith("..") else range(int(ASKED))
PROBE = (Path(__file__).parents[1] / "local_requests/probe.py").read_text()


def kinds() -> list[str]:
    try:
        isolation.choose("namespace")[0].close()
    except IsolationUnavailable:
        return ["process"]
    return ["namespace", "process"]


KINDS = kinds()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_drawn_request_ends_right_and_its_script_sees_what_it_asks_for(tmp_path: Path, seed: int) -> None:
    drawn = Drawn(tmp_path, seed)
    (tmp_path / "code").mkdir()
    (tmp_path / "code/train.py").write_text(PROBE)
    (tmp_path / "job.json").write_text(json.dumps(drawn.request))
    kind = KINDS[seed % len(KINDS)]
    code = ("--code", str(tmp_path / "code"))
    ran = local(tmp_path / "job.json", *code, "--isolation", kind, output=tmp_path / "local")

    said = f"seed {seed}, {kind}: {json.dumps(drawn.request)}\n{ran.out}"
    assert ran.code == 0, said
    assert ran.described["SecondaryStatus"] == "Completed", said
    results = _results(drawn, ran)
    assert (results / "model").exists() or (results / "model.tar.gz").exists(), said
    seen = _seen(results)
    assert sorted(seen) == sorted(drawn.hosts), said
    for host in drawn.hosts:
        _compare(drawn, host, seen[host], said)
    _compare_shares(drawn, seen, said)
    metrics = {one["MetricName"]: one["Value"] for one in ran.described["FinalMetricDataList"]}
    defined = "MetricDefinitions" in drawn.request["AlgorithmSpecification"]
    assert metrics == ({"train:loss": 0.25} if defined else {}), said
    if "CheckpointConfig" in drawn.request:
        kept = sorted(path.name for path in (tmp_path / "checkpoints kept").iterdir())
        assert kept == sorted(f"{host}.ckpt" for host in drawn.hosts), said
    if "TensorBoardOutputConfig" in drawn.request:
        board = tmp_path / "board" / drawn.request["TrainingJobName"] / "tensorboard-output"
        assert sorted(path.name for path in board.iterdir()) == sorted(drawn.hosts), said
    assert processes_mentioning(str(tmp_path)) == [], said


def _results(drawn: Drawn, ran: Ran) -> Path:
    there = drawn.request["OutputDataConfig"]["S3OutputPath"]
    if there.startswith("s3:"):
        return ran.root
    folder = "results" if there.startswith("file:") else there
    return drawn.folder / folder / drawn.request["TrainingJobName"] / "output"


def _seen(results: Path) -> dict[str, dict[str, Any]]:
    packed, plain = results / "output.tar.gz", results / "output"
    if plain.is_dir():
        return {path.stem: json.loads(path.read_text()) for path in plain.iterdir()}
    with tarfile.open(packed) as tar:
        return {m.name.removesuffix(".json"): json.load(tar.extractfile(m)) for m in tar}  # type: ignore[arg-type]


def _compare(drawn: Drawn, host: str, seen: dict[str, Any], said: str) -> None:
    request = drawn.request
    given = request.get("HyperParameters", {})
    assert seen["argv"] == [word for name, text in given.items() for word in (f"--{name}", text)], said
    for name, value in request.get("Environment", {}).items():
        assert seen["env"][name] == value, said
    assert seen["env"]["TRAINING_JOB_NAME"] == request["TrainingJobName"], said
    assert seen["resources"]["current_group_name"] == drawn.group_of(host), said
    assert seen["resources"]["hosts"] == sorted(drawn.hosts), said
    own = [one for one in request.get("InputDataConfig", []) if host in drawn.getters(one)]
    assert {*seen["channels"]} - {"code"} == {one["ChannelName"] for one in own}, said
    for one in own:
        told = seen["channels"][one["ChannelName"]]
        source = one["DataSource"]["S3DataSource"]
        assert told["TrainingInputMode"] == drawn.mode(one), said
        assert told["S3DistributionType"] == source.get("S3DataDistributionType", "FullyReplicated"), said
        assert told.get("ContentType") == one.get("ContentType"), said
        assert told.get("CompressionType") == one.get("CompressionType"), said
    assert ("checkpoints" in seen) == ("CheckpointConfig" in request), said


def _compare_shares(drawn: Drawn, seen: dict[str, dict[str, Any]], said: str) -> None:
    """Every object is on every host, or on exactly one of those that get the channel; each epoch has all of them."""
    for one in drawn.request.get("InputDataConfig", []):
        name, source, hosts = one["ChannelName"], one["DataSource"]["S3DataSource"], drawn.getters(one)
        sharded = source.get("S3DataDistributionType") == "ShardedByS3Key"
        times = 1 if sharded else len(hosts)
        wanted = dict.fromkeys(drawn.files[name].values(), times)
        if drawn.mode(one) == "Pipe":
            for epoch in range(2):
                streams = [seen[host]["piped"][name][epoch] for host in hosts]
                # An augmented manifest's second attribute, a number, stands before the next record's first one.
                lines = [line.lstrip("0123456789") for stream in streams for line in stream.splitlines(True)]
                assert Counter(line for line in lines if line) == wanted, said
            continue
        found = Counter(text for host in hosts for text in seen[host]["files"][name].values())
        assert found == wanted, said
        for host in hosts:
            inner = seen[host]["files"][name]
            assert all(drawn.files[name][path] == text for path, text in inner.items()), said
