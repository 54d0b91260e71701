"""trainkit for clients of AWS's SDK, version 3: our launch in stock images that know nothing of trainkit.

    from trainkit.sagemaker import FIRST_PROCESS, Trainkit

    ModelTrainer(
        training_image=…,                                # any image with Python 3.11 and your script's torch
        source_code=SourceCode(source_dir="src", entry_script="train.py"),
        distributed=Trainkit(procs=8, max_restarts=3),   # any setting of docs/settings.md
        environment=FIRST_PROCESS,                       # recommended: see below
    )

With `source_code`, ModelTrainer has its own start script run in place of the image's `train`. `Trainkit` is what that
script then runs in place of torchrun: this very package, uploaded with the job. Bash stays the container's first
process, though, and a stop never reaches what it has started; an apostrophe in a hyperparameter ends the script before
us. With FIRST_PROCESS, `train` takes bash's place before any of that.

The SDK is imported when `Trainkit` is asked for, and is no dependency of trainkit.
"""

from __future__ import annotations

from typing import Any

FIRST_PROCESS = {"BASH_ENV": "/opt/ml/input/data/sm_drivers/distributed_drivers/trainkit.bash"}
"""For the job's environment: bash reads this file before the command that it was started with."""
__all__ = ["FIRST_PROCESS", "Trainkit"]


def __getattr__(name: str) -> Any:
    if name == "Trainkit":
        from trainkit.sagemaker.distributed import configuration

        return configuration()
    raise AttributeError(f"module 'trainkit.sagemaker' has no attribute {name!r}")
