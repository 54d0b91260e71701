"""The config files of one host, shaped to the byte like the service's: compact JSON, its keys, its order.

The group's hosts are listed last to first, since the service does not sort them either: a script that takes the first
one for rank 0 should fail here, not in the cloud.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainkit.contract.paths import Paths
from trainkit.contract.processing import placed
from trainkit.local import request as asked
from trainkit.local.request import Request
from trainkit.storage.commit import write_whole

_LOCAL_PATHS = {"DebugHookConfig": "/opt/ml/output/tensors", "TensorBoardOutputConfig": "/opt/ml/output/tensorboard"}


def write(request: Request, *, host: str, interface: str, config: Path, root: Path = Path("/opt/ml")) -> None:
    """Lay the files of `host` into `config`. `root` is what the host has in the place of /opt/ml."""
    config.mkdir(parents=True, exist_ok=True)
    for name, document in documents(request, host=host, interface=interface, root=root).items():
        write_whole(config / name, json.dumps(document, separators=(",", ":")))


def documents(
    request: Request, *, host: str, interface: str, root: Path = Path("/opt/ml")
) -> dict[str, dict[str, Any]]:
    """File name → content."""
    groups = asked.groups(request)
    mine = next(group for group in groups if host in group.hosts)
    files: dict[str, dict[str, Any]] = {
        "resourceconfig.json": {
            "current_host": host,
            "current_instance_type": mine.instance_type,
            "current_group_name": mine.name,
            "hosts": sorted(asked.hosts(request)),
            "instance_groups": [
                {"instance_group_name": one.name, "instance_type": one.instance_type, "hosts": list(one.hosts[::-1])}
                for one in groups
            ],
            "network_interface_name": interface,
            "topology": None,
        },
        "inputdataconfig.json": {
            channel["ChannelName"]: _channel(request, channel)
            for channel in request.get("InputDataConfig") or []
            if host in asked.channel_hosts(request, channel)
        },
        "hyperparameters.json": dict(request.get("HyperParameters") or {}),
    }
    if local := asked.checkpoints(request):
        usual = local == asked.CHECKPOINTS  # which `train` knows to be below its root
        files["checkpointconfig.json"] = {"LocalPath": local if usual else str(placed(local, Paths(root)))}
    for part, usual_place in _LOCAL_PATHS.items():
        if part in request:
            local = str(placed(request[part].get("LocalPath") or usual_place, Paths(root)))
            files[f"{part.lower()}.json"] = {"LocalPath": local} | (_hook(request[part]) if "Hook" in part else {})
    if not (request.get("ProfilerConfig") or {"DisableProfiler": True}).get("DisableProfiler"):
        files["profilerconfig.json"] = dict(request["ProfilerConfig"])
    return files


def _channel(request: Request, channel: Mapping[str, Any]) -> dict[str, Any]:
    """As the service tells of a channel: without its location."""
    source = channel["DataSource"]["S3DataSource"]
    told = {
        "TrainingInputMode": asked.mode(request, channel),
        "S3DistributionType": source.get("S3DataDistributionType") or "FullyReplicated",
        "RecordWrapperType": channel.get("RecordWrapperType") or "None",
    }
    told |= {"ContentType": channel["ContentType"]} if channel.get("ContentType") else {}
    packed = channel.get("CompressionType") not in (None, "None")
    return told | ({"CompressionType": channel["CompressionType"]} if packed else {})


def _hook(part: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "S3OutputPath": part["S3OutputPath"],
        "HookParameters": part.get("HookParameters") or {},
        "CollectionConfigurations": part.get("CollectionConfigurations") or [],
    }
