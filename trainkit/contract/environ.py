"""What a script finds in its environment: the SM_* names of both of AWS's dialects, and argv.

The values are those of the SDK's V3 drivers (JSON, hyperparameters as text). Names that hold '-' or '.' are exported
twice: exactly (execve allows them, shells drop them) and under an alias that any language can spell.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from trainkit.contract.job import Job
from trainkit.contract.paths import BASE_DIR

CHANNEL_URL = "TRAINKIT_CHANNEL_"
RUN_DIR = "TRAINKIT_RUN_DIR"
"""Tells a rank where its error record goes and its stop board lies, and under torchrun where its output goes."""
CLUSTER_KEY = "TRAINKIT_CLUSTER_KEY"
"""What the hosts of a job know, and nobody else: the supervisors keep it to themselves."""
LONGEST = 131_072
"""Bytes of `NAME=value` with its final NUL: Linux starts no program with a longer one."""
_INFO = 20  # logging.INFO, without the milliseconds of its import


class Resources(NamedTuple):
    """The counts that scripts find in SM_NUM_*."""

    cpus: int
    gpus: int
    neurons: int = 0


def alias(name: str) -> str:
    """`train-data` → `TRAIN_DATA`."""
    return re.sub(r"[^A-Z0-9_]", "_", name.upper())


def arguments(job: Job) -> tuple[str, ...]:
    """The script's argv: `--name text` for each hyperparameter, in the file's order, as it was written."""
    return tuple(part for name, text in job.hyperparameters.for_script.texts.items() for part in (f"--{name}", text))


def variables(job: Job, *, resources: Resources, master: str, port: int) -> tuple[dict[str, str], list[str]]:
    """The SM_* variables, and a warning for each that two things claim or that is too long to be one."""
    cluster, paths = job.cluster, job.paths
    hps = job.hyperparameters.for_script
    source = str(job.source)
    groups = {group.name: group for group in cluster.groups}
    here = groups.get(cluster.current_group or "")
    plain = {
        "SM_MODEL_DIR": str(paths.model),
        "SM_INPUT_DIR": str(paths.input),
        "SM_INPUT_CONFIG_DIR": str(paths.config),
        "SM_INPUT_DATA_DIR": str(paths.channels),
        "SM_OUTPUT_DIR": str(paths.output),
        "SM_OUTPUT_DATA_DIR": str(paths.output_data),
        "SM_OUTPUT_INTERMEDIATE_DIR": str(paths.output / "intermediate"),
        "SM_OUTPUT_FAILURE": str(paths.failure),
        "SM_SOURCE_DIR": source,
        "SM_MODULE_DIR": source,
        "SM_ENTRY_SCRIPT": job.settings.script,
        "SM_USER_ENTRY_POINT": job.settings.script,
        "SM_MODULE_NAME": job.settings.script.removesuffix(".py"),
        "SM_LOG_LEVEL": str(_log_level(job)),
        "SM_CURRENT_HOST": cluster.current_host,
        "SM_CURRENT_INSTANCE_TYPE": cluster.instance_type or "local",
        "SM_CURRENT_INSTANCE_GROUP": cluster.current_group or "homogeneousCluster",
        "SM_NETWORK_INTERFACE_NAME": cluster.interface or "eth0",
        "SM_HOST_COUNT": str(len(job.hosts)),
        "SM_CURRENT_HOST_RANK": str(job.host_rank),
        "SM_MASTER_ADDR": master,
        "SM_MASTER_PORT": str(port),
        "SM_NUM_CPUS": str(resources.cpus),
        "SM_NUM_GPUS": str(resources.gpus),
        "SM_NUM_NEURONS": str(resources.neurons),
        "SM_IS_HETERO": json.dumps(len(groups) > 1),
        BASE_DIR: str(paths.root),
    }
    structured: dict[str, Any] = {
        "SM_HOSTS": cluster.hosts,
        "SM_CURRENT_INSTANCE_GROUP_HOSTS": here.hosts if here else cluster.hosts,
        "SM_INSTANCE_GROUPS": list(groups),
        "SM_INSTANCE_GROUPS_DICT": {
            g.name: {"instance_group_name": g.name, "instance_type": g.instance_type, "hosts": g.hosts}
            for g in cluster.groups
        },
        "SM_DISTRIBUTION_INSTANCE_GROUPS": job.settings.groups,
        "SM_CHANNELS": [channel.name for channel in job.channels],
        "SM_HPS": dict(hps),
        "SM_USER_ARGS": arguments(job),
        "SM_RESOURCE_CONFIG": job.documents.get("resourceconfig.json", {}),
        "SM_INPUT_DATA_CONFIG": job.documents.get("inputdataconfig.json", {}),
        "SM_FRAMEWORK_PARAMS": {k: v for k, v in hps.items() if k.startswith("sagemaker_")},
    }
    if cluster.topology is not None:
        structured["SM_TOPOLOGY"] = cluster.topology
    for name, value in structured.items():
        plain[name] = json.dumps(value)
    plain["SM_TRAINING_ENV"] = json.dumps(_training_env(job, resources=resources, master=master, port=port))
    channels = [("channel", "SM_CHANNEL_", channel.name, str(channel.path)) for channel in job.channels]
    texts = [("hyperparameter", "SM_HP_", name, text) for name, text in hps.texts.items()]
    by_name, warnings = named([*channels, *texts])
    exported, too_long = fitting({**plain, **by_name})
    return exported, warnings + too_long


def fitting(variables: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """What execve accepts. SM_HPS is the usual one that is not: it holds all the hyperparameters together."""
    sizes = {name: len(os.fsencode(name)) + len(os.fsencode(value)) + 2 for name, value in variables.items()}
    warnings = [
        f"{name} is left out: {size} bytes, and no variable can have more than {LONGEST}. Read it with trainkit.job()"
        for name, size in sizes.items()
        if size > LONGEST
    ]
    return {name: value for name, value in variables.items() if sizes[name] <= LONGEST}, warnings


def _log_level(job: Job) -> int:
    try:
        return int(job.hyperparameters.get("sagemaker_container_log_level", _INFO))
    except (ValueError, TypeError):
        return _INFO


def named(entries: Iterable[tuple[str, str, str, str]]) -> tuple[dict[str, str], list[str]]:
    """Variables for (kind, prefix, name, value): the exact names first, then the aliases that are still free."""
    entries = list(entries)
    exact: dict[str, tuple[str, str]] = {}
    warnings: list[str] = []
    for kind, prefix, name, value in entries:
        variable = prefix + name.upper()
        if variable in exact:
            first = exact[variable][0]
            warnings.append(f"{variable} stands for {kind} {first!r}, not for {name!r}, which differs in case only")
        elif "=" not in variable:  # no environment can hold such a name; argv and trainkit.job() do
            exact[variable] = (name, value)
    aliases: dict[str, tuple[str, str]] = {}
    for kind, prefix, name, value in entries:
        variable = prefix + alias(name)
        taken = exact.get(variable) or aliases.get(variable)
        if taken is None:
            aliases[variable] = (name, value)
        elif taken[0] != name and variable != prefix + name.upper():
            warnings.append(f"{variable} stands for {kind} {taken[0]!r}, so {name!r} has no alias: rename one of them")
    return {variable: value for variable, (_, value) in {**aliases, **exact}.items()}, warnings


def _training_env(job: Job, *, resources: Resources, master: str, port: int) -> Mapping[str, Any]:
    """SM_TRAINING_ENV: the peers' one big object, for scripts that read it instead of the single names."""
    paths = job.paths
    return {
        "job_name": job.name,
        "current_host": job.cluster.current_host,
        "hosts": job.cluster.hosts,
        "master_hostname": master,
        "master_addr": master,
        "master_port": port,
        "is_master": job.host_rank == 0,
        "network_interface_name": job.cluster.interface or "eth0",
        "current_instance_type": job.cluster.instance_type or "local",
        "hyperparameters": dict(job.hyperparameters.for_script),
        "channel_input_dirs": {channel.name: str(channel.path) for channel in job.channels},
        "input_data_config": job.documents.get("inputdataconfig.json", {}),
        "resource_config": job.documents.get("resourceconfig.json", {}),
        "model_dir": str(paths.model),
        "input_dir": str(paths.input),
        "input_config_dir": str(paths.config),
        "input_data_dir": str(paths.channels),
        "output_dir": str(paths.output),
        "output_data_dir": str(paths.output_data),
        "log_level": _log_level(job),
        "num_cpus": resources.cpus,
        "num_gpus": resources.gpus,
        "num_neurons": resources.neurons,
        "user_entry_point": job.settings.script,
        "module_name": job.settings.script.removesuffix(".py"),
    }
