"""Every tree in tests/processing_trees is an /opt/ml of a processing job: read, it gives the facts or the mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trainkit.contract import job, processing, processing_environ
from trainkit.contract.environ import Resources
from trainkit.contract.paths import Paths
from trainkit.errors import ConfigError

TREES = Path(__file__).parents[1] / "processing_trees"
NAMES = sorted(tree.name for tree in TREES.iterdir())


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("right-")])
def test_a_right_tree_is_read_as_it_is_meant(name: str) -> None:
    root = TREES / name
    expect = json.loads((root / "expect.json").read_text().replace("{root}", str(root)))

    read = processing.read(Paths(root), environ={})
    variables, warnings = processing_environ.variables(
        read, resources=Resources(cpus=2, gpus=0), master=read.hosts[0], port=7777
    )

    for part in ("inputs", "outputs"):
        listed = expect.pop(part, None)
        entries = getattr(read, part)
        assert listed is None or list(entries) == list(listed)
        for key, facts in (listed or {}).items():
            found = {fact: getattr(entries[key], fact) for fact in facts}
            assert {k: str(v) if isinstance(v, Path) else v for k, v in found.items()} == facts
    assert [name for name in expect.pop("absent_variables", []) if name in variables] == []
    assert {key: variables[key] for key in expect.get("variables", {})} == expect.pop("variables", {})
    assert {key: getattr(read, key) for key in expect} == expect | (
        {"hosts": tuple(expect["hosts"])} if "hosts" in expect else {}
    )
    assert warnings == []
    assert job.is_processing(Paths(root))


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("wrong-")])
def test_a_wrong_tree_is_refused_with_each_of_its_mistakes_and_its_remedy(name: str) -> None:
    root = TREES / name
    expected = json.loads((root / "expect.json").read_text())["mistakes"]

    with pytest.raises(ConfigError) as refused:
        processing.read(Paths(root), environ={})

    said = [(Path(m.file).name, m.key, m.problem, m.remedy) for m in refused.value.mistakes]
    assert len(said) == len(expected), str(refused.value)
    for right in expected:
        assert [
            one for one in said
            if one[:2] == (right["file"], right["key"]) and right["problem"] in one[2] and right["remedy"] in one[3]
        ], f"{right} is not said in:\n{refused.value}"  # fmt: skip


def test_every_tree_says_which_kind_it_is() -> None:
    assert all(name.startswith(("right-", "wrong-")) for name in NAMES)


def test_without_any_file_it_is_a_job_of_one_host_without_inputs(tmp_path: Path) -> None:
    read = processing.read(Paths(tmp_path), environ={})

    assert (read.name, read.hosts, read.inputs, read.laid) == ("local", ("algo-1",), {}, False)


def test_a_training_job_is_no_processing_job_even_where_both_are_laid(tmp_path: Path) -> None:
    assert not job.is_processing(Paths(tmp_path))
    for folder, name in (("config", processing.FILE), ("input/config", "resourceconfig.json")):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / name).write_text("{}")
        assert job.is_processing(Paths(tmp_path)) == (folder == "config")


def test_a_silent_query_is_no_stall_unless_someone_sets_a_limit(tmp_path: Path) -> None:
    assert processing.read(Paths(tmp_path), environ={}).settings.stall_timeout == 0
    assert processing.read(Paths(tmp_path), environ={"TRAINKIT_STALL_TIMEOUT": "5m"}).settings.stall_timeout == 300


def test_an_input_in_pipe_mode_has_a_fifo_per_epoch_and_others_have_none() -> None:
    read = processing.read(Paths(TREES / "right-every-kind-of-input-and-output"), environ={})

    assert read.inputs["piped"].pipe(2).name == "p_2"
    with pytest.raises(ValueError, match="input listed is in File mode"):
        read.inputs["listed"].pipe()
