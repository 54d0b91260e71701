"""The dialect `toolkit`: what sagemaker-training-toolkit hands to a script (sagemaker-training 5.1.4).

It decodes each hyperparameter. In argv the value is what Python's str() makes of it, sorted by name, an object as
`key=value,key=value`; in the environment it is compact JSON with sorted keys, strings bare. As in the other dialect, a
number keeps the spelling it came with.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from trainkit.contract.document import Number
from trainkit.contract.facts import Facts
from trainkit.contract.hyperparameters import portable, value_of


def arguments(texts: Mapping[str, str]) -> tuple[str, ...]:
    """argv: `--name value` for each, or `-n value`, sorted by name."""
    pairs = [("--" if len(name) > 1 else "-", name, _argument(texts[name])) for name in sorted(texts)]
    return tuple(part for dashes, name, value in pairs for part in (dashes + name, value))


def variable(text: str) -> str:
    """The value of SM_HP_<NAME>."""
    value = value_of(text)
    if value is None:
        return ""
    written = value if isinstance(value, str) else _compact(value)
    return written if portable(written) else text


def dumps(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def own_variables(facts: Facts) -> dict[str, Any]:
    """Those whose value is another in the other dialect, and those that only this one has."""
    given = facts.job.hyperparameters
    region = given.get("sagemaker_region")
    return {
        "SM_CHANNELS": sorted(facts.channel_dirs),
        "SM_MODULE_DIR": _module_dir(facts),
        "SM_TRAINING_ENV": _training_env(facts),
        "CURRENT_HOST": facts.job.cluster.current_host,
        "SAGEMAKER_JOB_NAME": str(given.get("sagemaker_job_name", "")),
        **({"SAGEMAKER_REGION": region} if isinstance(region, str) else {}),
    }


def _module_dir(facts: Facts) -> str:
    return str(facts.job.hyperparameters.get("sagemaker_submit_directory", facts.job.source))


def _training_env(facts: Facts) -> dict[str, Any]:
    job, paths, cluster = facts.job, facts.job.paths, facts.job.cluster
    together = [group for group in cluster.groups if group.name in facts.distribution_groups]
    return {
        "additional_framework_parameters": job.hyperparameters.of_framework,
        "channel_input_dirs": facts.channel_dirs,
        "current_host": cluster.current_host,
        "current_instance_group": facts.group,
        "current_instance_group_hosts": facts.group_hosts,
        "current_instance_type": facts.instance_type,
        "distribution_hosts": [host for group in together for host in group.hosts] if cluster.groups else cluster.hosts,
        "distribution_instance_groups": facts.distribution_groups,
        "framework_module": None,
        "hosts": cluster.hosts,
        "hyperparameters": dict(job.hyperparameters.of_script),
        "input_config_dir": str(paths.config),
        "input_data_config": facts.input_data_config,
        "input_dir": str(paths.input),
        "instance_groups": facts.groups,
        "instance_groups_dict": facts.groups_dict,
        "is_hetero": len(facts.groups) > 1,
        "is_master": job.host_rank == 0,
        "is_modelparallel_enabled": None,
        "is_smddpmprun_installed": False,
        "is_smddprun_installed": False,
        "job_name": job.name,
        "log_level": facts.log_level,
        "master_hostname": facts.master,
        "model_dir": str(paths.model),
        "module_dir": _module_dir(facts),
        "module_name": facts.module_name,
        "network_interface_name": facts.interface,
        "num_cpus": facts.resources.cpus,
        "num_gpus": facts.resources.gpus,
        "num_neurons": facts.resources.neurons,
        "output_data_dir": str(paths.output_data),
        "output_dir": str(paths.output),
        "output_intermediate_dir": str(paths.output / "intermediate"),
        "resource_config": facts.resource_config,
        "topology": facts.resource_config.get("topology", []),
        "user_entry_point": job.settings.script,
    }


def _argument(text: str) -> str:
    value = value_of(text)
    if value is None:
        return ""
    members = [f"{key}={_str(value[key])}" for key in sorted(value)] if isinstance(value, dict) else [_str(value)]
    written = ",".join(members)
    return written if portable(written) else text


def _str(node: Any) -> str:
    """Python's str() of a decoded value, its numbers spelled as they were."""
    return node if isinstance(node, str) else _repr(node)


def _repr(node: Any) -> str:
    if isinstance(node, Number):
        return node.text
    if isinstance(node, dict):
        return "{" + ", ".join(f"{key!r}: {_repr(value)}" for key, value in node.items()) + "}"
    if isinstance(node, list):
        return "[" + ", ".join(map(_repr, node)) + "]"
    return repr(node)


def _compact(node: Any) -> str:
    if isinstance(node, Number):
        return node.text
    if isinstance(node, dict):
        return "{" + ",".join(f"{json.dumps(key)}:{_compact(node[key])}" for key in sorted(node)) + "}"
    if isinstance(node, list):
        return "[" + ",".join(map(_compact, node)) + "]"
    return json.dumps(node)
