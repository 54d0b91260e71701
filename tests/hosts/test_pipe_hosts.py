"""Pipe channels on several hosts: nobody knows how much is still to come, and all have as many steps."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from harness import DEADLINE, TRAIN, environment, lay_tree

HOSTS = ("algo-1", "algo-2")
WRITES = """
import os, sys
stem, begin, end, epochs = sys.argv[1], *map(int, sys.argv[2:])
for epoch in range(epochs):
    os.mkfifo(f"{stem}_{epoch}")
    try:
        with open(f"{stem}_{epoch}", "wb") as out:
            out.write(b"".join(b"%d\\n" % number for number in range(begin, end)))
    except BrokenPipeError:
        pass
"""
SCRIPT = """
import json, torch, torch.distributed as dist, trainkit
from trainkit.errors import DataError
job = trainkit.job()
dist.init_process_group("gloo")

def read(stream, take=None):
    seen = []
    for batch in stream:
        dist.all_reduce(torch.ones(1))  # hangs where one host has a step more
        seen += map(int, batch["text"])
        if take and len(seen) >= take:
            break
    return seen

stream = job.stream("shares", batch_size=4, shuffle=True)
shares = [read(stream), read(stream, take=8)]
state = stream.state_dict()
shares.append(read(stream))
everywhere = [read(job.stream("all", batch_size=4, tail=tail)) for tail in ("drop", "exact")]
try:
    for _ in job.stream("cut", batch_size=4):
        pass
    cut = "no error"
except DataError as error:
    cut = str(error)
try:
    refused = job.stream("shares", batch_size=4, tail="pad")
except DataError as error:
    refused = str(error)
print("saw", json.dumps([shares, state, everywhere, cut, refused]), flush=True)
dist.destroy_process_group()
"""


@pytest.mark.torch
def test_hosts_agree_on_the_steps_of_a_pipe_while_they_read_it(tmp_path: Path) -> None:
    """4,001 and 2,606 rows of their own: 651 steps of four fit into the smaller share."""
    addresses = json.dumps({name: f"127.79.0.{number}" for number, name in enumerate(HOSTS, 2)})
    channel = {"TrainingInputMode": "Pipe", "ContentType": "text/plain"}
    channels = {"all": channel, "cut": channel, "shares": {**channel, "S3DistributionType": "ShardedByS3Key"}}
    sent = {  # of each host: from, to, how often
        "shares": [(0, 4001, 3), (10_000, 12_606, 3)],
        "all": [(0, 30, 2), (0, 30, 2)],
        "cut": [(0, 4000, 1), (0, 3000, 1)],  # its writer died between two records
    }
    running = []
    with ExitStack() as services:
        for number, name in enumerate(HOSTS):
            root = lay_tree(tmp_path / name, SCRIPT, hosts=HOSTS, current=name)
            (root / "input/config/inputdataconfig.json").write_text(json.dumps(channels))
            (root / "input/data").mkdir(parents=True)
            for stem, of_hosts in sent.items():
                arguments = [str(root / "input/data" / stem), *map(str, of_hosts[number])]
                writer = subprocess.Popen([sys.executable, "-c", WRITES, *arguments])
                services.callback(writer.wait)
                services.callback(writer.kill)
            given = environment(
                SAGEMAKER_BASE_DIR=str(root), TRAINKIT_HOST_ADDRESSES=addresses, TRAINING_JOB_NAME="j",
                TRAINKIT_PORT=str(20000 + os.getpid() % 10000), TRAINKIT_RUN_DIR=str(root),
            )  # fmt: skip
            running.append(
                subprocess.Popen([*TRAIN], env=given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            )
        logs = [process.communicate(timeout=DEADLINE)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0], logs
    first, second = (json.loads(log.split("saw ", 1)[1].splitlines()[0]) for log in logs)
    for (begin, end), (shares, *_) in zip(((0, 4001), (10_000, 12_606)), (first, second), strict=True):
        whole, early, rest = shares
        assert len(whole) == len(set(whole)) == 4 * (2606 // 4)
        assert set(whole) <= set(range(begin, end))
        assert whole != sorted(whole)
        assert (len(early), len(rest)) == (8, 4 * (2606 // 4) - 8)
        assert not set(early) & set(rest)
    assert first[1] == second[1]
    assert first[1]["position"] == 8
    assert first[2] == [[*range(0, 24, 2)], [*range(0, 30, 2)]]
    assert second[2] == [[*range(1, 24, 2)], [*range(1, 30, 2)]]
    for host in (first, second):
        assert "the Pipe channel cut brought host" in host[3]
        assert "different numbers of records" in host[3]
        assert "ShardedByS3Key: hosts have different numbers of rows" in host[4]
