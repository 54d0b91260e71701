"""What the SDK's version 3 sends in the channel sm_drivers, and what `train` makes of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from trainkit.contract import job
from trainkit.contract.drivers import read
from trainkit.contract.paths import Paths
from trainkit.errors import ConfigError, Mistake

TUNED = {"sagemaker_program": "train.py", "lr": "0.1"}


def lay(
    root: Path,
    *,
    source: Any = None,
    distributed: Any = None,
    hyperparameters: dict[str, str] | None = None,
    channels: tuple[str, ...] = ("sm_drivers",),
) -> Paths:
    config, drivers = root / "input/config", root / "input/data/sm_drivers"
    for folder in (config, drivers):
        folder.mkdir(parents=True, exist_ok=True)
    (config / "resourceconfig.json").write_text(json.dumps({"current_host": "algo-1", "hosts": ["algo-1"]}))
    (config / "inputdataconfig.json").write_text(json.dumps({name: {} for name in channels}))
    (config / "hyperparameters.json").write_text(json.dumps(hyperparameters or TUNED))
    for name, content in (("sourcecode.json", source), ("distributed.json", distributed)):
        if content is not None:
            (drivers / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return Paths(root)


def torchrun(count: int | None, smp: Any = None) -> dict[str, Any]:
    return {"process_count_per_node": count, "smp": smp}


def test_torchrun_asks_for_so_many_ranks_and_for_its_script(tmp_path: Path) -> None:
    paths = lay(tmp_path, source={"entry_script": "main.py"}, distributed=torchrun(4), hyperparameters={"a": "1"})
    read = job.read(paths, environ={})

    assert (read.settings.procs, read.settings.script, read.notes) == (4, "main.py", ())


def test_torchrun_means_all_hosts_of_a_heterogeneous_cluster_unless_groups_are_named(tmp_path: Path) -> None:
    paths = lay(tmp_path, distributed=torchrun(1))
    hosts = ["algo-1", "algo-2"]
    groups = [
        {"instance_group_name": name, "instance_type": "ml.x", "hosts": [host]}
        for name, host in zip("ab", hosts, strict=True)
    ]
    resources = {"current_host": "algo-1", "current_group_name": "a", "hosts": hosts, "instance_groups": groups}
    (paths.config / "resourceconfig.json").write_text(json.dumps(resources))

    assert job.read(paths, environ={}).hosts == ("algo-1", "algo-2")
    assert job.read(paths, environ={"TRAINKIT_GROUPS": "a"}).hosts == ("algo-1",)


@pytest.mark.parametrize("count", [None, 0])
def test_torchrun_without_a_number_leaves_it_to_the_machine(tmp_path: Path, count: int | None) -> None:
    assert job.read(lay(tmp_path, distributed=torchrun(count)), environ={}).settings.procs is None


def test_no_distribution_is_one_process_per_host_and_said(tmp_path: Path) -> None:
    read = job.read(lay(tmp_path, source={"entry_script": "train.py"}, distributed={}), environ={})

    assert read.settings.procs == 1
    assert "asks for no distribution" in read.notes[0]


def test_mpi_starts_the_same_ranks_without_mpirun_and_says_what_it_leaves_out(tmp_path: Path) -> None:
    asked = {"process_count_per_node": 2, "mpi_additional_options": ["-verbose", "-x", "A=b c"]}
    read = job.read(lay(tmp_path, distributed=asked), environ={})

    assert read.settings.procs == 2
    assert "sm_drivers asks for mpirun: trainkit starts the same ranks itself" in read.notes[0]
    assert read.notes[0].endswith("; -verbose -x A=b c is left out")


def test_our_own_configuration_is_any_setting(tmp_path: Path) -> None:
    asked = {
        "trainkit": "0.1.0",
        "procs": 2,
        "max_restarts": 3,
        "peer_wait": 90.5,
        "preload": ["numpy", "json"],
        "engine": None,
    }
    chosen = job.read(lay(tmp_path, distributed=asked), environ={}).settings

    assert (chosen.procs, chosen.max_restarts, chosen.peer_wait, chosen.preload) == (2, 3, 90.5, ("numpy", "json"))


def test_whatever_else_says_a_setting_comes_before_the_drivers(tmp_path: Path) -> None:
    paths = lay(tmp_path, distributed=torchrun(4), hyperparameters=TUNED | {"trainkit_procs": "2"})

    assert job.read(paths, environ={}).settings.procs == 2
    assert job.read(paths, environ={"TRAINKIT_PROCS": "3"}).settings.procs == 3
    assert job.read(paths, environ={}, flags={"procs": "5"}).settings.procs == 5


def test_without_the_channel_the_files_are_not_opened(tmp_path: Path) -> None:
    paths = lay(tmp_path, distributed="{torn", channels=())

    assert job.read(paths, environ={}).settings.procs is None


@pytest.mark.parametrize(
    ("source", "distributed", "said"),
    [
        (None, torchrun(2, {"tensor_parallel_degree": 2}), "smp asks for SageMaker's model parallelism (SMP)"),
        (None, {"blocks": 3}, "is of a driver that trainkit does not know (it has blocks)"),
        (None, torchrun(-1), "process_count_per_node is '-1': must be a number from 1 to 1024"),
        (None, {"trainkit": "9", "color": "red"}, "color is 'red': asks for what trainkit does not do"),
        (None, {"trainkit": "9", "engine": "warp"}, "engine is 'warp': must be one of fork, spawn, torchrun"),
        ("{torn", None, "sourcecode.json is no JSON"),
        ({"entry_script": ["main.py"]}, None, "entry_script is ['main.py']: is no text. Write a text"),
        ({"command": "make", "args": "-j"}, None, "args is '-j': is no list. Write a list, as SourceCode(args=…)"),
        (None, "[]", "distributed.json holds a JSON array"),
        (None, '{"smp": 1, "smp": 2}', "smp stands there twice"),
        (None, "[" * 2000, "is nested too deeply"),
    ],
    ids=["smp", "unknown driver", "count", "no setting", "value", "torn", "script", "args", "array", "twice", "deep"],
)
def test_what_cannot_be_done_is_refused_by_name_before_anything_starts(
    tmp_path: Path, source: Any, distributed: Any, said: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        job.read(lay(tmp_path, source=source, distributed=distributed), environ={})

    assert said in str(refused.value)


def wishes(tmp_path: Path, source: dict[str, Any], *, channels: tuple[str, ...], **environ: str) -> dict[str, str]:
    mistakes: list[Mistake] = []
    paths = lay(tmp_path, source=source, distributed=torchrun(4))
    found = read(paths.channels, channels=channels, environ=environ, mistakes=mistakes)
    assert mistakes == []
    return {name: said.text for name, said in found.settings.items()}


def test_a_command_is_the_line_that_the_sdk_would_run_once_per_host(tmp_path: Path) -> None:
    asked = {"command": "python  run.py --x 1", "args": ["it's", "a b", 3], "entry_script": "train.py"}

    assert wishes(tmp_path, asked, channels=("sm_drivers",)) == {
        "script": "train.py",
        "command": "python run.py --x 1 'it'\"'\"'s' 'a b' 3",
        "procs": "1",
    }


def test_requirements_and_a_tarball_are_ours_to_see_to_unless_the_sdks_script_has_been_there(tmp_path: Path) -> None:
    asked = {"requirements": "auto", "source_dir": "s3://bucket/a/src.tar.gz", "entry_script": "train.py"}
    code = str(tmp_path / "input/data/code/src.tar.gz")
    both, alone = ("code", "sm_drivers"), ("sm_drivers",)

    ours = {"script": "train.py", "requirements": "requirements.txt", "procs": "4"}
    assert wishes(tmp_path, asked, channels=both) == {**ours, "source": code}
    assert wishes(tmp_path, asked, channels=alone) == {**ours, "source": asked["source_dir"]}
    assert wishes(tmp_path, asked, channels=both, SM_DISTRIBUTED_DRIVER_DIR="/opt/ml/x") == {
        "script": "train.py",
        "requirements": "",
        "procs": "4",
    }


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)
KEYS = ("entry_script", "command", "args", "requirements", "source_dir", "smp", "mpi_additional_options", "trainkit")
objects = st.dictionaries(
    st.sampled_from([*KEYS, "process_count_per_node", "procs", "engine", "x"]), values, max_size=4
)


@effort(max_examples=60, deadline=None, database=None)
@given(objects, objects)
def test_whatever_the_files_hold_the_job_is_read_or_refused_with_reasons(
    tmp_path_factory: pytest.TempPathFactory, source: Any, distributed: Any
) -> None:
    paths = lay(tmp_path_factory.getbasetemp() / "drawn", source=source, distributed=distributed)
    try:
        job.read(paths, environ={})
    except ConfigError as refused:
        assert all(line.isprintable() for line in str(refused).split("\n"))
