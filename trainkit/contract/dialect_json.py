"""The dialect `json`: what the container drivers of the SDK's version 3 hand to a script (sagemaker-train 1.27.0).

They decode each hyperparameter and write it again with json.dumps, strings bare; argv goes through that twice. Here a
number keeps the spelling it came with: `12345e6` is a float to whoever wants a float, and may be a git revision.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from trainkit.contract.document import spell
from trainkit.contract.facts import Facts
from trainkit.contract.hyperparameters import portable, value_of


def arguments(texts: Mapping[str, str]) -> tuple[str, ...]:
    """argv: `--name value` for each, in the file's order."""
    return tuple(part for name, text in texts.items() for part in (f"--{name}", variable(variable(text))))


def variable(text: str) -> str:
    """The value of SM_HP_<NAME>."""
    value = value_of(text)
    written = value if isinstance(value, str) else spell(value)
    return written if portable(written) else text


def dumps(value: Any) -> str:
    return json.dumps(value)


def own_variables(facts: Facts) -> dict[str, Any]:
    """Those whose value is another in the other dialect."""
    return {
        "SM_CHANNELS": list(facts.channel_dirs),
        "SM_MODULE_DIR": str(facts.job.source),
        "SM_TRAINING_ENV": _training_env(facts),
    }


def _training_env(facts: Facts) -> dict[str, Any]:
    job, paths = facts.job, facts.job.paths
    return {
        "channel_input_dirs": facts.channel_dirs,
        "current_host": job.cluster.current_host,
        "current_instance_type": facts.instance_type,
        "hosts": job.cluster.hosts,
        "master_addr": facts.master,
        "master_port": facts.port,
        "hyperparameters": dict(job.hyperparameters.of_script),
        "input_data_config": facts.input_data_config,
        "input_config_dir": str(paths.config),
        "input_data_dir": str(paths.channels),
        "input_dir": str(paths.input),
        "job_name": job.name,
        "log_level": facts.log_level,
        "model_dir": str(paths.model),
        "network_interface_name": facts.interface,
        "num_cpus": facts.resources.cpus,
        "num_gpus": facts.resources.gpus,
        "num_neurons": facts.resources.neurons,
        "output_data_dir": str(paths.output_data),
        "resource_config": facts.resource_config,
    }
