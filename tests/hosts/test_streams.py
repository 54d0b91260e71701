"""Streams on several hosts: where each has its own share of a channel, all have as many steps and one state."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from harness import DEADLINE, TRAIN, environment, lay_tree

HOSTS = ("algo-1", "algo-2")
SHARED = """
import json, torch.distributed as dist, trainkit
job = trainkit.job()
dist.init_process_group("gloo")
stream = job.stream("train", batch_size=4, shuffle=True)
seen = [batch["id"].tolist() for _, batch in job.steps(stream)]
print("saw", json.dumps({"steps": len(seen), "ids": sum(seen, []), "state": stream.state_dict()}), flush=True)
dist.destroy_process_group()
"""


@pytest.mark.torch
def test_hosts_that_each_have_their_share_of_the_objects_take_as_many_steps(tmp_path: Path) -> None:
    """41 rows on the first host and 26 on the second: six steps of four fit into the smaller share."""
    addresses = json.dumps({name: f"127.78.0.{number}" for number, name in enumerate(HOSTS, 2)})
    running = []
    for name, ids in zip(HOSTS, (np.arange(41), np.arange(100, 126)), strict=True):
        root = lay_tree(tmp_path / name, SHARED, hosts=HOSTS, current=name)
        channel = {"TrainingInputMode": "File", "S3DistributionType": "ShardedByS3Key"}
        (root / "input/config/inputdataconfig.json").write_text(json.dumps({"train": channel}))
        (root / "input/data/train").mkdir(parents=True)
        pq.write_table(pa.table({"id": ids}), root / "input/data/train/part.parquet", row_group_size=5)
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
    assert first["steps"] == second["steps"] == 6
    assert first["state"] == second["state"]
    assert len(set(first["ids"])) == len(set(second["ids"])) == 24
    assert set(first["ids"]) <= set(range(41))
    assert set(second["ids"]) <= set(range(100, 126))
