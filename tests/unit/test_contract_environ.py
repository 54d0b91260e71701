from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainkit.contract import dialect_json, environ, names
from trainkit.contract.channels import Channel
from trainkit.contract.cluster import Cluster, InstanceGroup
from trainkit.contract.facts import Resources
from trainkit.contract.hyperparameters import Hyperparameters
from trainkit.contract.job import Job
from trainkit.contract.paths import Paths
from trainkit.contract.settings import Settings
from trainkit.errors import TrainkitError

many = settings(max_examples=60, deadline=None, database=None)
texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
RESOURCES = {
    "current_host": "algo-2",
    "current_instance_type": "ml.p4d.24xlarge",
    "hosts": ["algo-1", "algo-2"],
    "network_interface_name": "eth0",
}
INPUTS = {"training": {"TrainingInputMode": "File"}, "val": {"TrainingInputMode": "File"}}


def make_job(texts: dict[str, str] | None = None, channels: tuple[str, ...] = ("training", "val")) -> Job:
    paths = Paths()
    return Job(
        name="job-7",
        paths=paths,
        cluster=Cluster("algo-2", ("algo-1", "algo-2"), instance_type="ml.p4d.24xlarge", interface="eth0"),
        channels=tuple(Channel(name, paths.channels / name) for name in channels),
        hyperparameters=Hyperparameters(texts or {}),
        settings=Settings(),
        checkpoints=paths.checkpoints,
        documents={"resourceconfig.json": RESOURCES, "inputdataconfig.json": INPUTS},
    )


def variables(job: Job) -> tuple[dict[str, str], list[str]]:
    return environ.variables(job, resources=Resources(cpus=2, gpus=0), master="algo-1", port=7777)


def test_the_values_are_those_of_the_sdks_own_drivers_byte_for_byte() -> None:
    """Written down from the V3 drivers' set_env for this job; tests/interop asks the drivers themselves."""
    found, warnings = variables(make_job({"lr": "0.1", "epochs": "64", "on": "true", "opt": "Adam", "l": '[1, "a"]'}))

    hyperparameters = '{"lr": 0.1, "epochs": 64, "on": true, "opt": "Adam", "l": [1, "a"]}'
    resources = (
        '{"current_host": "algo-2", "current_instance_type": "ml.p4d.24xlarge", '
        '"hosts": ["algo-1", "algo-2"], "network_interface_name": "eth0"}'
    )
    theirs = {
        "SM_MODEL_DIR": "/opt/ml/model",
        "SM_INPUT_DIR": "/opt/ml/input",
        "SM_INPUT_DATA_DIR": "/opt/ml/input/data",
        "SM_INPUT_CONFIG_DIR": "/opt/ml/input/config",
        "SM_OUTPUT_DIR": "/opt/ml/output",
        "SM_OUTPUT_FAILURE": "/opt/ml/output/failure",
        "SM_OUTPUT_DATA_DIR": "/opt/ml/output/data",
        "SM_LOG_LEVEL": "20",
        "SM_MASTER_ADDR": "algo-1",
        "SM_MASTER_PORT": "7777",
        "SM_CHANNEL_TRAINING": "/opt/ml/input/data/training",
        "SM_CHANNEL_VAL": "/opt/ml/input/data/val",
        "SM_CHANNELS": '["training", "val"]',
        "SM_HP_LR": "0.1",
        "SM_HP_EPOCHS": "64",
        "SM_HP_ON": "true",
        "SM_HP_OPT": "Adam",
        "SM_HP_L": '[1, "a"]',
        "SM_HPS": hyperparameters,
        "SM_CURRENT_HOST": "algo-2",
        "SM_CURRENT_INSTANCE_TYPE": "ml.p4d.24xlarge",
        "SM_HOSTS": '["algo-1", "algo-2"]',
        "SM_NETWORK_INTERFACE_NAME": "eth0",
        "SM_HOST_COUNT": "2",
        "SM_CURRENT_HOST_RANK": "1",
        "SM_NUM_CPUS": "2",
        "SM_NUM_GPUS": "0",
        "SM_NUM_NEURONS": "0",
        "SM_RESOURCE_CONFIG": resources,
        "SM_INPUT_DATA_CONFIG": '{"training": {"TrainingInputMode": "File"}, "val": {"TrainingInputMode": "File"}}',
    }
    assert found | theirs == found
    assert warnings == []
    their_big_one = {
        "channel_input_dirs": {"training": "/opt/ml/input/data/training", "val": "/opt/ml/input/data/val"},
        "current_host": "algo-2",
        "current_instance_type": "ml.p4d.24xlarge",
        "hosts": ["algo-1", "algo-2"],
        "master_addr": "algo-1",
        "master_port": 7777,
        "hyperparameters": json.loads(hyperparameters),
        "input_data_config": INPUTS,
        "input_config_dir": "/opt/ml/input/config",
        "input_data_dir": "/opt/ml/input/data",
        "input_dir": "/opt/ml/input",
        "job_name": "job-7",
        "log_level": 20,
        "model_dir": "/opt/ml/model",
        "network_interface_name": "eth0",
        "num_cpus": 2,
        "num_gpus": 0,
        "num_neurons": 0,
        "output_data_dir": "/opt/ml/output/data",
        "resource_config": RESOURCES,
    }
    assert json.loads(found["SM_TRAINING_ENV"]) == their_big_one


def test_a_name_with_a_dash_or_a_dot_is_there_exactly_and_under_an_alias() -> None:
    found, warnings = variables(make_job({"model.lr": "0.1", "a-b": "x"}, channels=("train-data",)))

    assert found["SM_HP_MODEL.LR"] == found["SM_HP_MODEL_LR"] == "0.1"
    assert found["SM_HP_A-B"] == found["SM_HP_A_B"] == "x"
    assert found["SM_CHANNEL_TRAIN-DATA"] == found["SM_CHANNEL_TRAIN_DATA"] == "/opt/ml/input/data/train-data"
    assert warnings == []


def test_two_names_with_one_alias_are_reported_and_the_exact_name_wins() -> None:
    found, warnings = variables(make_job({"a-b": "dash", "a.b": "dot", "a_b": "exact"}))

    assert (found["SM_HP_A-B"], found["SM_HP_A.B"], found["SM_HP_A_B"]) == ("dash", "dot", "exact")
    assert warnings == [
        "SM_HP_A_B stands for hyperparameter 'a_b', so 'a-b' has no alias: rename one of them",
        "SM_HP_A_B stands for hyperparameter 'a_b', so 'a.b' has no alias: rename one of them",
    ]


def test_two_aliases_that_meet_belong_to_the_first_and_are_reported() -> None:
    found, warnings = variables(make_job({"a-b": "dash", "a.b": "dot"}))

    assert found["SM_HP_A_B"] == "dash"
    assert warnings == ["SM_HP_A_B stands for hyperparameter 'a-b', so 'a.b' has no alias: rename one of them"]


def test_names_that_differ_in_case_only_are_reported() -> None:
    found, warnings = variables(make_job({"lr": "1", "LR": "2"}))

    assert found["SM_HP_LR"] == "1"
    assert warnings == ["SM_HP_LR stands for hyperparameter 'lr', not for 'LR', which differs in case only"]


def test_a_name_with_an_equals_sign_reaches_the_script_as_argument_and_alias_only() -> None:
    job = make_job({"a=b": "x"})
    found, _ = variables(job)

    assert environ.arguments(job) == ("--a=b", "x")
    assert found["SM_HP_A_B"] == "x"
    assert not [name for name in found if "=" in name]


def test_the_arguments_are_the_texts_in_the_files_order_without_our_own() -> None:
    job = make_job({"z": "it's", "a": "", "trainkit_procs": "2", "sagemaker_region": "eu-west-1", "b": "-1"})

    assert environ.arguments(job) == ("--z", "it's", "--a", "", "--b", "-1")


def strictly(text: str) -> Any:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


@many
@given(st.dictionaries(texts.filter(bool), texts | st.sampled_from(["NaN", "1e999", "[-Infinity]", '"\\u0000"', "1"])))
def test_whatever_the_hyperparameters_are_every_variable_is_one_that_execve_takes(values: dict[str, str]) -> None:
    found, warnings = variables(make_job({**values, "sagemaker_container_log_level": next(iter(values.values()), "")}))

    for name, value in found.items():
        assert type(name) is type(value) is str
        assert "\0" not in name + value and "=" not in name
        (name + value).encode()
    for name in ("SM_HPS", "SM_TRAINING_ENV", "SM_USER_ARGS", "SM_FRAMEWORK_PARAMS", "SM_CHANNELS", "SM_HOSTS"):
        strictly(found[name])
    for name, text in values.items():
        if not name.startswith(("trainkit_", "sagemaker_")) and "=" not in name:
            assert found[f"SM_HP_{name.upper()}"] == dialect_json.variable(text) or warnings
    assert found["SM_LOG_LEVEL"].lstrip("-").isdigit()


def test_a_real_child_finds_hostile_values_unchanged() -> None:
    values = {"it's": "$(id) `id` ; rm -rf x", "a b": "line\nline", "dash-key.x": '"half', "ü": "日本🚂", "e": ""}
    job = make_job(values)
    found, _ = variables(job)
    show = "import json, os, sys; print(json.dumps([dict(os.environ), sys.argv[1:]]))"

    ran = subprocess.run(
        [sys.executable, "-E", "-c", show, *environ.arguments(job)],
        env={**found, "PYTHONUTF8": "1", "LC_ALL": "C.UTF-8"}, check=True, capture_output=True, timeout=60,
    )  # fmt: skip

    seen, argv = json.loads(ran.stdout)
    assert seen | found == seen
    assert argv == [part for name, text in values.items() for part in (f"--{name}", text)]


def test_a_variable_too_long_for_the_kernel_is_left_out_and_named() -> None:
    """100 hyperparameters of 2,500 characters are within the API's limits; together, in SM_HPS, not within execve's."""
    job = make_job({f"p{index}": "x" * 2500 for index in range(100)})
    found, warnings = variables(job)

    assert sorted(warning.split()[0] for warning in warnings) == ["SM_HPS", "SM_TRAINING_ENV", "SM_USER_ARGS"]
    assert all("is left out" in warning and "trainkit.job()" in warning for warning in warnings)
    subprocess.run([sys.executable, "-S", "-c", "", *environ.arguments(job)], env=found, check=True, timeout=60)


@pytest.mark.parametrize("over", [0, 1])
def test_the_longest_variable_is_as_long_as_the_kernel_has_it(over: int) -> None:
    if sys.platform != "linux":
        pytest.skip("the limit is Linux's")
    text = "x" * (names.LONGEST - len("SM_HP_A=") - 1 + over)
    found, _ = variables(make_job({"a": text}))

    assert ("SM_HP_A" in found) is not bool(over)
    try:
        subprocess.run([sys.executable, "-S", "-c", ""], env={"SM_HP_A": text}, check=True, timeout=60)
    except OSError:
        assert over


@pytest.mark.parametrize(("text", "level"), [("30", "30"), ('"40"', "40"), ("debug", "20"), ("[1]", "20"), ("", "20")])
def test_the_log_level_is_a_number_whatever_was_written(text: str, level: str) -> None:
    found, _ = variables(make_job({"sagemaker_container_log_level": text}))

    assert found["SM_LOG_LEVEL"] == level


def test_a_heterogeneous_cluster_has_its_groups_in_the_variables() -> None:
    groups = (InstanceGroup("cpu", "ml.c5.xlarge", ("algo-1",)), InstanceGroup("gpu", "ml.g5.xlarge", ("algo-2",)))
    cluster = Cluster("algo-2", ("algo-1", "algo-2"), groups=groups, current_group="gpu", topology=[{"hostName": "a"}])
    described = [
        {"instance_group_name": group.name, "instance_type": group.instance_type, "hosts": list(group.hosts)}
        for group in groups
    ]
    job = replace(
        make_job(), cluster=cluster, settings=Settings(groups=("gpu",)),
        documents={"resourceconfig.json": {"instance_groups": described}},
    )  # fmt: skip
    found, _ = variables(job)

    assert json.loads(found["SM_INSTANCE_GROUPS_DICT"]) == {
        "cpu": {"instance_group_name": "cpu", "instance_type": "ml.c5.xlarge", "hosts": ["algo-1"]},
        "gpu": {"instance_group_name": "gpu", "instance_type": "ml.g5.xlarge", "hosts": ["algo-2"]},
    }
    assert found["SM_DISTRIBUTION_INSTANCE_GROUPS"] == '["gpu"]'
    assert (found["SM_HOST_COUNT"], found["SM_CURRENT_HOST_RANK"], found["SM_IS_HETERO"]) == ("1", "0", "true")
    assert found["SM_TOPOLOGY"] == '[{"hostName": "a"}]'


def test_the_page_for_platform_teams_names_every_variable_and_every_exit_code() -> None:
    page = (Path(__file__).parents[2] / "docs/contract.md").read_text(encoding="utf-8")
    cluster = Cluster("algo-1", ("algo-1",), topology=[{}])
    found = {}
    for dialect in ("json", "toolkit"):
        given = make_job({"sagemaker_region": "eu-west-1"})
        found |= variables(replace(given, cluster=cluster, channels=(), settings=Settings(dialect=dialect)))[0]
    kinds: list[type[TrainkitError]] = [TrainkitError, *TrainkitError.__subclasses__()]

    assert [name for name in found if f"`{name}`" not in page] == []
    assert [kind.__name__ for kind in kinds if f"| {kind.exit_code} |" not in page] == []
