"""Which entry a job means, and what is to be done with its code first."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from trainkit.contract.channels import Channel
from trainkit.contract.cluster import Cluster
from trainkit.contract.hyperparameters import Hyperparameters
from trainkit.contract.job import Job
from trainkit.contract.paths import Paths
from trainkit.contract.settings import Settings
from trainkit.errors import ScriptMissing
from trainkit.plan import code, launch, script
from trainkit.plan.code import Prepared
from trainkit.plan.machine import Machine

EIGHT_GPUS = Machine(cpus=96, gpus=8, interfaces=("lo",), efa=0)


def job(root: Path, **settings: object) -> Job:
    (root / "code").mkdir(exist_ok=True)
    return Job(
        name="job", paths=Paths(root), cluster=Cluster("algo-1", ("algo-1",)), channels=(),
        hyperparameters=Hyperparameters({"lr": "$(id)"}), settings=Settings(**settings),  # type: ignore[arg-type]
        checkpoints=root,
    )  # fmt: skip


def entry(j: Job) -> tuple[str, ...]:
    return launch.make(j, machine=EIGHT_GPUS, script=script.look(script.locate(j)), environ={}).command


def test_a_module_is_read_where_it_lies_and_run_by_its_name(tmp_path: Path) -> None:
    j = job(tmp_path, script="-m pkg.mod")
    package = tmp_path / "code/src/pkg"
    package.mkdir(parents=True)
    (package / "mod.py").write_text("import torch\ntorch.optim.SGD")
    found = script.look(script.locate(j))
    assert (found.path, found.is_python, found.uses_torch, found.needs_dynamo) == (package / "mod.py", True, True, True)
    assert launch.make(j, machine=EIGHT_GPUS, script=found, environ={}).engine == "fork"
    assert entry(j)[2:] == ("-m", "pkg.mod", "--lr", "$(id)")


@pytest.mark.parametrize("name", ["-m", "-m pkg/mod.py", "-m pkg.", "-m 'x; y'"])
def test_what_names_no_module_is_said_to(tmp_path: Path, name: str) -> None:
    with pytest.raises(ScriptMissing, match=r"names no module. Write it as Python's own option: -m package.module"):
        script.locate(job(tmp_path, script=name))


def test_a_module_that_its_package_does_not_have_is_missed_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "code/pkg").mkdir(parents=True)
    (tmp_path / "code/pkg/main.py").touch()
    with pytest.raises(
        ScriptMissing, match=r"there is no module pkg.mian: .*/code/pkg holds main.py. Compare the name."
    ):
        entry(job(tmp_path, script="-m pkg.mian"))


def test_a_program_without_suffix_is_a_module_only_where_the_source_is_a_package(tmp_path: Path) -> None:
    j = job(tmp_path, script="tool")
    assert script.locate(j).module is None
    (tmp_path / "code/pyproject.toml").write_text("[tool.ruff]\nline-length = 99\n")
    assert script.locate(j).module is None
    (tmp_path / "code/pyproject.toml").write_text("[project]\nname = 'tool'\n")
    assert script.locate(j).module == "tool"
    assert code.order(j, script.locate(j)) is not None
    (tmp_path / "code/tool").touch()
    assert script.locate(j).module is None


def test_a_shell_runs_once_per_host_unless_more_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    for name in ("run.sh", "train.py"):
        (tmp_path / "code" / name).touch()
    ranks = [
        launch.procs(job(tmp_path, **given), EIGHT_GPUS)
        for given in ({}, {"script": "run.sh"}, {"command": "torchrun x"}, {"command": "x", "procs": 3})
    ]
    assert ranks == [8, 1, 1, 3]
    assert entry(job(tmp_path, command="echo $HOME")) == ("bash", "-c", "echo $HOME", "train", "--lr", "$(id)")


def test_where_the_code_can_run_as_it_lies_nothing_is_ordered(tmp_path: Path) -> None:
    j = job(tmp_path)
    (tmp_path / "code/requirements.txt").write_text("# none\n")
    (tmp_path / "code/pyproject.toml").write_text("[project]\nname = 'tool'\n")
    assert code.order(j, script.locate(j)) is None
    (tmp_path / "code/requirements.txt").write_text("# one\nnumpy\n")
    assert code.order(j, script.locate(j)) is not None
    none = dataclasses.replace(j, settings=Settings(requirements=""))
    assert code.order(none, script.locate(none)) is None


@pytest.mark.parametrize(
    "source", ["s3://b/sourcedir.tar.gz", "s3://b/prefix", "gs://b/code.tgz", "{here}/code.tar.xz", "{here}/unnamed"]
)
def test_what_is_elsewhere_or_packed_is_ordered_into_the_code_folder(tmp_path: Path, source: str) -> None:
    (tmp_path / "unnamed").touch()
    j = job(tmp_path, source=source.format(here=tmp_path))
    ordered = code.order(j, script.locate(j))
    assert ordered is not None
    assert (ordered.source, ordered.folder) == (source.format(here=tmp_path), str(tmp_path / "code"))


def test_a_folder_is_used_where_it_is_and_comes_before_the_channel(tmp_path: Path) -> None:
    channel = tmp_path / "input/data/code"
    j = dataclasses.replace(job(tmp_path), channels=(Channel("code", channel),))
    assert j.source == channel
    assert dataclasses.replace(j, settings=Settings(source=str(tmp_path / "mine"))).source == tmp_path / "mine"


def test_what_was_installed_comes_first_and_what_the_user_set_stays() -> None:
    ready = Prepared(Path("/opt/ml/code"), ("/c/site", "/c/src"), "/c/programs")
    assert ready.environment({"PYTHONPATH": "lib", "PATH": "/bin"}) == {
        "PYTHONPATH": "/c/site:/c/src:lib",
        "PATH": "/c/programs:/bin",
    }
    assert Prepared(Path("/x")).environment({"PYTHONPATH": "lib"}) == {}
