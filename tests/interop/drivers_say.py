"""Run by the Python of an environment that has sagemaker-train: what its drivers hand to a script, job by job.

Their own set_env and hyperparameters_to_cli_args are called. The values are caught before they go into a file for a
shell to source: an apostrophe in one of them is the end of that file.
"""

import json
import os
import pathlib
import sys

drivers = pathlib.Path(sys.argv[1])
os.environ["TRAINING_JOB_NAME"] = "job-7"
sys.path[:0] = [str(drivers / "scripts"), str(drivers)]
sys.stdout, real = sys.stderr, sys.stdout
import environment  # noqa: E402
from common import utils  # noqa: E402

caught = {}
environment.log_env_variables = lambda env_vars_dict: caught.update(env_vars_dict)
environment.num_gpus = lambda: 0
environment.num_cpus = lambda: 2
environment.num_neurons = lambda: 0

answers = []
for case in json.load(sys.stdin):
    caught.clear()
    try:
        environment.set_env(
            resource_config=case["resourceconfig.json"], input_data_config=case["inputdataconfig.json"],
            hyperparameters_config=case["hyperparameters.json"], output_file=os.devnull,
        )  # fmt: skip
        variables = {name: utils.safe_serialize(value) for name, value in caught.items()}
        argv = utils.hyperparameters_to_cli_args(json.loads(variables["SM_HPS"]))
        answers.append({"argv": argv, "variables": variables})
    except Exception as error:  # noqa: BLE001 (whatever it is, it is the peer's answer)
        answers.append({"error": f"{type(error).__name__}: {error}"[:200]})
json.dump(answers, real)
