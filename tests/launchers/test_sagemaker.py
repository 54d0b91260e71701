"""The start with boto3 sends what it says, to a server that takes it. The SDKs are too heavy to install for this."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import boto3
import pytest
from servers.s3 import S3Server

ROOT = Path(__file__).parents[2]
IMAGE = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/mine:7"
ROLE = "arn:aws:iam::123456789012:role/mine"


@pytest.mark.parametrize("example", ["flights", "from_s3", "plain_torch"])
def test_boto3_sends_the_request_as_it_stands_with_image_role_and_a_name_of_its_own(s3: S3Server, example: str) -> None:
    path = ROOT / "examples" / example / "job.json"
    argv = [sys.executable, ROOT / "launchers/sagemaker_boto3.py", path, "--image", IMAGE, "--role", ROLE]

    ran = subprocess.run(
        argv, env={**os.environ, "AWS_ENDPOINT_URL": s3.endpoint}, capture_output=True, text=True, timeout=120
    )

    assert ran.returncode == 0, ran.stderr
    name = ran.stdout.strip().rpartition("/")[2]
    sent = json.loads(path.read_text())
    seen = boto3.client("sagemaker", endpoint_url=s3.endpoint).describe_training_job(TrainingJobName=name)
    assert name.startswith(f"{sent['TrainingJobName']}-20")
    assert seen["RoleArn"] == ROLE
    assert seen["AlgorithmSpecification"]["TrainingImage"] == IMAGE
    for key in ("HyperParameters", "InputDataConfig", "ResourceConfig", "StoppingCondition"):
        assert seen.get(key, []) == sent.get(key, [])
    assert seen["OutputDataConfig"]["S3OutputPath"] == sent["OutputDataConfig"]["S3OutputPath"]


@pytest.mark.parametrize("launcher", sorted((ROOT / "launchers").glob("*.py")), ids=lambda path: path.stem)
def test_a_launcher_is_thin_and_does_nothing_when_imported(launcher: Path) -> None:
    lines = launcher.read_text(encoding="utf-8").splitlines()

    compile("\n".join(lines), launcher, "exec")
    assert len(lines) <= 40
    assert lines[-2:] == ['if __name__ == "__main__":', "    main()"]


def test_the_table_of_launchers_is_complete() -> None:
    table = (ROOT / "launchers/README.md").read_text(encoding="utf-8")

    assert [
        path.name for path in (ROOT / "launchers").iterdir() if path.is_file() and f"({path.name})" not in table
    ] == ["README.md"]
