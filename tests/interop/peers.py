"""The peers, where `make bench-peers` has installed them: asked what they would hand to a script."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
VENVS = Path(os.environ.get("TRAINKIT_TEST_VENVS") or HERE.parents[1] / ".venvs")


def toolkit(cases: list[dict[str, Any]], root: Path, *, venv: str = "toolkit") -> list[dict[str, Any]]:
    """sagemaker-training's answer for each case, under `root`."""
    environ = {"SAGEMAKER_BASE_DIR": str(root), "TRAINING_JOB_NAME": "job-7"}
    return _ask(python(venv), HERE / "toolkit_says.py", cases=cases, environ=environ)


def drivers(cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The V3 drivers' answer for each case."""
    return _ask(python("sdk-v3"), HERE / "drivers_say.py", str(container_drivers()), cases=cases, environ={})


def container_drivers() -> Path:
    """The folder of sagemaker-train that ModelTrainer uploads."""
    return next(python("sdk-v3").parents[1].glob("lib/python3*/site-packages/sagemaker/train/container_drivers"))


def version(venv: str, package: str) -> str:
    """Of `package`, as installed in `venv`."""
    info = next(python(venv).parents[1].glob(f"lib/python3*/site-packages/{package}-*.dist-info"))
    return info.name.removeprefix(f"{package}-").removesuffix(".dist-info")


def python(venv: str) -> Path:
    """The interpreter of that environment; skips where it is not there."""
    found = VENVS / venv / "bin/python"
    if not found.exists():
        pytest.skip(f"{VENVS / venv} is not there: make bench-peers installs the peers")
    return found


def _ask(
    python: Path, script: Path, *arguments: str, cases: list[dict[str, Any]], environ: dict[str, str]
) -> list[dict[str, Any]]:
    mine = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "TMPDIR")}
    ran = subprocess.run(
        [python, script, *arguments], input=json.dumps(cases), env=mine | {"PYTHONUTF8": "1"} | environ,
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-2000:]
    answers: list[dict[str, Any]] = json.loads(ran.stdout)
    return answers
