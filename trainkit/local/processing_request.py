"""A processing job, as the CreateProcessingJob request that AWS's own clients would send."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from trainkit.errors import ConfigError, Mistake, UsageError
from trainkit.local import model
from trainkit.local.request import Request, as_argv
from trainkit.local.sources import Source

PROCESSING = "/opt/ml/processing/"
CODE = f"{PROCESSING}input/code"


@dataclass(frozen=True, slots=True)
class Shorthand:
    """`trainkit local prep.py --processing …` as typed."""

    script: Path
    arguments: tuple[str, ...] = ()
    hosts: int = 1
    inputs: Mapping[str, str] = field(default_factory=dict)
    sharded: frozenset[str] = frozenset()
    outputs: Mapping[str, str] = field(default_factory=dict)
    """Name → where its files go; "" for a folder in the job's output directory."""
    continuous: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)
    max_runtime: int = 86400


def compose(shorthand: Shorthand, *, output: Path, now: datetime.datetime) -> dict[str, Any]:
    """The request for it. Raises UsageError for a name that cannot be one."""
    script = shorthand.script.resolve()
    stem = re.sub(r"[^a-zA-Z0-9]+", "-", script.stem).strip("-") or "job"
    names = [*shorthand.inputs, *shorthand.outputs]
    if bad := [name for name in names if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", name) or set(name) == {"."}]:
        raise UsageError(f"{bad[0]!r} is no name of an input or output: use letters, digits, '.', '-' and '_'")
    inputs = [
        _input(name, place, f"{PROCESSING}input/{name}", sharded=name in shorthand.sharded)
        for name, place in shorthand.inputs.items()
    ]
    request: dict[str, Any] = {
        "ProcessingJobName": f"{stem[:40]}-{now:%Y-%m-%d-%H-%M-%S}-{now.microsecond // 1000:03}",
        "ProcessingResources": {
            "ClusterConfig": {"InstanceType": "local", "InstanceCount": shorthand.hosts, "VolumeSizeInGB": 1}
        },
        "StoppingCondition": {"MaxRuntimeInSeconds": shorthand.max_runtime},
        "AppSpecification": {"ImageUri": "local", "ContainerEntrypoint": ["process", f"{CODE}/{script.name}"]},
        "RoleArn": "arn:aws:iam::000000000000:role/local",
        "Environment": dict(shorthand.environment),
        "ProcessingInputs": [*inputs, _input("code", str(script.parent), CODE, sharded=False)],
        "ProcessingOutputConfig": {
            "Outputs": [
                {
                    "OutputName": name,
                    "S3Output": {
                        "S3Uri": _url(place) if place else (output.absolute() / "outputs" / name).as_uri(),
                        "LocalPath": f"{PROCESSING}output/{name}",
                        "S3UploadMode": "Continuous" if shorthand.continuous else "EndOfJob",
                    },
                }
                for name, place in shorthand.outputs.items()
            ]
        },
    }
    if shorthand.arguments:
        request["AppSpecification"]["ContainerArguments"] = list(shorthand.arguments)
    return request


def checked(request: Any, *, file: str) -> Request:
    """The request itself. Raises ConfigError with every mistake in it."""
    if found := mistakes(request, file=file):
        raise ConfigError(found)
    return dict(request)


def mistakes(request: Any, *, file: str) -> list[Mistake]:
    """All that keeps it from running here, each with key, value and remedy. Rules come once the shape is right."""
    found = model.mistakes(request, shape="CreateProcessingJobRequest", file=file)
    return found or [Mistake(file, *one) for one in _rules(request)]


def hosts(request: Request) -> tuple[str, ...]:
    """algo-1 to algo-N, as the service names them."""
    cluster = request["ProcessingResources"]["ClusterConfig"]
    preferred = (cluster.get("InstancePreferences") or [{}])[0]  # the first type is the one that there is here
    count = cluster.get("InstanceCount") or preferred.get("InstanceCount") or 1
    return tuple(f"algo-{number}" for number in range(1, count + 1))


def inputs(request: Request, *, code: str | None = None) -> list[Source]:
    """Those that the service lays. `code`: the one that is a script's folder on this machine."""
    return [
        Source(
            what=f"input {one['InputName']}",
            name=one["InputName"],
            path=one["S3Input"]["LocalPath"],
            url=one["S3Input"]["S3Uri"],
            kind=one["S3Input"]["S3DataType"],
            mode=one["S3Input"].get("S3InputMode") or "File",
            sharded=one["S3Input"].get("S3DataDistributionType") == "ShardedByS3Key",
            gzip=one["S3Input"].get("S3CompressionType") == "Gzip",
            code=one["InputName"] == code,
        )
        for one in request.get("ProcessingInputs") or []
        if not one.get("AppManaged")
    ]


def outputs(request: Request) -> Sequence[Mapping[str, Any]]:
    """Those that the service copies."""
    listed = (request.get("ProcessingOutputConfig") or {}).get("Outputs") or []
    return [one for one in listed if not one.get("AppManaged")]


def max_runtime(request: Request) -> float:
    """Seconds; the service's default is a day."""
    return float((request.get("StoppingCondition") or {}).get("MaxRuntimeInSeconds", 86400))


def argv(request: Request, *, root: Path) -> tuple[str, ...]:
    """What a container runs, as Docker puts it together; our image's own entry point is `process`.

    Our own commands are started by this interpreter, and paths are below `root` where that is not /opt/ml.
    """
    app = request["AppSpecification"]
    words = [*(app.get("ContainerEntrypoint") or ["process"]), *(app.get("ContainerArguments") or [])]
    if root != Path("/opt/ml"):
        words = [str(root) + word.removeprefix("/opt/ml") if word.startswith("/opt/ml/") else word for word in words]
    if words[0] == "smspark-submit":
        words = ["process", *words]
    return as_argv(words)


def _input(name: str, place: str, local: str, *, sharded: bool) -> dict[str, Any]:
    if not place:
        raise UsageError(f"--input {name}=: names no path: write --input NAME=PATH")
    return {
        "InputName": name,
        "S3Input": {
            "S3Uri": _url(place), "LocalPath": local, "S3DataType": "S3Prefix", "S3InputMode": "File",
            "S3DataDistributionType": "ShardedByS3Key" if sharded else "FullyReplicated", "S3CompressionType": "None",
        },
    }  # fmt: skip


def _url(place: str) -> str:
    return place if len(urlsplit(place).scheme) > 1 else Path(place).expanduser().absolute().as_uri()


def _rules(request: Request) -> list[tuple[str, object, str, str]]:
    """What the service demands beyond the shape, and what cannot be had here."""
    found: list[tuple[str, object, str, str]] = []
    for index, one in enumerate(request.get("ProcessingInputs") or []):
        key = f"ProcessingInputs[{index}]"
        source = one.get("S3Input")
        if one.get("DatasetDefinition") is not None:
            kinds = [kind for kind in one["DatasetDefinition"] if kind.endswith("DatasetDefinition")]
            what = kinds[0].removesuffix("DatasetDefinition") if kinds else "Athena or Redshift"
            remedy = "Run the query yourself, and give its result as an S3Input"
            problem = f"input {one['InputName']} comes from {what}, which is not here"
            found.append((f"{key}.DatasetDefinition", None, problem, remedy))
        elif source is None and not one.get("AppManaged"):
            found.append((key, None, "has no S3Input", "Say where it comes from"))
        elif source is not None:
            found += _input_rules(source, f"{key}.S3Input", managed=bool(one.get("AppManaged")))
    for index, one in enumerate((request.get("ProcessingOutputConfig") or {}).get("Outputs") or []):
        key = f"ProcessingOutputConfig.Outputs[{index}]"
        if one.get("FeatureStoreOutput") is not None:
            problem = f"output {one['OutputName']} goes into the Feature Store, which is not here"
            found.append((f"{key}.FeatureStoreOutput", None, problem, "Leave it out, or give it an S3Output"))
        elif not one.get("AppManaged"):
            found += _path_rule(one.get("S3Output") or {}, f"{key}.S3Output")
    for part, name in (("ProcessingInputs", "InputName"), ("Outputs", "OutputName")):
        listed = request.get(part) or (request.get("ProcessingOutputConfig") or {}).get(part) or []
        names = [one[name] for one in listed]
        found += [(name, twice, "is the name of two of them", "Name each differently")
                  for twice in sorted({one for one in names if names.count(one) > 1})]  # fmt: skip
    return found


def _input_rules(source: Mapping[str, Any], key: str, *, managed: bool) -> list[tuple[str, object, str, str]]:
    found = [] if managed else _path_rule(source, key)
    if source.get("S3CompressionType") == "Gzip" and source.get("S3InputMode") != "Pipe":
        found.append((f"{key}.S3CompressionType", "Gzip", "goes with S3InputMode Pipe only", "Use Pipe, or None"))
    return found


def _path_rule(part: Mapping[str, Any], key: str) -> list[tuple[str, object, str, str]]:
    path = part.get("LocalPath") or ""
    if path.startswith(PROCESSING) and ".." not in Path(path).parts:
        return []
    return [(f"{key}.LocalPath", path or None, f"must begin with {PROCESSING}", "The service accepts no other")]
