"""Jobs to show to a peer and to trainkit: drawn at random, the same for the same seed, within what both can bear."""

from __future__ import annotations

import json
import random
from typing import Any

WORDS = (
    'Adam it\'s say"hi" $(id) `id` ;rm a;b *.py ~ -- --flag -x a=b,c=d 007 +1 .5 1_000 0x10 é 日本 🚂 True None nan '
    "s3://b/k?x=1&y=2 %s {x} [1 {1:2} \\n \\ ' \" #c |& <x >y !h"
)
TEXTS = [*WORDS.split(), "", " ", "two words", "line\nline", "tab\there", " padded ", "x" * 300]
GROUP = {"instance_group_name": "homogeneousCluster", "instance_type": "ml.p4d.24xlarge"}


def value(dice: random.Random, depth: int = 0) -> Any:
    """A Python value as users give hyperparameters."""
    simple = [
        lambda: dice.choice(TEXTS),
        lambda: dice.randint(-(10**12), 10**12),
        lambda: dice.choice([0.1, 1e-05, -2.5, 1e22, 100000.0, 1.0, dice.random()]),
        lambda: dice.choice([True, False, None]),
    ]
    nested = [
        lambda: [value(dice, depth + 1) for _ in range(dice.randint(0, 3))],
        lambda: {dice.choice(TEXTS): value(dice, depth + 1) for _ in range(dice.randint(0, 3))},
    ]
    drawn: Any = dice.choice(simple + (nested if depth < 3 else []))()
    return drawn


def encoded(given: Any, encoding: str) -> Any:
    """As a client writes it: SDK v2 (JSON of everything), v3 (strings bare), boto3 (str), or real JSON."""
    if encoding == "v2":
        return json.dumps(given)
    if encoding == "v3":
        return given if isinstance(given, str) else json.dumps(given)
    return str(given) if encoding == "bare" else given


def hyperparameters(dice: random.Random, encoding: str) -> dict[str, Any]:
    names = dice.sample(["lr", "epochs", "q", "Z", "model_lr", "batch-size", "a.b", "ü", "x1", "opt", "b c"], k=6)
    return {name: encoded(value(dice), encoding) for name in names}


def case(seed: int) -> dict[str, Any]:
    """One job's files. Hosts stand in rank order: what the peers do with another order is an exception."""
    dice = random.Random(seed)
    encoding = dice.choice(["v2", "v3", "bare", "real"])
    hosts = [f"algo-{number + 1}" for number in range(dice.randint(1, 4))]
    given = hyperparameters(dice, encoding)
    own = {
        "sagemaker_program": "train.py",
        "sagemaker_submit_directory": "s3://bucket/sourcedir.tar.gz",
        "sagemaker_job_name": "job-7",
        "sagemaker_region": "eu-west-1",
    }
    given |= {name: encoded(text, encoding) for name, text in own.items()}
    given |= {"sagemaker_container_log_level": "30"} if dice.random() < 0.5 else {}
    given |= {"sagemaker_torch_distributed_enabled": "true"} if dice.random() < 0.5 else {}
    given |= {"_tuning_objective_metric": "val:loss"} if dice.random() < 0.3 else {}
    here = dice.choice(hosts)
    resources: dict[str, Any] = {
        "current_host": here,
        "current_instance_type": "ml.p4d.24xlarge",
        "hosts": hosts,
        "network_interface_name": dice.choice(["eth0", "ethwe"]),
    }
    if dice.random() < 0.8:
        half = max(1, len(hosts) // 2)
        several = dice.random() < 0.4 and len(hosts) > 1
        listed = [{**GROUP, "hosts": hosts}]
        if several:
            names = (("a", hosts[:half]), ("b", hosts[half:]))
            listed = [{**GROUP, "instance_group_name": name, "hosts": some} for name, some in names]
        mine = next(group for group in listed if here in group["hosts"])
        resources |= {"current_group_name": mine["instance_group_name"], "instance_groups": listed}
    if dice.random() < 0.3:
        resources["topology"] = dice.choice([None, [{"hostName": here, "capacityUnitId": "u-1"}]])
    channels = dice.sample(["train", "test", "train-data", "val.v2", "UP"], k=dice.randint(0, 4))
    inputs = {name: {"TrainingInputMode": "File", "S3DistributionType": "FullyReplicated"} for name in channels}
    return {
        "hyperparameters.json": given,
        "resourceconfig.json": resources,
        "inputdataconfig.json": inputs,
    }


def cases(count: int) -> list[dict[str, Any]]:
    return [case(seed) for seed in range(count)]
