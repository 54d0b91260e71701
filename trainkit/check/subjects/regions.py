"""Everything of a job lies in one region."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from trainkit.check.facts import Facts
from trainkit.check.finding import REFUSED, Finding
from trainkit.check.request import Job

_REGION = r"((?:af|ap|ca|cn|eu|il|me|mx|sa|us)(?:-gov|-iso[a-z]?)?-[a-z]+-\d)"
_SURE = (
    re.compile(rf"\.dkr\.ecr\.{_REGION}\.amazonaws"),
    re.compile(rf"arn:aws[a-z-]*:(?:kms|sagemaker|elasticfilesystem|fsx|secretsmanager|ec2):{_REGION}:"),
    re.compile(rf"\bs3[.-]{_REGION}\.amazonaws"),
)
_BUCKET = re.compile(rf"s3://sagemaker-{_REGION}-\d{{12}}(?:/|$)")
_NAMED = ("sagemaker_region", "AWS_REGION", "AWS_DEFAULT_REGION", "SAGEMAKER_REGION")


def regions(facts: Facts) -> Iterator[Finding]:
    for job in facts.jobs:
        yield from _one(job)


def _one(job: Job) -> Iterator[Finding]:
    said = [*_said(dict(job.definition), job.key.rstrip("."))]
    sure = [one for one in said if one[2]]
    if not said:
        return
    where, region, _ = (sure or said)[0]
    for other, theirs, is_sure in said:
        if theirs != region:
            yield Finding(
                "region-differs",
                "error" if is_sure else "warning",
                other,
                f"is in {theirs}, while {where} is in {region}",
                f"{REFUSED}, or the job fails at its start: images, keys and data are looked for in its region",
                "Take all of them from one region: copy the data, or push the image there",
            )


def _said(value: Any, key: str, *, name: str = "") -> Iterator[tuple[str, str, bool]]:
    """(key, region, whether it is sure) of each text that tells one."""
    if isinstance(value, dict):
        for inner, entry in value.items():
            yield from _said(entry, f"{key}.{inner}" if key else str(inner), name=str(inner))
    elif isinstance(value, list):
        for index, entry in enumerate(value):
            yield from _said(entry, f"{key}[{index}]")
    elif isinstance(value, str):
        text = value.strip('"')
        if name in _NAMED and re.fullmatch(_REGION, text):
            yield key, text, True
        for pattern in (*_SURE, _BUCKET):
            if found := pattern.search(text):
                yield key, found[1], pattern is not _BUCKET
                return
