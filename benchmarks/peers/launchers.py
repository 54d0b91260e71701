"""How our peers start planted.py on each of two hosts with two ranks, as their own documentation has it.

torchrun     static rendezvous, no restarts
sdk-v3       the SDK's sm_train.sh and torchrun driver, on the channels of ModelTrainer(distributed=Torchrun())
toolkit      sagemaker-pytorch-training's `train` with sagemaker_torch_distributed_enabled
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from faults.cluster import Launcher
from startup import BIN, CHANNEL, VENVS, version

PLAIN_LOOP = {"loop": "range"}


def torchrun(*, patience: int | None = None) -> Launcher:
    """`patience`: seconds that hosts wait for each other at the start, in the place of its 600."""

    def argv(number: int, hyperparameters: Mapping[str, str]) -> list[str]:
        flags = [part for name, value in hyperparameters.items() for part in (f"--{name}", value)]
        wait = [f"--rdzv-conf=timeout={patience}"] if patience else []
        return [
            sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=2", f"--node-rank={number}",
            "--master-addr=algo-1", "--master-port=7777", "--max-restarts=0", *wait, "/opt/ml/code/planted.py", *flags,
        ]  # fmt: skip

    return Launcher("torchrun", argv, environ=_environ(BIN), hyperparameters=PLAIN_LOOP)


def toolkit() -> Launcher:
    """Its wait for DNS is switched off by its own setting, which favours it."""
    home = VENVS / "pytorch-toolkit/bin"
    alone = {"SM_STUDIO_LOCAL_MODE": "true", "AWS_REGION": "us-east-1", "AWS_DEFAULT_REGION": "us-east-1"}
    framework = {"SAGEMAKER_TRAINING_MODULE": "sagemaker_pytorch_container.training:main"}
    named = {
        "sagemaker_program": "planted.py", "sagemaker_submit_directory": "/opt/ml/code",
        "sagemaker_torch_distributed_enabled": "true", "sagemaker_mpi_num_of_processes_per_host": "2",
    }  # fmt: skip
    return Launcher(
        "toolkit", lambda number, hps: [str(home / "train")], environ={**_environ(home), **alone, **framework},
        hyperparameters={**PLAIN_LOOP, **named},
    )  # fmt: skip


def sdk() -> Launcher:
    drivers = "/opt/ml/input/data/sm_drivers/sm_train.sh"
    return Launcher(
        "sdk-v3", lambda number, hps: ["/bin/bash", "-c", f"chmod +x {drivers} && {drivers}"],
        environ=_environ(BIN), hyperparameters=PLAIN_LOOP, lay=_lay_sdk,
    )  # fmt: skip


def versions() -> dict[str, str]:
    """By launcher; "" for what is not installed."""
    return {
        "trainkit": version("trainkit"),
        "torchrun": version("torch"),
        "sdk-v3": version("sagemaker-train", VENVS / "sdk-v3"),
        "toolkit": version("sagemaker-pytorch-training", VENVS / "pytorch-toolkit"),
    }


def _environ(home: Path) -> dict[str, str]:
    return {"PATH": f"{home}:{BIN}:/usr/local/bin:/usr/bin:/bin", "PYTHONPATH": ""}


def _lay_sdk(root: Path) -> None:
    package = next((VENVS / "sdk-v3").glob("lib/python*/site-packages/sagemaker/train"))
    data = root / "input/data"
    shutil.copytree(root / "code", data / "code")
    shutil.copytree(package / "container_drivers", data / "sm_drivers")
    (data / "sm_drivers/sourcecode.json").write_text(json.dumps({"source_dir": "src", "entry_script": "planted.py"}))
    (data / "sm_drivers/distributed.json").write_text(json.dumps({"process_count_per_node": 2, "smp": None}))
    inputs = root / "input/config/inputdataconfig.json"
    inputs.write_text(json.dumps({**json.loads(inputs.read_text()), "code": CHANNEL, "sm_drivers": CHANNEL}))
    specification = importlib.util.spec_from_file_location("templates", package / "templates.py")
    assert specification and specification.loader
    templates = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(templates)
    script = templates.TRAIN_SCRIPT_TEMPLATE.format(
        working_dir="cd /opt/ml/input/data/code \n",
        install_requirements="",
        execute_driver=templates.EXEUCTE_DISTRIBUTED_DRIVER.format(
            driver_name="Torchrun", driver_script="torchrun_driver.py"
        ),
    )
    (data / "sm_drivers/sm_train.sh").write_text(script)
