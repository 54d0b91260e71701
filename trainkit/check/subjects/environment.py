"""What a job says beside its data: settings of trainkit, variables, secrets, the image, network isolation."""

from __future__ import annotations

import re
from collections.abc import Iterator

from trainkit.check.facts import Facts
from trainkit.check.finding import AT_START, IN_SCRIPT, REFUSED, Finding
from trainkit.check.request import Job, at
from trainkit.contract import settings
from trainkit.contract.names import named
from trainkit.contract.secrets import scrub
from trainkit.errors import Mistake


def ours(facts: Facts) -> Iterator[Finding]:
    """Settings of trainkit that `train` would refuse or not know."""
    for job in facts.trainings:
        mistakes: list[Mistake] = []
        settings.read(flags={}, environ=job.environment, hyperparameters=job.hyperparameters, mistakes=mistakes)
        for mistake in mistakes:
            part = "Environment" if mistake.file == "environment" else job.hyperparameters_key
            shown = "" if mistake.value is None else f"is {mistake.value!r}: "
            yield Finding(
                "setting",
                "error",
                f"{job.key}{part}.{mistake.key}",
                f"{shown}{mistake.problem}",
                AT_START,
                mistake.remedy,
            )
        for text in settings.strange(job.environment):
            what, _, remedy = text.partition(". ")
            yield Finding(
                "setting-unknown", "warning", f"{job.key}Environment", what, "It has no effect", remedy or "Take it out"
            )


def names(facts: Facts) -> Iterator[Finding]:
    """Names that fall together in the script's environment."""
    for job in facts.trainings:
        entries = [("channel", "SM_CHANNEL_", str(c.get("ChannelName")), "") for _, c in job.channels]
        entries += [("hyperparameter", "SM_HP_", name, "") for name in job.hyperparameters]
        for text in named(entries)[1]:
            yield Finding(
                "names-collide", "warning", job.key.rstrip("."), text, "The script reads the wrong one",
                "Rename one of them",
            )  # fmt: skip


def secrets(facts: Facts) -> Iterator[Finding]:
    """Credentials in a request are there for all to read who may describe the job."""
    for job in facts.jobs:
        for part, texts in (("Environment", job.environment), (job.hyperparameters_key, job.hyperparameters)):
            for name, text in texts.items():
                if scrub(text, {name: text}) != text or scrub(text, {}) != text:
                    yield Finding(
                        "secret-in-request",
                        "warning",
                        f"{job.key}{part}.{name}",
                        "looks like a credential",
                        "Everybody who may call DescribeTrainingJob can see it, for as long as the job is kept",
                        "Put it into Secrets Manager, and read it in the script with the job's role",
                    )


def algorithm(facts: Facts) -> Iterator[Finding]:
    """Which image runs."""
    for job in facts.trainings:
        spec = at(job.definition, "AlgorithmSpecification", kind=dict)
        if spec is None or job.partial:
            continue
        given = [name for name in ("TrainingImage", "AlgorithmName") if spec.get(name)]
        if len(given) != 1:
            what = (
                "names both TrainingImage and AlgorithmName"
                if given
                else "names neither TrainingImage nor AlgorithmName"
            )
            yield Finding(
                "no-image", "error", f"{job.key}AlgorithmSpecification", what, REFUSED, "Name the image, and only that"
            )
    for job in facts.jobs:
        if re.match(r"\d{12}\.dkr\.ecr\.[a-z0-9-]+\.amazonaws\.com(\.cn)?/[^:@]+$", job.image):
            yield Finding(
                "image-without-tag",
                "note",
                job.image_key,
                f"{job.image} has no tag: it is whatever `latest` is at that time",
                "Two runs of one request may run different images",
                "Name a tag or a digest",
            )
        elif (
            job.image
            and not job.partial
            and not re.match(r"\d{12}\.dkr\.ecr\.[a-z0-9-]+\.|public\.ecr\.aws/", job.image)
        ):
            vpc = at(job.definition, "AlgorithmSpecification", "TrainingImageConfig", kind=dict)
            if not vpc and not job.image.startswith(("arn:", "local")):
                yield Finding(
                    "image-not-in-ecr", "error", job.image_key,
                    f"{job.image} lies in no ECR registry", f"{REFUSED}, or: {AT_START}: the image cannot be pulled",
                    "Push it to ECR in the job's region, or give TrainingImageConfig for a private registry",
                )  # fmt: skip


_DOWNLOADS = (
    "load_dataset",
    "snapshot_download",
    "hf_hub_download",
    "urlopen",
    "urlretrieve",
    "load_state_dict_from_url",
)
_MODEL_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*|(bert|gpt2|roberta|distilbert|t5|resnet)[\w-]*")


def isolation(facts: Facts) -> Iterator[Finding]:
    """A job without a network."""
    for job in facts.jobs:
        enabled = job.definition.get("EnableNetworkIsolation") is True or at(
            job.definition, "NetworkConfig", "EnableNetworkIsolation", kind=bool
        )
        if enabled:
            yield from _isolated(facts, job)


def _isolated(facts: Facts, job: Job) -> Iterator[Finding]:
    where = f"{job.key}EnableNetworkIsolation"
    then = "The container reaches neither S3 nor PyPI nor a hub: it fails there after minutes of retries"
    texts = {f"{job.key}{job.hyperparameters_key}.{name}": text for name, text in job.hyperparameters.items()}
    texts |= {f"{job.key}Environment.{name}": text for name, text in job.environment.items()}
    for key, text in texts.items():
        if text.strip('"').startswith(("s3://", "http://", "https://")):
            what = "the code" if key.endswith("sagemaker_submit_directory") else "what"
            yield Finding(
                "isolated-url",
                "error",
                key,
                f"{what} lies at {text.strip(chr(34))}, and network isolation is on",
                then,
                "Give it as an input channel (the code as channel `code`), or turn network isolation off",
            )
    if facts.code and facts.code.has_requirements and facts.code.requirements:
        yield Finding(
            "isolated-requirements",
            "error",
            where,
            f"requirements.txt wants {', '.join(facts.code.requirements[:4])} from an index",
            then,
            "Install them in the image, or bring wheels in a channel",
        )
    calls = facts.uses.called(*_DOWNLOADS) if facts.has_script else []
    calls += [c for c in facts.uses.called("from_pretrained") if c.values and _MODEL_ID.fullmatch(str(c.values[0]))]
    for call in calls:
        yield Finding(
            "isolated-download", "error", call.where, f"{call.name} downloads, and network isolation is on", then,
            "Put the files into a channel, and load them from there",
        )  # fmt: skip


def waits(facts: Facts) -> Iterator[Finding]:
    """Nobody sits at the job's terminal."""
    for call in facts.uses.calls if facts.has_script else ():
        if call.whole in ("input", "breakpoint", "pdb.set_trace", "ipdb.set_trace", "getpass.getpass"):
            yield Finding(
                "waits-for-a-person",
                "error",
                call.where,
                f"{call.whole}() waits for somebody at a terminal",
                f"{IN_SCRIPT}: EOFError or BdbQuit, wherever it is reached",
                "Take it out; pass values as hyperparameters",
            )
