"""What the variables of a script are made from, in either dialect."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from trainkit.contract.job import Job
from trainkit.contract.source import module_of

_INFO = 20  # logging.INFO, without the milliseconds of its import
_TURNS_DISTRIBUTION_ON = (
    "sagemaker_mpi_enabled", "sagemaker_parameter_server_enabled", "sagemaker_distributed_dataparallel_enabled",
    "sagemaker_pytorch_ddp_enabled", "sagemaker_pytorch_xla_multi_worker_enabled",
    "sagemaker_multi_worker_mirrored_strategy_enabled", "sagemaker_torch_distributed_enabled",
)  # fmt: skip


class Resources(NamedTuple):
    """The counts that scripts find in SM_NUM_*."""

    cpus: int
    gpus: int
    neurons: int = 0


@dataclass(frozen=True, slots=True)
class Facts:
    """A job, the machine it runs on, and where its ranks meet; with what both dialects derive from them."""

    job: Job
    resources: Resources
    master: str
    port: int

    @property
    def instance_type(self) -> str:
        return self.job.cluster.instance_type or "local"

    @property
    def interface(self) -> str:
        return self.job.cluster.interface or "eth0"

    @property
    def group(self) -> str:
        return self.job.cluster.current_group or "homogeneousCluster"

    @property
    def group_hosts(self) -> tuple[str, ...]:
        """In rank order; nobody where the file has no groups, as in local modes."""
        return next((group.hosts for group in self.job.cluster.groups if group.name == self.group), ())

    @property
    def groups(self) -> list[str]:
        return [group.name for group in self.job.cluster.groups]

    @property
    def groups_dict(self) -> dict[str, Any]:
        """The groups as the file has them, by name."""
        listed = self.resource_config.get("instance_groups") or []
        return {group["instance_group_name"]: group for group in listed}

    @property
    def distribution_groups(self) -> tuple[str, ...]:
        """The groups that train together: those asked for, else this one where any distribution was asked for."""
        if self.job.settings.groups:
            return self.job.settings.groups
        asked = self.job.hyperparameters.of_framework
        return (self.group,) if any(asked.get(name) for name in _TURNS_DISTRIBUTION_ON) else ()

    @property
    def resource_config(self) -> Mapping[str, Any]:
        return self.job.documents.get("resourceconfig.json", {})

    @property
    def input_data_config(self) -> Mapping[str, Any]:
        return self.job.documents.get("inputdataconfig.json", {})

    @property
    def channel_dirs(self) -> dict[str, str]:
        return {channel.name: str(channel.path) for channel in self.job.channels}

    @property
    def module_name(self) -> str:
        script = self.job.settings.script
        module = module_of(script)
        return script.strip().removesuffix(".py") if module is None else module

    @property
    def log_level(self) -> int:
        try:
            return int(self.job.hyperparameters.get("sagemaker_container_log_level", _INFO))
        except (ValueError, TypeError):
            return _INFO
