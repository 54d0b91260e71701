"""The SDK itself, version 3, as a client: what it sends, and what `train` makes of that.

It needs an environment with the whole SDK in .venvs/sdk-v3-client (a hundred distributions, a gigabyte).
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import peers
import pytest
import v3_upload
from harness import environment
from servers.s3 import S3Server

import trainkit
from trainkit.contract import job
from trainkit.contract.paths import Paths
from trainkit.sagemaker import bundle

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def sdk() -> Path:
    return peers.python("sdk-v3-client")


def send(sdk: Path, kind: str, out: Path, s3: S3Server) -> dict[str, Any]:
    ran = subprocess.run(
        [sdk, ROOT / "tests/interop/sdk_v3_client.py", kind, out],
        env=environment(
            PYTHONPATH=str(ROOT), AWS_ENDPOINT_URL=s3.endpoint, AWS_DEFAULT_REGION="us-east-1", HOME=str(out.parent),
            AWS_ACCESS_KEY_ID="test", AWS_SECRET_ACCESS_KEY="test",
        ) | {"SAGEMAKER_VALIDATE_ROLE": "false"},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-3000:]
    request: dict[str, Any] = json.loads((out / "request.json").read_text())
    return request


def files(folder: Path) -> dict[str, bytes]:
    found = [path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def test_model_trainer_uploads_our_driver_and_what_is_laid_by_hand_elsewhere_is_what_it_uploads(
    sdk: Path, s3: S3Server, tmp_path: Path
) -> None:
    request = send(sdk, "trainer", tmp_path / "out", s3)

    algorithm = request["AlgorithmSpecification"]
    assert (*algorithm["ContainerEntrypoint"], *algorithm["ContainerArguments"]) == v3_upload.COMMAND
    uploaded = files(tmp_path / "out/sm_drivers")
    settings = json.loads(uploaded.pop("distributed.json"))
    assert {name: value for name, value in settings.items() if value is not None} == {
        "trainkit": trainkit.__version__,
        "procs": 2,
        "max_restarts": 3,
    }
    driver = tmp_path / "driver"
    driver.mkdir()
    bundle.lay(driver)
    v3_upload.lay(tmp_path / "laid", distributed={}, script=bundle.DRIVER, driver_dir=driver)
    laid = files(tmp_path / "laid")
    del laid["distributed.json"], laid["sourcecode.json"]  # the folder's name is the client's
    assert {name for name in uploaded if uploaded[name] != laid.get(name)} <= {
        "sourcecode.json",
        "scripts/install_requirements.py",
    }
    assert set(laid) <= set(uploaded)


def test_a_tuning_job_has_what_train_needs_to_do_what_was_asked(sdk: Path, s3: S3Server, tmp_path: Path) -> None:
    request = send(sdk, "tuner", tmp_path / "out", s3)["TrainingJobDefinition"]

    assert "ContainerEntrypoint" not in request["AlgorithmSpecification"]
    root = tmp_path / "ml"
    config = root / "input/config"
    config.mkdir(parents=True)
    (root / "input/data").mkdir()
    (tmp_path / "out/sm_drivers").rename(root / "input/data/sm_drivers")
    inputs = {channel["ChannelName"]: {"TrainingInputMode": "File"} for channel in request["InputDataConfig"]}
    given = {**request["StaticHyperParameters"], "lr": "0.01", "_tuning_objective_metric": "val:loss"}
    (config / "inputdataconfig.json").write_text(json.dumps(inputs))
    (config / "hyperparameters.json").write_text(json.dumps(given))
    (config / "resourceconfig.json").write_text(json.dumps({"current_host": "algo-1", "hosts": ["algo-1"]}))

    read = job.read(Paths(root), environ={})

    assert (read.settings.script, read.settings.procs, read.dialect) == ("train.py", 2, "json")
    assert dict(read.hyperparameters.of_script) == {"epochs": 3, "name": "it's", "lr": 0.01}
