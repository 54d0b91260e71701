"""What is in the images once they are built, and what they cost."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from statistics import median

import pytest

from images.base import ROOT
from images.conftest import TORCH_THERE
from images.container import lay, mounts, running
from images.daemon import Docker

every_image = pytest.mark.parametrize("which", ["cpu", "gpu", "processing"])
VERSION = "from importlib.metadata import version; print(version('torch'))"
TIMES = 3


def inside(docker: Docker, image: str, *command: str) -> str:
    return docker.tell("run", "--rm", image, *command)


@every_image
def test_train_is_what_starts_and_nothing_stands_before_it(
    request: pytest.FixtureRequest, docker: Docker, which: str
) -> None:
    config = json.loads(docker.tell("inspect", "--format", "{{json .Config}}", request.getfixturevalue(which)))

    assert (config["Cmd"], config.get("Entrypoint") or [], config.get("User", "")) == (["train"], [], "")


@every_image
def test_what_is_installed_fits_together_and_no_cache_is_left(
    request: pytest.FixtureRequest, docker: Docker, which: str
) -> None:
    image = request.getfixturevalue(which)

    assert inside(docker, image, "pip", "check") == "No broken requirements found."
    assert inside(docker, image, "sh", "-c", "find /tmp ~/.cache -mindepth 1 2>/dev/null || true") == ""


def test_the_cpu_image_has_the_pinned_torch_without_cuda(docker: Docker, cpu: str) -> None:
    pin = re.search(r"^torch==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pin

    version, cuda = inside(docker, cpu, "python", "-c", f"{VERSION}; import torch; print(torch.version.cuda)").split()

    assert (version.partition("+")[0], cuda) == (pin[1], "None")


def test_the_gpu_image_keeps_the_torch_of_its_base(docker: Docker, gpu: str) -> None:
    assert inside(docker, gpu, "python", "-c", VERSION) == TORCH_THERE


def test_the_processing_image_makes_features_and_has_no_torch(docker: Docker, processing: str) -> None:
    found = "from importlib.util import find_spec as f; print([n for n in ('torch', 'duckdb', 'sqlglot') if f(n)])"

    assert inside(docker, processing, "python", "-c", found) == "['duckdb', 'sqlglot']"


def test_without_a_job_the_image_says_what_is_missing(docker: Docker, cpu: str) -> None:
    ran = docker.ask("run", "--rm", cpu)

    assert ran.returncode == 78
    assert "/opt/ml/input/config/resourceconfig.json does not exist" in ran.stdout + ran.stderr


def test_code_that_was_copied_into_the_image_is_found(tmp_path: Path, docker: Docker, cpu: str) -> None:
    (tmp_path / "context").mkdir()
    (tmp_path / "context/train.py").write_text("print('copied')\n")
    (tmp_path / "context/Dockerfile").write_text(f"FROM {cpu}\nCOPY train.py /opt/ml/code/\n")
    image = "trainkit-test:copied"
    docker.tell("build", "--tag", image, tmp_path / "context")
    root = lay(tmp_path / "ml", "")
    (root / "input/config/inputdataconfig.json").write_text("{}")

    with running(docker, image, root) as job:
        code = job.end()

    docker.tell("rmi", image)
    assert code == 0, job.log
    assert "[algo-1:0] copied" in job.log


def test_what_the_images_weigh_and_how_soon_the_script_runs(
    tmp_path: Path, docker: Docker, cpu_base: str, cpu: str, gpu: str, processing: str, figures: list[str]
) -> None:
    upon = {cpu: cpu_base, processing: cpu_base, gpu: "trainkit-test:with-torch"}
    sizes = {image: int(docker.tell("inspect", "--format", "{{.Size}}", image)) for image in {*upon, *upon.values()}}
    root = lay(tmp_path / "ml", "")

    def seconds(*arguments: str) -> float:
        began = time.monotonic()
        docker.tell("run", "--rm", *arguments)
        return time.monotonic() - began

    nothing = [seconds(cpu, "python", "-c", "pass") for _ in range(TIMES)]
    job = [seconds(*mounts(root), cpu, "train") for _ in range(TIMES)]
    for image, base in upon.items():
        figures.append(f"{image}: {(sizes[image] - sizes[base]) / 1e6:.0f} MB more than its base")
    figures.append(
        f"docker run, median of {TIMES}: {median(nothing):.2f} s for `python -c pass`, "
        f"{median(job):.2f} s for `train` with an empty script"
    )
    assert all(sizes[image] > sizes[base] for image, base in upon.items())
