"""What only AWS can say of a request: asked reading, each question on its own, within a few seconds.

    STS  whose credentials these are              IAM  the role exists, and SageMaker may take it on
    S3   buckets exist, are in the region, and hold something under each prefix; the output's bucket is there
    ECR  the image exists                         Service Quotas  as many instances as the job wants

Nothing is written: whether the role may write to the output's bucket is not asked. A question that the credentials may
not ask, or that is not answered in time, is a note, never an error.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import unquote

from trainkit.check.facts import Facts
from trainkit.check.finding import AT_START, REFUSED, Finding
from trainkit.check.request import Job, at

_ECR = re.compile(r"(\d{12})\.dkr\.ecr\.([a-z0-9-]+)\.amazonaws\.com(?:\.cn)?/([^:@]+)(?::([^@]+))?(?:@(.+))?")
_SECONDS = 5
_DENIED = frozenset({"AccessDenied", "AccessDeniedException", "403", "UnauthorizedOperation", "Forbidden"})
_ABSENT = frozenset({"404", "NoSuchBucket", "NoSuchEntity", "ImageNotFoundException", "RepositoryNotFoundException"})
Question = Callable[["Account", Job], Iterator[Finding]]


class Account:
    """Clients of one account and region, made when they are wanted."""

    def __init__(self, region: str) -> None:
        import boto3
        from botocore.config import Config

        self.region = region
        self._clients: dict[tuple[str, str], Any] = {}
        self._session = boto3.Session(region_name=region)
        self._config = Config(connect_timeout=_SECONDS, read_timeout=_SECONDS, retries={"total_max_attempts": 2})

    @property
    def has_credentials(self) -> bool:
        return self._session.get_credentials() is not None

    def client(self, service: str, *, region: str | None = None) -> Any:
        wanted = (service, region or self.region)
        if wanted not in self._clients:
            self._clients[wanted] = self._session.client(*wanted, config=self._config)  # type: ignore[call-overload]
        return self._clients[wanted]


def run(facts: Facts) -> list[Finding]:
    """Ask. Without credentials, or without boto3, that is said instead."""
    jobs = [job for job in facts.jobs if not job.partial]
    if not jobs:
        return [_unchecked("there is no request to ask about", "trainkit check job.json --aws")]
    try:
        account = Account(_region(jobs[0]))
    except ImportError:
        return [_unchecked("boto3 is not installed here", "pip install boto3")]
    if not account.has_credentials:
        return [_unchecked("there are no AWS credentials here", "aws configure, or AWS_PROFILE")]
    return [finding for job in jobs for question in QUESTIONS for finding in _asked(question, account, job)]


def _asked(question: Question, account: Account, job: Job) -> Iterator[Finding]:
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield from question(account, job)
    except (BotoCoreError, ClientError) as error:
        yield _unchecked(f"{question.__name__}: {error}", "Allow these credentials to ask, or look by hand")
    except NotImplementedError as error:  # a stand-in for AWS that has no such call
        yield _unchecked(f"{question.__name__}: {error or 'not to be had here'}", "Look by hand")


def _unchecked(what: str, remedy: str) -> Finding:
    return Finding("aws-not-checked", "note", "", f"not checked: {what}", "It shows when the job starts", remedy)


def _region(job: Job) -> str:
    found = _ECR.match(job.image)
    return found[2] if found else os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"


def _code(error: Exception) -> str:
    return str(getattr(error, "response", {}).get("Error", {}).get("Code", ""))


def role(account: Account, job: Job) -> Iterator[Finding]:
    """The role exists, and trusts SageMaker."""
    arn = str(job.definition.get("RoleArn") or "")
    key, name = f"{job.key}RoleArn", arn.rpartition("/")[2]
    found = re.match(r"arn:aws[a-z-]*:iam::(\d{12}):role", arn)
    if not found:
        return
    own = account.client("sts").get_caller_identity()["Account"]
    if found[1] != own:
        yield Finding(
            "aws-role-account", "error", key, f"is of account {found[1]}, and these credentials are of {own}", REFUSED,
            "Use a role of the account that runs the job",
        )  # fmt: skip
        return
    iam = account.client("iam")
    try:
        trust = iam.get_role(RoleName=name)["Role"]["AssumeRolePolicyDocument"]
    except iam.exceptions.NoSuchEntityException:
        yield Finding("aws-role-missing", "error", key, f"there is no role {name}", REFUSED, "Make it, or name another")
        return
    text = unquote(trust) if isinstance(trust, str) else json.dumps(trust)
    if "sagemaker.amazonaws.com" not in text:
        yield Finding(
            "aws-role-trust", "error", key, f"role {name} does not trust sagemaker.amazonaws.com",
            f"{REFUSED}: could not assume role", "Add the service to the role's trust policy (sts:AssumeRole)",
        )  # fmt: skip


def data(account: Account, job: Job) -> Iterator[Finding]:
    """Buckets, their region, and what lies under each channel's prefix."""
    for key, channel in job.channels:
        source = at(channel, "DataSource", "S3DataSource", kind=dict) or {}
        yield from _prefix(account, source.get("S3Uri"), f"{key}.DataSource.S3DataSource.S3Uri")


def inputs(account: Account, job: Job) -> Iterator[Finding]:
    """The same for a processing job's inputs."""
    for index, one in enumerate(at(job.definition, "ProcessingInputs", kind=list) or []):
        yield from _prefix(
            account, at(one, "S3Input", "S3Uri", kind=str), f"{job.key}ProcessingInputs[{index}].S3Input.S3Uri"
        )


def _prefix(account: Account, uri: object, key: str) -> Iterator[Finding]:
    bucket, prefix = _split(uri)
    if not bucket:
        return
    missing = [*_bucket(account, bucket, key)]
    yield from missing
    if any(finding.code == "aws-bucket-missing" for finding in missing):
        return
    listed = account.client("s3").list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=50)
    names = [entry["Key"] for entry in listed.get("Contents", [])]
    if not names:
        yield Finding(
            "aws-prefix-empty", "error", key, f"there is no object below {uri}",
            f"{AT_START}: 'No S3 objects found under S3 URL'", "Compare the prefix, letter by letter",
        )  # fmt: skip
    if prefix and not prefix.endswith("/"):
        folders = account.client("s3").list_objects_v2(Bucket=bucket, Prefix=prefix, Delimiter="/", MaxKeys=50)
        others = [entry["Prefix"] for entry in folders.get("CommonPrefixes", []) if entry["Prefix"] != f"{prefix}/"]
        if others:
            yield Finding(
                "prefix-siblings", "warning", key, f"{uri} is the beginning of s3://{bucket}/{others[0]}, too",
                "The channel gets its objects as well: the wrong data is trained on, and nothing says so",
                f"End it with a slash: {uri}/",
            )  # fmt: skip


def _bucket(account: Account, bucket: str, key: str) -> Iterator[Finding]:
    from botocore.exceptions import ClientError

    try:
        answer = account.client("s3").head_bucket(Bucket=bucket)
    except ClientError as error:
        if _code(error) not in _ABSENT:
            raise
        yield Finding(
            "aws-bucket-missing", "error", key, f"there is no bucket {bucket}", f"{REFUSED}, or: {AT_START}",
            "Compare its name; buckets of other accounts must allow the role",
        )  # fmt: skip
        return
    region = answer["ResponseMetadata"]["HTTPHeaders"].get("x-amz-bucket-region") or answer.get("BucketRegion")
    if region and region != account.region:
        yield Finding(
            "region-differs", "error", key, f"bucket {bucket} is in {region}, the job in {account.region}",
            f"{REFUSED}: the bucket must be in the job's region", "Copy the data, or run the job there",
        )  # fmt: skip


def outputs(account: Account, job: Job) -> Iterator[Finding]:
    """The buckets of what is written; and whether checkpoints lie there already."""
    output = at(job.definition, "OutputDataConfig", "S3OutputPath", kind=str)
    yield from _bucket_of(account, output, f"{job.key}OutputDataConfig.S3OutputPath")
    uri = at(job.definition, "CheckpointConfig", "S3Uri", kind=str)
    key = f"{job.key}CheckpointConfig.S3Uri"
    bucket, prefix = _split(uri)
    if bucket:
        missing = [*_bucket(account, bucket, key)]
        yield from missing
        if not missing and account.client("s3").list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1).get(
            "Contents"
        ):
            yield Finding(
                "aws-checkpoints-there", "warning", key, f"there are objects below {uri} already",
                "The job downloads them, and goes on from them instead of beginning anew",
                "Meant so, all is well; else give the job a prefix of its own",
            )  # fmt: skip


def _bucket_of(account: Account, uri: object, key: str) -> Iterator[Finding]:
    bucket, _ = _split(uri)
    if bucket:
        yield from _bucket(account, bucket, key)


def image(account: Account, job: Job) -> Iterator[Finding]:
    """The image exists, under that tag."""
    found = _ECR.match(job.image)
    if not found:
        return
    registry, region, repository, tag, digest = found.groups()
    ecr = account.client("ecr", region=region)
    which = {"imageDigest": digest} if digest else {"imageTag": tag or "latest"}
    try:
        ecr.describe_images(registryId=registry, repositoryName=repository, imageIds=[which])
    except (ecr.exceptions.ImageNotFoundException, ecr.exceptions.RepositoryNotFoundException) as error:
        yield Finding(
            "aws-image-missing",
            "error",
            job.image_key,
            f"{job.image} is not there ({_code(error)})",
            REFUSED,
            "Push it, or compare repository and tag",
        )


def quotas(account: Account, job: Job) -> Iterator[Finding]:
    """As many instances of the type as the account may use at once."""
    use = "spot training" if job.definition.get("EnableManagedSpotTraining") is True else "training"
    use = use if job.trains else "processing"
    wanted = {f"{name} for {use} job usage": name for name in job.instance_types}
    pages = account.client("service-quotas").get_paginator("list_service_quotas").paginate(ServiceCode="sagemaker")
    quota = {one["QuotaName"]: one["Value"] for page in pages for one in page["Quotas"] if one["QuotaName"] in wanted}
    for name, instance_type in wanted.items():
        if name in quota and quota[name] < job.hosts:
            yield Finding(
                "aws-quota",
                "error",
                f"{job.key}ResourceConfig.InstanceCount",
                f"the account may use {quota[name]:g} {instance_type} for {use} at once, and the job wants {job.hosts}",
                f"{REFUSED}: ResourceLimitExceeded",
                f"Ask for more (Service Quotas: {name}), which takes hours to days",
            )
        elif name not in quota:
            yield _unchecked(f"there is no quota called {name!r}", "Look at the Service Quotas console")


QUESTIONS: tuple[Question, ...] = (role, data, inputs, outputs, image, quotas)


def _split(uri: object) -> tuple[str, str]:
    """Bucket and prefix; empty for what is no S3 URI."""
    found = re.fullmatch(r"s3://([^/]+)/?(.*)", uri, re.DOTALL) if isinstance(uri, str) else None
    return (found[1], found[2]) if found else ("", "")
