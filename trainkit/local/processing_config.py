"""The two config files of one host of a processing job, with the service's keys, nulls and all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from trainkit.contract import processing
from trainkit.contract.cluster import FILE as RESOURCES
from trainkit.local import processing_request
from trainkit.local.processing_status import arn
from trainkit.local.request import Request
from trainkit.storage.commit import write_whole


def write(request: Request, *, host: str, interface: str, config: Path) -> None:
    """Lay the files of `host` into `config`."""
    config.mkdir(parents=True, exist_ok=True)
    for name, document in documents(request, host=host, interface=interface).items():
        write_whole(config / name, json.dumps(document, separators=(",", ":")))


def documents(request: Request, *, host: str, interface: str) -> dict[str, dict[str, Any]]:
    """File name → content."""
    app, outputs = request["AppSpecification"], request.get("ProcessingOutputConfig") or {}
    cluster = request["ProcessingResources"]["ClusterConfig"]
    return {
        RESOURCES: {
            "current_host": host,
            "hosts": sorted(processing_request.hosts(request)),
            "network_interface_name": interface,
        },
        processing.FILE: {
            "ProcessingJobArn": arn(request),
            "ProcessingJobName": request["ProcessingJobName"],
            "AppSpecification": {
                "ImageUri": app["ImageUri"],
                "ContainerEntrypoint": app.get("ContainerEntrypoint"),
                "ContainerArguments": app.get("ContainerArguments"),
            },
            "Environment": request.get("Environment") or {},
            "ProcessingInputs": request.get("ProcessingInputs") or [],
            "ProcessingOutputConfig": {"Outputs": outputs.get("Outputs") or [], "KmsKeyId": outputs.get("KmsKeyId")},
            "ProcessingResources": {"ClusterConfig": {"VolumeKmsKeyId": None, **cluster}},
            "RoleArn": request["RoleArn"],
            "StoppingCondition": {"MaxRuntimeInSeconds": int(processing_request.max_runtime(request))},
        },
    }
