"""CreateTrainingJob requests drawn at random, and what a script must then see, worked out by itself.

Which members there are is the API's model's to say: of each, a die decides whether the request has it. Those that mean
something here are drawn with the folder's data in mind; the others get whatever their shape allows.
"""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

from trainkit.local import members, model
from trainkit.local.members import Refused

_SAMPLES = {
    "RoleArn": "arn:aws:iam::123456789012:role/SageMakerRole", "SecurityGroupId": "sg-1", "SubnetId": "subnet-1",
    "KmsKeyId": "alias/key", "S3Uri": "s3://bucket/elsewhere", "ProcessingJobName": "p", "TrainingInstanceType": "ml.x",
    "ProcessingInstanceType": "ml.m5.large", "DirectoryPath": "/opt/ml/output/x", "AlgorithmImage": "image",
    "ConfigKey": "key", "ConfigValue": "value", "ExperimentEntityName": "entity", "TagKey": "k", "TagValue": "v",
    "MlFlowResourceArn": "arn:aws:sagemaker:us-east-1:123456789012:mlflow-tracking-server/m",
    "ModelPackageGroupArn": "arn:aws:sagemaker:us-east-1:123456789012:model-package-group/g",
    "ModelPackageArn": "arn:aws:sagemaker:us-east-1:123456789012:model-package/g/1",
    "TrainingPlanArn": "arn:aws:sagemaker:us-east-1:123456789012:training-plan/plan",
}  # fmt: skip
_TEXTS = ("", "1", "0.1", "true", "null", "it's", '"quoted"', "a b", "$(id)", "ünïcode", "[1, 2]", "--x", "12345e6")
OBJECTS = 6


class Drawn:
    """A request in `folder`, with the data it is about: `files` has each object of a channel's folder by its name."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.dice = random.Random(seed)
        self.folder = folder
        self.files: dict[str, dict[str, str]] = {}
        self.shapes = model.shapes()
        self.groups = self._groups()
        self.hosts = [f"algo-{n}" for n in range(1, 1 + sum(group["InstanceCount"] for group in self.groups))]
        self.request = self._request()

    def group_of(self, host: str) -> str:
        """The name of its instance group."""
        numbers = [group["InstanceGroupName"] for group in self.groups for _ in range(group["InstanceCount"])]
        return str(numbers[int(host.removeprefix("algo-")) - 1])

    def getters(self, channel: dict[str, Any]) -> list[str]:
        """The hosts that get it."""
        wanted = channel["DataSource"]["S3DataSource"].get("InstanceGroupNames")
        return [host for host in self.hosts if not wanted or self.group_of(host) in wanted]

    def mode(self, channel: dict[str, Any]) -> str:
        return str(channel.get("InputMode") or self.request["AlgorithmSpecification"]["TrainingInputMode"])

    def _maybe(self, share: float = 0.5) -> bool:
        return self.dice.random() < share

    def _groups(self) -> list[dict[str, Any]]:
        if self._maybe(0.7):
            count = self.dice.choice([1, 1, 2])
            return [{"InstanceGroupName": "homogeneousCluster", "InstanceType": "ml.m5.large", "InstanceCount": count}]
        return [
            {"InstanceGroupName": name, "InstanceType": f"ml.{name}", "InstanceCount": self.dice.choice([1, 1, 2])}
            for name in ("alpha", "beta")
        ]

    def _request(self) -> dict[str, Any]:
        shape = self.shapes["CreateTrainingJobRequest"]
        made = {}
        for name, member in shape["members"].items():
            fate = members.TRAINING.get(name)
            if isinstance(fate, Refused) or name == "EnableNetworkIsolation":
                continue
            needed = name in (*shape["required"], "AlgorithmSpecification", "ResourceConfig")
            if needed or self._maybe():
                meant = getattr(self, f"_{name}", None)
                made[name] = meant() if meant else self._any(member["shape"])
        if made.get("EnableManagedSpotTraining"):
            made["StoppingCondition"] = {"MaxRuntimeInSeconds": 500, "MaxWaitTimeInSeconds": 600}
        return made

    def _TrainingJobName(self) -> str:
        return "-".join(self.dice.choices("abcDEF0189", k=self.dice.randint(1, 30)))

    def _HyperParameters(self) -> dict[str, str]:
        names = ["lr", "batch-size", "q", "model.lr", "Name_1"]
        return {name: self.dice.choice(_TEXTS) for name in names if self._maybe()}

    def _Environment(self) -> dict[str, str]:
        return {"COLOUR": self.dice.choice(_TEXTS), "PADDED": " x "}

    def _AlgorithmSpecification(self) -> dict[str, Any]:
        made: dict[str, Any] = {"TrainingImage": "image", "TrainingInputMode": self.dice.choice(["File", "FastFile"])}
        if self._maybe():
            made["MetricDefinitions"] = [
                {"Name": "train:loss", "Regex": "loss=([0-9.]+)"}, {"Name": "never", "Regex": "nothing=(.*)"},
            ]  # fmt: skip
        if self._maybe(0.2):
            made["ContainerArguments"] = ["train"]
        return made

    def _ResourceConfig(self) -> dict[str, Any]:
        made: dict[str, Any] = {"VolumeSizeInGB": 1}
        if len(self.groups) > 1:
            return made | {"InstanceGroups": self.groups}
        return made | {name: self.groups[0][name] for name in ("InstanceType", "InstanceCount")}

    def _StoppingCondition(self) -> dict[str, int]:
        return {"MaxRuntimeInSeconds": self.dice.randint(300, 86400)}

    def _OutputDataConfig(self) -> dict[str, str]:
        made = {"S3OutputPath": self.dice.choice(["s3://bucket/out", "out there", (self.folder / "results").as_uri()])}
        if self._maybe():
            made["CompressionType"] = self.dice.choice(["GZIP", "NONE"])
        return made

    def _CheckpointConfig(self) -> dict[str, str]:
        made = {"S3Uri": "checkpoints kept"}
        if self._maybe():
            made["LocalPath"] = self.dice.choice(["/opt/ml/checkpoints", "/opt/ml/output/kept here"])
        return made

    def _TensorBoardOutputConfig(self) -> dict[str, str]:
        return {"S3OutputPath": "board"} | ({"LocalPath": "/opt/ml/output/tensorboard"} if self._maybe() else {})

    def _DebugHookConfig(self) -> dict[str, Any]:
        return {"S3OutputPath": "s3://bucket/debug", "CollectionConfigurations": []}

    def _InputDataConfig(self) -> list[dict[str, Any]]:
        return [self._channel(f"ch-{number}") for number in range(1, 1 + self.dice.randint(1, 4))]

    def _channel(self, name: str) -> dict[str, Any]:
        self.files[name] = {
            f"{'deep/' if number % 3 == 0 else ''}{number}.txt": f"{name} {number}\n" for number in range(OBJECTS)
        }
        kind = self.dice.choice(["S3Prefix", "S3Prefix", "ManifestFile", "AugmentedManifestFile"])
        modes = {"S3Prefix": [None, "File", "FastFile", "Pipe"], "ManifestFile": ["File", "Pipe"]}.get(kind, ["Pipe"])
        mode = self.dice.choice(modes)
        made: dict[str, Any] = {"ChannelName": name, **({"InputMode": mode} if mode else {})}
        packed = mode == "Pipe" and self._maybe()
        source: dict[str, Any] = {"S3DataType": kind, "S3Uri": self._data(name, kind, packed=packed)}
        if packed:
            made["CompressionType"] = "Gzip"
        if mode == "Pipe" and self._maybe():
            made["ShuffleConfig"] = {"Seed": self.dice.randint(-5, 1 << 40)}
        if self._maybe():
            source["S3DataDistributionType"] = self.dice.choice(["FullyReplicated", "ShardedByS3Key"])
        if kind == "AugmentedManifestFile":
            source["AttributeNames"] = ["text-ref", "number"]
        if len(self.groups) > 1 and self._maybe():
            source["InstanceGroupNames"] = ["beta"]
        if self._maybe():
            made["ContentType"] = "text/plain"
        return made | {"DataSource": {"S3DataSource": source}}

    def _data(self, name: str, kind: str, *, packed: bool) -> str:
        """Write it; returns the S3Uri."""
        place = self.folder / "data" / name
        for inner, text in self.files[name].items():
            (place / inner).parent.mkdir(parents=True, exist_ok=True)
            (place / inner).write_bytes(gzip.compress(text.encode()) if packed else text.encode())
        if kind == "S3Prefix":
            return str(self.dice.choice([f"data/{name}", place.as_uri(), f"{place}/"]))
        file = self.folder / f"{name}.manifest"
        if kind == "ManifestFile":
            file.write_text(json.dumps([{"prefix": f"{place}/"}, *self.files[name]]))
        else:
            rows = [{"text-ref": f"data/{name}/{inner}", "number": n} for n, inner in enumerate(self.files[name])]
            file.write_text("\n".join(map(json.dumps, rows)))
        return file.name

    def _any(self, name: str) -> Any:
        """Whatever the shape allows."""
        shape = self.shapes[name]
        kind = shape["type"]
        if kind == "structure":
            wanted = [m for m in shape["members"] if m in shape.get("required", []) or self._maybe()]
            return {member: self._any(shape["members"][member]["shape"]) for member in wanted}
        if kind == "list":
            length = self.dice.randint(shape.get("min", 0), max(shape.get("min", 0), 2))
            return [self._any(shape["member"]["shape"]) for _ in range(length)]
        if kind == "map":
            return {self._any(shape["key"]["shape"]): self._any(shape["value"]["shape"])} if self._maybe() else {}
        if kind == "boolean":
            return self._maybe()
        if kind in ("integer", "long"):
            return self.dice.randint(shape.get("min", 0), min(shape.get("max", 30), shape.get("min", 0) + 30))
        return _SAMPLES.get(name) or (self.dice.choice(shape["enum"]) if "enum" in shape else "text")
