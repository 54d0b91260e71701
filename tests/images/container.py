"""A job's container, started as the service does: `docker run IMAGE train`, with the job's files under /opt/ml."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from images.daemon import DEADLINE, Docker

MOUNTED = ("input", "model", "output", "checkpoints")
FIRST_IMPORT = 300
"""Seconds for a job with torch on a busy machine that has never read these files before."""
LABEL = "trainkit-test"


@dataclass(frozen=True)
class Container:
    """One that runs, or has ended; its log is the output of `docker run`."""

    docker: Docker
    name: str
    root: Path
    process: subprocess.Popen[bytes]

    @property
    def log(self) -> str:
        return (self.root / "log").read_text(errors="replace")

    @property
    def failure(self) -> str | None:
        path = self.root / "output/failure"
        return path.read_text() if path.is_file() else None

    @property
    def state(self) -> dict[str, Any]:
        """Docker's own account: ExitCode, OOMKilled, …"""
        found: dict[str, Any] = json.loads(self.docker.tell("inspect", "--format", "{{json .State}}", self.name))
        return found

    def wait_for(self, text: str) -> None:
        deadline = time.monotonic() + FIRST_IMPORT
        while text not in self.log:
            assert self.process.poll() is None and time.monotonic() < deadline, f"no {text!r} in:\n{self.log}"
            time.sleep(0.02)

    def end(self) -> int:
        """The exit code of `docker run`, which is the container's."""
        return self.process.wait(FIRST_IMPORT)


def lay(
    root: Path, script: str, *, hosts: Sequence[str] = ("algo-1",), current: str = "algo-1", **hyperparameters: object
) -> Path:
    """What SageMaker lays under /opt/ml, with the code as a channel: the image has none."""
    for folder in ("input/config", "input/data/code", *MOUNTED[1:]):
        (root / folder).mkdir(parents=True)
    code = {"TrainingInputMode": "File", "S3DistributionType": "FullyReplicated", "RecordWrapperType": "None"}
    files = {
        "resourceconfig": {"current_host": current, "hosts": list(hosts), "network_interface_name": "eth0"},
        "inputdataconfig": {"code": code},
        "hyperparameters": {name: str(value) for name, value in hyperparameters.items()},
    }
    for name, content in files.items():
        (root / f"input/config/{name}.json").write_text(json.dumps(content))
    (root / "input/data/code/train.py").write_text(script)
    return root


def mounts(root: Path, folders: Sequence[str] = MOUNTED) -> list[str]:
    """The options that bring them into the container."""
    return [option for folder in folders for option in ("--volume", f"{root / folder}:/opt/ml/{folder}")]


@contextmanager
def running(
    docker: Docker,
    image: str,
    root: Path,
    *options: str,
    command: Sequence[str] = ("train",),
    folders: Sequence[str] = MOUNTED,
    environ: Mapping[str, str] | None = None,
) -> Iterator[Container]:
    """Started when this begins, and gone when it ends."""
    name = f"{LABEL}-{root.parent.name}-{root.name}".replace("_", "-")
    variables = {"TRAINING_JOB_NAME": "j", **(environ or {})}
    given = [option for key, value in variables.items() for option in ("--env", f"{key}={value}")]
    docker.ask("rm", "--force", "--volumes", name)  # of a run that was killed
    with (root / "log").open("wb") as log:
        process = subprocess.Popen(
            ["docker", "run", "--name", name, *mounts(root, folders), *given, *options, image, *command],
            env=docker.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        yield Container(docker, name, root, process)
    finally:
        docker.ask("rm", "--force", "--volumes", name)
        process.wait(DEADLINE)
