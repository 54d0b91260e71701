"""What AWS is asked, beside a server that answers as AWS does (moto): role, buckets, image. It has no quotas."""

from __future__ import annotations

import json

import boto3
import pytest
from mistakes import base
from moto.server import ThreadedMotoServer

from trainkit.check import aws, request
from trainkit.check.facts import Facts
from trainkit.check.request import Call

IMAGE = "123456789012.dkr.ecr.us-east-1.amazonaws.com/trainkit:gpu"
MANIFEST = {"schemaVersion": 2, "mediaType": "application/vnd.docker.distribution.manifest.v2+json", "layers": []}
TRUST = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "sts:AssumeRole"}]}


@pytest.fixture(scope="module")
def account():
    """An account in which the job of base.REQUEST can run."""
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.get_host_and_port()[1]}",
            "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "us-east-1",
        }.items():  # fmt: skip
            patch.setenv(name, value)
        s3, iam, ecr = (boto3.client(name, region_name="us-east-1") for name in ("s3", "iam", "ecr"))
        for bucket in ("my-data", "my-models"):
            s3.create_bucket(Bucket=bucket)
        for key in ("line/train/data.pt", "line/train2/data.pt"):
            s3.put_object(Bucket="my-data", Key=key, Body=b"x")
        s3.put_object(Bucket="my-models", Key="checkpoints/line-0/step-2/MANIFEST.json", Body=b"x")
        s3.create_bucket(Bucket="far-away", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
        s3.put_object(Bucket="far-away", Key="line/data.pt", Body=b"x")
        for role, service in (("training", "sagemaker"), ("lambda", "lambda")):
            trust = json.loads(json.dumps(TRUST))
            trust["Statement"][0]["Principal"] = {"Service": f"{service}.amazonaws.com"}
            iam.create_role(RoleName=role, AssumeRolePolicyDocument=json.dumps(trust))
        ecr.create_repository(repositoryName="trainkit")
        ecr.put_image(repositoryName="trainkit", imageManifest=json.dumps(MANIFEST), imageTag="gpu")
        yield
    server.stop()


def asked(**changes: object) -> dict[str, str]:
    """Code → severity of what AWS says of the request with these changes."""
    made = base.request("training", {key.replace("__", "."): value for key, value in changes.items()})
    return {found.code: found.severity for found in aws.run(Facts((Call(request.TRAINING, made),)))}


def test_a_job_that_can_run_raises_no_alarm_and_what_could_not_be_asked_is_said(account):
    assert asked() == {"aws-not-checked": "note"}  # the quotas


DATA = "InputDataConfig[0]__DataSource__S3DataSource__S3Uri"


@pytest.mark.parametrize(
    ("changes", "codes"),
    [
        (
            {
                "RoleArn": "arn:aws:iam::123456789012:role/lambda",
                "AlgorithmSpecification__TrainingImage": IMAGE.replace("gpu", "cpu"),
                "OutputDataConfig__S3OutputPath": "s3://no-such-bucket/x",
                "CheckpointConfig__S3Uri": "s3://my-models/checkpoints/line-0",
                DATA: "s3://my-data/line/tain/",
            },
            {"aws-role-trust", "aws-image-missing", "aws-bucket-missing", "aws-checkpoints-there", "aws-prefix-empty"},
        ),
        (
            {
                "RoleArn": "arn:aws:iam::210987654321:role/training",
                "AlgorithmSpecification__TrainingImage": IMAGE.replace("trainkit", "nothing"),
                DATA: "s3://my-data/line/train",
            },
            {"aws-role-account", "aws-image-missing", "prefix-siblings"},
        ),
        (
            {"RoleArn": "arn:aws:iam::123456789012:role/nobody", DATA: "s3://far-away/line/"},
            {"aws-role-missing", "region-differs"},
        ),
    ],
)
def test_what_is_missing_there_is_found(account, changes, codes):
    found = asked(**changes)

    assert {code for code, severity in found.items() if severity != "note"} == codes


def test_without_credentials_it_says_so_and_asks_nothing(monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")

    (found,) = aws.run(Facts((Call(request.TRAINING, base.REQUEST),)))

    assert found.severity == "note"
    assert "no AWS credentials" in found.what
