"""The config files of one host, shaped to the byte like the service's: compact JSON, its keys, its order.

The group's hosts are listed last to first, since the service does not sort them either: a script that takes the first
one for rank 0 should fail here, not in the cloud.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from trainkit.local.request import Request, hosts
from trainkit.storage.commit import write_whole

_GROUP = "homogeneousCluster"


def write(request: Request, *, host: str, interface: str, config: Path) -> None:
    """Lay the files of `host` into `config`."""
    config.mkdir(parents=True, exist_ok=True)
    for name, document in documents(request, host=host, interface=interface).items():
        write_whole(config / name, json.dumps(document, separators=(",", ":")))


def documents(request: Request, *, host: str, interface: str) -> dict[str, dict[str, Any]]:
    """File name → content."""
    names = list(hosts(request))
    instance_type = request["ResourceConfig"]["InstanceType"]
    group = {"instance_group_name": _GROUP, "instance_type": instance_type, "hosts": names[::-1]}
    files: dict[str, dict[str, Any]] = {
        "resourceconfig.json": {
            "current_host": host,
            "current_instance_type": instance_type,
            "current_group_name": _GROUP,
            "hosts": sorted(names),
            "instance_groups": [group],
            "network_interface_name": interface,
            "topology": None,
        },
        "inputdataconfig.json": {
            channel["ChannelName"]: {
                "TrainingInputMode": channel.get("InputMode", "File"),
                "S3DistributionType": channel["DataSource"]["S3DataSource"]["S3DataDistributionType"],
                "RecordWrapperType": "None",
            }
            for channel in request.get("InputDataConfig", [])
        },
        "hyperparameters.json": dict(request.get("HyperParameters", {})),
    }
    if "CheckpointConfig" in request:
        files["checkpointconfig.json"] = {"LocalPath": request["CheckpointConfig"]["LocalPath"]}
    return files
