"""The two dialects, byte for byte: beside the peers where they are installed, beside their answers of record always.

TRAINKIT_RECORD_PEERS=1 python -m pytest tests/interop/test_dialects.py     # writes the record anew
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import corpus
import peers
import pytest

from trainkit.contract import environ, job
from trainkit.contract.facts import Resources
from trainkit.contract.paths import Paths

GOLDEN = Path(__file__).parent / "golden"
RECORDED = 12
"""Cases of record; beside the peers themselves there are more."""
ROOT = Path("/opt/ml")
NOT_OURS = {
    "toolkit": {"SM_FRAMEWORK_MODULE"},  # a Python entry of theirs
    "json": {"SM_SOURCE_DIR", "SM_ENTRY_SCRIPT", "SM_DISTRIBUTED_DRIVER_DIR", "SM_DISTRIBUTED_CONFIG"},
}


def ours(case: dict[str, Any], folder: Path, dialect: str, root: Path = ROOT) -> tuple[list[str], dict[str, str]]:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in case.items():
        (folder / name).write_text(json.dumps(content))
    told = {"TRAINING_JOB_NAME": "job-7", "TRAINKIT_DIALECT": dialect}
    read = job.read(Paths(root), environ=told, config=folder)
    # As the peers have it with one world of all hosts; where ranks meet in a part of a cluster is an exception.
    variables, _ = environ.variables(read, resources=Resources(2, 0), master=master(case, dialect), port=7777)
    return list(environ.arguments(read)), variables


def master(case: dict[str, Any], dialect: str) -> str:
    """Theirs: the first host of the groups that distribute, or simply algo-1."""
    resources = case["resourceconfig.json"]
    groups = resources.get("instance_groups", [])
    if dialect == "toolkit" and "sagemaker_torch_distributed_enabled" in case["hyperparameters.json"] and groups:
        return str(next(g["hosts"][0] for g in groups if g["instance_group_name"] == resources["current_group_name"]))
    return "algo-1"


def comparable(case: dict[str, Any], dialect: str) -> dict[str, Any]:
    """The case without what one of the peers is not made for."""
    if dialect == "json":  # ModelTrainer sends its drivers none of the names that belong to the container
        given = {k: v for k, v in case["hyperparameters.json"].items() if not k.startswith(("sagemaker_", "_tuning"))}
        resources = {k: v for k, v in case["resourceconfig.json"].items() if "group" not in k}
        return {**case, "hyperparameters.json": given, "resourceconfig.json": resources}
    return case


def differences(
    theirs: dict[str, Any], case: dict[str, Any], folder: Path, dialect: str, root: Path = ROOT
) -> list[str]:
    argv, variables = ours(case, folder, dialect, root)
    here = {name: variables.get(name) for name in theirs["variables"]}
    if dialect == "toolkit" and len(case["resourceconfig.json"].get("instance_groups", [])) > 1:
        # Without distribution the groups of a cluster are one world to the toolkit, and each its own here.
        for big in (theirs["variables"], here):
            loaded = json.loads(big["SM_TRAINING_ENV"])
            loaded["is_master"] = loaded["master_hostname"] = None
            big["SM_TRAINING_ENV"] = json.dumps(loaded)
    found = [
        f"{name}: theirs {value!r}, ours {here[name]!r}"
        for name, value in theirs["variables"].items()
        if name not in NOT_OURS[dialect] and here[name] != value
    ]
    return found + ([f"argv: theirs {theirs['argv']}, ours {argv}"] if argv != theirs["argv"] else [])


@pytest.mark.parametrize("dialect", ["toolkit", "json"])
def test_beside_the_peers_answers_of_record_every_byte_is_the_same(dialect: str, tmp_path: Path) -> None:
    record = GOLDEN / f"{dialect}.json"
    jobs = [comparable(case, dialect) for case in corpus.cases(RECORDED)]
    if os.environ.get("TRAINKIT_RECORD_PEERS"):
        venv, package = ("toolkit", "sagemaker_training") if dialect == "toolkit" else ("sdk-v3", "sagemaker_train")
        answers = peers.toolkit(jobs, tmp_path / "ml") if dialect == "toolkit" else peers.drivers(jobs)
        text = json.dumps({"peer": f"{package} {peers.version(venv, package)}", "cases": jobs, "answers": answers})
        record.write_text(text.replace(str(tmp_path / "ml"), "/opt/ml") + "\n")
    recorded = json.loads(record.read_text())

    assert len(recorded["answers"]) == RECORDED
    for case, theirs in zip(recorded["cases"], recorded["answers"], strict=True):
        assert differences(theirs, case, tmp_path / "config", dialect) == []


@pytest.mark.parametrize("venv", ["toolkit", "pytorch-toolkit"])
def test_beside_the_toolkit_itself_every_byte_is_the_same(venv: str, tmp_path: Path) -> None:
    jobs = corpus.cases(150 if venv == "toolkit" else 40)
    root = tmp_path / "ml"

    for case, theirs in zip(jobs, peers.toolkit(jobs, root, venv=venv), strict=True):
        assert "error" not in theirs
        assert differences(theirs, case, tmp_path / "config", "toolkit", root) == []


def test_beside_the_v3_drivers_themselves_every_byte_is_the_same(tmp_path: Path) -> None:
    jobs = [comparable(case, "json") for case in corpus.cases(150)]

    for case, theirs in zip(jobs, peers.drivers(jobs), strict=True):
        assert "error" not in theirs
        assert differences(theirs, case, tmp_path / "config", "json") == []
