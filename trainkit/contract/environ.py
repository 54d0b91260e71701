"""What a script finds when it starts: argv, and the SM_* variables, in the job's dialect.

Both peers' names are there in either dialect; a name that only one peer has gets that peer's value, spelled as the
job's dialect spells values. Names that hold '-' or '.' are exported twice (contract.names).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from trainkit.contract.dialect import TOOLKIT
from trainkit.contract.facts import Facts, Resources
from trainkit.contract.job import Job
from trainkit.contract.names import fitting, named
from trainkit.contract.paths import BASE_DIR

CHANNEL_URL = "TRAINKIT_CHANNEL_"
RUN_DIR = "TRAINKIT_RUN_DIR"
"""Tells a rank where its error record goes and its stop board lies, and under torchrun where its output goes."""
CLUSTER_KEY = "TRAINKIT_CLUSTER_KEY"
"""What the hosts of a job know, and nobody else: the supervisors keep it to themselves."""


class Dialect(Protocol):
    """What a module must have to be one: dialect_toolkit, dialect_json."""

    def arguments(self, texts: Mapping[str, str]) -> tuple[str, ...]: ...
    def variable(self, text: str) -> str: ...
    def dumps(self, value: Any) -> str: ...
    def own_variables(self, facts: Facts) -> dict[str, Any]: ...


def arguments(job: Job) -> tuple[str, ...]:
    """The script's argv, from its hyperparameters."""
    return _dialect(job).arguments(job.hyperparameters.of_script.texts)


def variables(job: Job, *, resources: Resources, master: str, port: int) -> tuple[dict[str, str], list[str]]:
    """The variables, and a warning for each that two things claim or that is too long to be one."""
    facts, dialect = Facts(job, resources, master, port), _dialect(job)
    values = {**_everyones(facts), **dialect.own_variables(facts)}
    plain = {name: value if isinstance(value, str) else dialect.dumps(value) for name, value in values.items()}
    channels = [("channel", "SM_CHANNEL_", name, path) for name, path in facts.channel_dirs.items()]
    texts = [
        ("hyperparameter", "SM_HP_", name, dialect.variable(text))
        for name, text in job.hyperparameters.of_script.texts.items()
    ]
    by_name, warnings = named([*channels, *texts])
    exported, too_long = fitting({**plain, **by_name})
    return exported, warnings + too_long


def _dialect(job: Job) -> Dialect:
    if job.dialect == TOOLKIT:  # each is imported only where it is spoken
        from trainkit.contract import dialect_toolkit

        return dialect_toolkit
    from trainkit.contract import dialect_json

    return dialect_json


def _everyones(facts: Facts) -> dict[str, Any]:
    """The variables that have the same value in both dialects; what is no string yet, the dialect spells."""
    job, cluster, paths = facts.job, facts.job.cluster, facts.job.paths
    source, script = str(job.source), job.settings.script
    return {
        "SM_MODEL_DIR": str(paths.model),
        "SM_INPUT_DIR": str(paths.input),
        "SM_INPUT_CONFIG_DIR": str(paths.config),
        "SM_INPUT_DATA_DIR": str(paths.channels),
        "SM_OUTPUT_DIR": str(paths.output),
        "SM_OUTPUT_DATA_DIR": str(paths.output_data),
        "SM_OUTPUT_INTERMEDIATE_DIR": str(paths.output / "intermediate"),
        "SM_OUTPUT_FAILURE": str(paths.failure),
        "SM_SOURCE_DIR": source,
        "SM_ENTRY_SCRIPT": script,
        "SM_USER_ENTRY_POINT": script,
        "SM_MODULE_NAME": facts.module_name,
        "SM_LOG_LEVEL": facts.log_level,
        "SM_HOSTS": cluster.hosts,
        "SM_CURRENT_HOST": cluster.current_host,
        "SM_CURRENT_INSTANCE_TYPE": facts.instance_type,
        "SM_CURRENT_INSTANCE_GROUP": facts.group,
        "SM_CURRENT_INSTANCE_GROUP_HOSTS": facts.group_hosts,
        "SM_INSTANCE_GROUPS": facts.groups,
        "SM_INSTANCE_GROUPS_DICT": facts.groups_dict,
        "SM_DISTRIBUTION_INSTANCE_GROUPS": facts.distribution_groups,
        "SM_IS_HETERO": len(facts.groups) > 1,
        "SM_NETWORK_INTERFACE_NAME": facts.interface,
        "SM_HOST_COUNT": len(job.hosts),
        "SM_CURRENT_HOST_RANK": job.host_rank,
        "SM_MASTER_ADDR": facts.master,
        "SM_MASTER_PORT": facts.port,
        "SM_NUM_CPUS": facts.resources.cpus,
        "SM_NUM_GPUS": facts.resources.gpus,
        "SM_NUM_NEURONS": facts.resources.neurons,
        "SM_HPS": dict(job.hyperparameters.of_script),
        "SM_USER_ARGS": arguments(job),
        "SM_FRAMEWORK_PARAMS": job.hyperparameters.of_framework,
        "SM_RESOURCE_CONFIG": facts.resource_config,
        "SM_INPUT_DATA_CONFIG": facts.input_data_config,
        BASE_DIR: str(paths.root),
        **({"SM_TOPOLOGY": cluster.topology} if cluster.topology else {}),
    }
