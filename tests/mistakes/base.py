"""What every planted mistake begins as: a request, a script in its folder, an image, a model; all of them fine."""

from __future__ import annotations

import copy
import hashlib
import json
import struct
import tarfile
from pathlib import Path
from typing import Any

LOSS = r"trainkit\.metric .* loss=(-?(?:[0-9]+(?:\.[0-9]+)?(?:e[-+]?[0-9]+)?|nan|inf))"
SCRIPT = '''\
"""Trains a line."""

import argparse
import os

import torch
from torch.nn.parallel import DistributedDataParallel

import trainkit
from layers import line


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--optimizer", choices=["adam", "sgd"], default="adam")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--amp", type=lambda text: text == "true", default=False)
    given = parser.parse_args()
    job = trainkit.job()
    model = DistributedDataParallel(line().to(job.device))
    optimizer = torch.optim.Adam(model.parameters(), lr=given.lr)
    ckpt = job.checkpointer(model=model, optimizer=optimizer)
    data = torch.load(os.environ["SM_CHANNEL_TRAIN"] + "/data.pt")
    for step, batch in job.steps(data * given.epochs, start=ckpt.restore()):
        loss = model(batch).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        ckpt.step(step, loss=loss)
        job.log(loss=loss)
    job.save_model(model)


if __name__ == "__main__":
    main()
'''
FILES = {"train.py": SCRIPT, "layers.py": "import torch\n\n\ndef line():\n    return torch.nn.Linear(1, 1)\n"}
REQUEST: dict[str, Any] = {
    "TrainingJobName": "line-1",
    "RoleArn": "arn:aws:iam::123456789012:role/training",
    "AlgorithmSpecification": {
        "TrainingImage": "123456789012.dkr.ecr.us-east-1.amazonaws.com/trainkit:gpu",
        "TrainingInputMode": "File",
        "MetricDefinitions": [{"Name": "train:loss", "Regex": LOSS}],
    },
    "HyperParameters": {"lr": "0.01", "epochs": "3", "optimizer": "sgd", "amp": "true"},
    "InputDataConfig": [
        {
            "ChannelName": "train",
            "DataSource": {
                "S3DataSource": {
                    "S3DataType": "S3Prefix",
                    "S3Uri": "s3://my-data/line/train/",
                    "S3DataDistributionType": "FullyReplicated",
                }
            },
            "InputMode": "File",
        }
    ],
    "OutputDataConfig": {"S3OutputPath": "s3://my-models/line/"},
    "CheckpointConfig": {"S3Uri": "s3://my-models/checkpoints/line-1/"},
    "ResourceConfig": {"InstanceType": "ml.g5.2xlarge", "InstanceCount": 2, "VolumeSizeInGB": 30},
    "EnableManagedSpotTraining": True,
    "StoppingCondition": {"MaxRuntimeInSeconds": 3600, "MaxWaitTimeInSeconds": 7200},
}
TUNING: dict[str, Any] = {
    "HyperParameterTuningJobName": "line-tuning",
    "HyperParameterTuningJobConfig": {
        "Strategy": "Bayesian",
        "HyperParameterTuningJobObjective": {"Type": "Minimize", "MetricName": "train:loss"},
        "ResourceLimits": {"MaxNumberOfTrainingJobs": 8, "MaxParallelTrainingJobs": 2},
        "ParameterRanges": {
            "ContinuousParameterRanges": [
                {"Name": "lr", "MinValue": "0.0001", "MaxValue": "0.1", "ScalingType": "Logarithmic"}
            ],
            "CategoricalParameterRanges": [{"Name": "optimizer", "Values": ["adam", "sgd"]}],
        },
    },
    "TrainingJobDefinition": {
        "StaticHyperParameters": {"epochs": "3"},
        **{
            name: REQUEST[name]
            for name in ("AlgorithmSpecification", "RoleArn", "InputDataConfig", "OutputDataConfig", "ResourceConfig")
        },
        "StoppingCondition": {"MaxRuntimeInSeconds": 3600},
    },
}
PROCESSING: dict[str, Any] = {
    "ProcessingJobName": "prepare-1",
    "RoleArn": "arn:aws:iam::123456789012:role/training",
    "ProcessingResources": {
        "ClusterConfig": {"InstanceType": "ml.m5.xlarge", "InstanceCount": 1, "VolumeSizeInGB": 30}
    },
    "AppSpecification": {
        "ImageUri": "123456789012.dkr.ecr.us-east-1.amazonaws.com/trainkit:cpu",
        "ContainerEntrypoint": ["process", "/opt/ml/processing/input/code/prepare.py"],
    },
    "ProcessingInputs": [
        {
            "InputName": "code",
            "S3Input": {
                "S3Uri": "s3://my-data/code/", "LocalPath": "/opt/ml/processing/input/code", "S3DataType": "S3Prefix",
                "S3InputMode": "File",
            },
        }
    ],
    "ProcessingOutputConfig": {
        "Outputs": [
            {
                "OutputName": "train",
                "S3Output": {
                    "S3Uri": "s3://my-data/line/train/", "LocalPath": "/opt/ml/processing/output/train",
                    "S3UploadMode": "EndOfJob",
                },
            }
        ]
    },
}  # fmt: skip
REQUESTS = {"training": REQUEST, "tuning": TUNING, "processing": PROCESSING}
ELF = b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HH", 2, 62) + bytes(40)
TRAIN = b"#!/usr/bin/python3\nfrom trainkit.cli.entry import main\nmain()\n"


def request(kind: str, changes: dict[str, Any]) -> dict[str, Any]:
    """The request of that kind with `changes` made: a.b[0].c → a value, or GONE."""
    made = copy.deepcopy(REQUESTS[kind])
    for path, value in changes.items():
        *way, last = path.replace("[", ".").replace("]", "").split(".")
        place: Any = made
        for name in way:
            place = place[int(name)] if isinstance(place, list) else place[name]
        if value is GONE:
            del place[last]
        elif isinstance(place, list):
            place[int(last) :] = [value]
        else:
            place[last] = value
    return made


class _Gone:
    def __repr__(self) -> str:
        return "GONE"


GONE = _Gone()


def folder(root: Path, files: dict[str, Any]) -> Path:
    """A folder with these files: text or bytes; a mode with them in a tuple; None for one that is not there."""
    root.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        if content is None:
            continue
        body, mode = content if isinstance(content, tuple) else (content, 0o644)
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body.encode() if isinstance(body, str) else body)
        path.chmod(mode)
    return root


IMAGE = {
    "etc/os-release": "ID=debian\n",
    "usr/bin/python3": (ELF, 0o755),
    "usr/bin/bash": (ELF, 0o755),
    "usr/local/bin/train": (TRAIN, 0o755),
    "usr/lib/python3/dist-packages/readme.txt": "",
    "usr/local/lib/python3.11/site-packages/torch/__init__.py": "",
    "usr/local/lib/python3.11/site-packages/torch-2.9.0.dist-info/METADATA": "",
    "usr/local/lib/python3.11/site-packages/trainkit/__init__.py": "",
    "usr/local/lib/python3.11/site-packages/trainkit-0.1.dist-info/METADATA": "",
}


def tensors(*, claimed: int = 8, actual: int = 8) -> bytes:
    """A safetensors file whose header speaks of `claimed` bytes, and which has `actual`."""
    header = json.dumps({"weight": {"dtype": "F32", "shape": [claimed // 4], "data_offsets": [0, claimed]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(actual)


def manifest(**files: bytes) -> str:
    entries = {
        name.replace("__", "."): {"size": len(body), "sha256": hashlib.sha256(body).hexdigest()}
        for name, body in files.items()
    }
    return json.dumps({"version": 1, "files": entries})


MODEL = {
    "model.safetensors": tensors(),
    "trainkit.json": manifest(model__safetensors=tensors()),
    "code/inference.py": "def model_fn(model_dir):\n    return model_dir\n",
}


def archive(source: Path, target: Path, *, below: str = "") -> Path:
    with tarfile.open(target, "w:gz") as tar:
        for path in sorted(source.rglob("*")):
            if path.is_file():
                tar.add(path, arcname=f"{below}{path.relative_to(source).as_posix()}")
    return target
