"""Run by the Python of an environment that has sagemaker-training: what it hands to a script, job by job.

Its own Environment class reads the files. What it asks the machine and AWS is answered here: both sides hear the same.
"""

import json
import os
import pathlib
import sys
import types

root = pathlib.Path(os.environ["SAGEMAKER_BASE_DIR"])
(root / "input/config").mkdir(parents=True, exist_ok=True)
from sagemaker_training import environment, mapping  # noqa: E402

environment.num_gpus = lambda: 0
environment.num_cpus = lambda: 2
environment.num_neurons = lambda instance_type: 0
environment.validate_smddprun = environment.validate_smddpmprun = lambda: False
environment.boto3 = types.SimpleNamespace(
    session=types.SimpleNamespace(Session=lambda: types.SimpleNamespace(region_name=None))
)

answers = []
for case in json.load(sys.stdin):
    for name, content in case.items():
        (root / "input/config" / name).write_text(json.dumps(content))
    try:
        env = environment.Environment()
        argv = mapping.to_cmd_args(env.hyperparameters)
        written = {name: os.environ[name] for name in ("SAGEMAKER_JOB_NAME", "CURRENT_HOST", "SAGEMAKER_REGION")}
        answers.append({"argv": argv, "variables": {**env.to_env_vars(), **written}})
    except Exception as error:  # noqa: BLE001 (whatever it is, it is the peer's answer)
        answers.append({"error": f"{type(error).__name__}: {error}"[:200]})
json.dump(answers, sys.stdout)
