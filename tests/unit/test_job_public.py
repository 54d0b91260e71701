"""The package's front door."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import trainkit

HEAVY = ["torch", "numpy", "pyarrow", "boto3", "botocore", "fsspec", "safetensors", "accelerate"]


def loaded_after(statement: str) -> set[str]:
    script = f"import json, sys\n{statement}\nprint(json.dumps(sorted(sys.modules)))"
    return set(json.loads(subprocess.check_output([sys.executable, "-c", script], timeout=60)))


def test_every_public_name_is_there():
    assert all(getattr(trainkit, name) is not None for name in trainkit.__all__)
    assert set(trainkit.__all__) <= set(dir(trainkit))
    assert not hasattr(trainkit, "jobs")


def test_importing_it_costs_nothing():
    loaded = loaded_after("import trainkit")
    assert not loaded.intersection(HEAVY)
    assert [name for name in loaded if name.startswith("trainkit")] == ["trainkit"]


def test_a_job_without_torch_imports_none_of_it():
    assert not loaded_after("import trainkit; trainkit.job().hp('lr', 1.0)").intersection(HEAVY)


def test_job_can_be_called_however_it_was_imported():
    script = (
        "import trainkit\nfirst = trainkit.job()\nimport trainkit.job.metrics\n"
        "from trainkit import job\n"
        "assert job() is first and trainkit.job() is first and trainkit.job.metrics.definition('loss')\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_the_version_is_that_of_the_distribution():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert project.get("version", trainkit.__version__) == trainkit.__version__
