"""The Dockerfiles say what the service needs, and copy what is there. What comes of them: tests/images."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sysconfig
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCKERFILES = sorted(ROOT.glob("images/*/Dockerfile"))
HADOLINT = Path(sysconfig.get_path("scripts")) / "hadolint"
every_image = pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.parent.name)


def instructions(dockerfile: Path) -> list[tuple[str, str]]:
    """(name, rest) of each, with continued lines joined and comments left out."""
    lines = [line for line in dockerfile.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n", " ", "\n".join(lines))
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in joined.splitlines() if line)]


def values(dockerfile: Path, wanted: str) -> list[str]:
    return [rest for name, rest in instructions(dockerfile) if name == wanted]


def test_there_is_an_image_for_machines_with_and_without_gpus() -> None:
    assert [path.parent.name for path in DOCKERFILES] == ["cpu", "gpu"]


@every_image
def test_an_image_is_short_and_the_linter_has_nothing_to_say(dockerfile: Path) -> None:
    ran = subprocess.run([HADOLINT, "--no-color", dockerfile], capture_output=True, text=True, timeout=60)

    assert (ran.returncode, ran.stdout + ran.stderr) == (0, "")
    assert len(dockerfile.read_text().splitlines()) < 40


@every_image
def test_train_is_the_first_process_and_root_runs_it(dockerfile: Path) -> None:
    assert [json.loads(command) for command in values(dockerfile, "CMD")] == [["train"]], "exec form is JSON"
    assert values(dockerfile, "ENTRYPOINT") in ([], ["[]"])
    assert values(dockerfile, "USER") == []


@every_image
def test_the_base_can_be_chosen_and_the_output_of_python_is_not_held_back(dockerfile: Path) -> None:
    (base,) = values(dockerfile, "FROM")
    assert base == "${BASE}"
    assert any(re.fullmatch(r"BASE=\S+:\S+", argument) for argument in values(dockerfile, "ARG"))
    assert "PYTHONUNBUFFERED=1" in " ".join(values(dockerfile, "ENV")).split()


@every_image
def test_what_an_image_copies_exists_and_reaches_the_build(dockerfile: Path) -> None:
    ignore = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    admitted = {line.removeprefix("!") for line in ignore if line.startswith("!")}
    assert "*" in ignore, "only what is named reaches the build"

    copied = [source for rest in values(dockerfile, "COPY") for source in shlex.split(rest)[:-1]]

    assert set(copied) == admitted
    assert [source for source in copied if not (ROOT / source).exists()] == []


@every_image
def test_what_the_package_is_built_from_is_copied(dockerfile: Path) -> None:
    copied = [source for rest in values(dockerfile, "COPY") for source in shlex.split(rest)[:-1]]

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert {"pyproject.toml", "constraints.txt", project["project"]["readme"], *packages} <= set(copied)


def test_the_gpu_image_never_asks_pip_for_a_torch() -> None:
    (run,) = values(ROOT / "images/gpu/Dockerfile", "RUN")
    words = shlex.split(run.split("pip install", 1)[1].split("&&", 1)[0])

    assert not [word for word in words if word.startswith("torch") and word != "torch.txt"]
    assert not [word for word in words if "[" in word], "the extras bring torch"
    assert "cmp torch.txt after.txt" in run
