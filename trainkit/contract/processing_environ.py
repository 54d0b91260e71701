"""What a processing script finds in its environment: the names that training scripts know, and inputs and outputs.

The service itself gives processing jobs the Environment of the request and nothing else. Scripts that are shared with
training jobs look for SM_HOSTS and SM_CHANNEL_<NAME> all the same.
"""

from __future__ import annotations

import json

from trainkit.contract.cluster import FILE as RESOURCES
from trainkit.contract.facts import Resources
from trainkit.contract.names import fitting, named
from trainkit.contract.paths import BASE_DIR
from trainkit.contract.processing import FILE, ProcessingJob


def variables(job: ProcessingJob, *, resources: Resources, master: str, port: int) -> tuple[dict[str, str], list[str]]:
    """The variables, and a warning for each that two things claim or that is too long to be one."""
    cluster = job.cluster
    plain = {
        "SM_PROCESSING_JOB_NAME": job.name,
        "SM_CURRENT_HOST": job.host,
        "SM_HOSTS": json.dumps(job.hosts),
        "SM_HOST_COUNT": str(len(job.hosts)),
        "SM_CURRENT_HOST_RANK": str(job.host_rank),
        "SM_MASTER_ADDR": master,
        "SM_MASTER_PORT": str(port),
        "SM_CURRENT_INSTANCE_TYPE": cluster.instance_type or "local",
        "SM_NETWORK_INTERFACE_NAME": cluster.interface or "eth0",
        "SM_NUM_CPUS": str(resources.cpus),
        "SM_NUM_GPUS": str(resources.gpus),
        "SM_NUM_NEURONS": str(resources.neurons),
        "SM_OUTPUT_DIR": str(job.paths.output),
        "SM_OUTPUT_MESSAGE": str(job.paths.message),
        "SM_CHANNELS": json.dumps(list(job.inputs)),
        "SM_PROCESSING_OUTPUTS": json.dumps(list(job.outputs)),
        "SM_RESOURCE_CONFIG": json.dumps(job.documents.get(RESOURCES, {})),
        "SM_PROCESSING_JOB_CONFIG": json.dumps(job.documents.get(FILE, {})),
    }
    if job.laid:
        plain[BASE_DIR] = str(job.paths.root)
    entries = [("input", "SM_CHANNEL_", one.name, str(one.path)) for one in job.inputs.values() if one.path]
    outputs = [one for one in job.outputs.values() if one.path]
    entries += [("output", "SM_PROCESSING_OUTPUT_", one.name, str(one.path)) for one in outputs]
    by_name, warnings = named(entries)
    exported, too_long = fitting({**plain, **by_name})
    return exported, warnings + [text.replace("trainkit.job()", "trainkit.processing.job()") for text in too_long]
