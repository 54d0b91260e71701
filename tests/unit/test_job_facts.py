"""The context in its three situations: real trees, real variables, real command lines; no torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from trainkit.errors import ConfigError, TrainkitError
from trainkit.job import facts
from trainkit.job.context import Context
from trainkit.job.signals import Stop


def context(environ: dict[str, str], *argv: str, cwd: Path) -> Context:
    return Context(facts.read(environ, argv=argv, cwd=cwd), stop=Stop())


@pytest.fixture
def tree(tmp_path: Path) -> dict[str, str]:
    """/opt/ml of the second of two hosts, and the variables that the harness gives its first rank."""
    config = tmp_path / "ml/input/config"
    config.mkdir(parents=True)
    documents = {
        "resourceconfig.json": {"current_host": "algo-10", "hosts": ["algo-10", "algo-2"]},
        "inputdataconfig.json": {"train-data": {"TrainingInputMode": "File"}, "pipe": {"TrainingInputMode": "Pipe"}},
        "hyperparameters.json": {
            "lr": "1e-3",
            "model.depth": "007",
            "on": "Yes",
            "trainkit_procs": "2",
            "batch-size": "8",
        },
    }
    for name, document in documents.items():
        (config / name).write_text(json.dumps(document))
    (tmp_path / "ml/input/data/train-data").mkdir(parents=True)
    return {
        "SAGEMAKER_BASE_DIR": str(tmp_path / "ml"),
        "SM_CURRENT_HOST": "algo-10",
        "TRAINING_JOB_NAME": "flights-7",
        "RANK": "2",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "4",
        "LOCAL_WORLD_SIZE": "2",
        "GROUP_RANK": "1",
    }


def test_under_the_harness_the_job_is_what_its_files_say(tree, tmp_path):
    job = context(tree, "--lr", "9", cwd=tmp_path)

    assert (job.name, job.host, job.hosts, job.host_rank) == ("flights-7", "algo-10", ("algo-2", "algo-10"), 1)
    assert (job.rank, job.local_rank, job.world_size, job.local_world_size) == (2, 0, 4, 2)
    assert not job.is_first
    assert job.hyperparameters.texts == {"lr": "1e-3", "model.depth": "007", "on": "Yes", "batch-size": "8"}
    assert job.hyperparameters["lr"] == 0.001
    assert job.channels == ("train-data", "pipe")
    assert job.channel("train-data") == tmp_path / "ml/input/data/train-data"
    assert job.model_dir == tmp_path / "ml/model"
    assert job.output_dir == tmp_path / "ml/output/data"
    assert job.checkpoint_dir == tmp_path / "ml/checkpoints"
    assert job.model_dir.is_dir() and job.output_dir.is_dir() and job.checkpoint_dir.is_dir()


def test_a_checkpoint_config_says_that_the_platform_copies_the_folder(tree, tmp_path):
    assert not facts.read(tree, argv=[], cwd=tmp_path).checkpoint_agent
    config = Path(tree["SAGEMAKER_BASE_DIR"]) / "input/config/checkpointconfig.json"
    config.write_text('{"LocalPath": "/opt/ml/checkpoints"}')
    assert facts.read(tree, argv=[], cwd=tmp_path).checkpoint_agent


def test_the_jobs_files_say_which_host_this_is_whatever_order_a_rendezvous_gave(tree, tmp_path):
    assert context({**tree, "GROUP_RANK": "0"}, cwd=tmp_path).host == "algo-10"


def test_a_broken_tree_is_told_with_every_mistake(tree, tmp_path):
    (tmp_path / "ml/input/config/hyperparameters.json").write_text("{")
    (tmp_path / "ml/input/config/resourceconfig.json").unlink()
    with pytest.raises(ConfigError, match=r"(?s)resourceconfig.json does not exist.*hyperparameters.json is no JSON"):
        context(tree, cwd=tmp_path)


def test_under_torchrun_the_command_line_and_torchs_variables_are_the_job(tmp_path):
    (tmp_path / "my data").mkdir()
    environ = {
        "RANK": "3",
        "LOCAL_RANK": "1",
        "WORLD_SIZE": "4",
        "LOCAL_WORLD_SIZE": "2",
        "GROUP_RANK": "1",
        "TRAINKIT_CHANNEL_TRAIN_DATA": f"file://{tmp_path}/my%20data",
        "SM_CHANNEL_TEST": str(tmp_path),
    }
    job = context(environ, "--lr", "0.1", "--name=it's", "--bias", "-3", "--fast", cwd=tmp_path)

    assert dict(job.hyperparameters) == {"lr": 0.1, "name": "it's", "bias": -3, "fast": True}
    assert (job.rank, job.local_rank, job.world_size, job.host_rank, job.host) == (3, 1, 4, 1, "host-1")
    assert job.channel("train-data") == tmp_path / "my data"
    assert job.channel("test") == tmp_path
    assert job.model_dir == tmp_path / "trainkit-output/model"
    assert job.output_dir == tmp_path / "trainkit-output/output/data"
    assert job.checkpoint_dir == tmp_path / "trainkit-output/checkpoints"


def test_bare_python_is_a_job_of_one_rank(tmp_path):
    job = context({}, cwd=tmp_path)

    assert (job.name, job.rank, job.world_size, job.hosts, job.is_first) == ("local", 0, 1, ("host-0",), True)
    assert job.seed == 0
    assert not list(tmp_path.iterdir()), "directories are made when they are asked for"


@pytest.mark.parametrize(
    ("argv", "texts"),
    [
        (["--a=--b", "--c", "x", "y"], {"a": "--b", "c": "x"}),
        (["data.csv", "-v", "--a", "1", "--a=2"], {"a": "2"}),
        (["--empty=", "--text", ""], {"empty": "", "text": ""}),
        (["--a=b=c", "--b", "--", "--c", "1"], {"a": "b=c", "b": "true"}),
    ],
)
def test_command_lines_are_read_as_pairs(argv, texts):
    assert facts.pairs(argv) == texts


def test_a_variable_overrides_the_mounted_channel(tree, tmp_path):
    job = context({**tree, "TRAINKIT_CHANNEL_TRAIN_DATA": f"file://{tmp_path}"}, cwd=tmp_path)

    assert job.channel("train-data") == tmp_path
    assert job.channels == ("train-data", "pipe")


def test_a_channel_that_cannot_be_a_directory_says_why_and_what_to_set(tree, tmp_path):
    job = context({**tree, "TRAINKIT_CHANNEL_TRAIN_DATA": "s3://bucket/train"}, cwd=tmp_path)

    with pytest.raises(
        TrainkitError, match=r"TRAINKIT_CHANNEL_TRAIN_DATA: train-data is 's3://bucket/train': is a URL"
    ):
        job.channel("train-data")
    with pytest.raises(TrainkitError, match=r"is in Pipe mode.*set TRAINKIT_CHANNEL_PIPE"):
        job.channel("pipe")
    with pytest.raises(
        TrainkitError, match=r"no channel of this job; there are train-data, pipe.*TRAINKIT_CHANNEL_TEST "
    ):
        job.channel("test")
    with pytest.raises(TrainkitError, match="does not exist"):
        context({"SM_CHANNEL_TRAIN": str(tmp_path / "gone")}, cwd=tmp_path).channel("train")


def test_hyperparameters_take_the_type_of_their_default(tree, tmp_path):
    job = context(tree, cwd=tmp_path)

    assert job.hp("lr", 1.0) == 0.001
    assert job.hp("model.depth", 0) == 7
    assert job.hp("model.depth", "") == "007"
    assert job.hp("on", False) is True
    assert job.hp("batch_size", 0) == 8, "as argparse spells --batch-size"
    assert job.hp("absent", 1.5) == 1.5
    assert job.hp("lr") == 0.001
    quoted = context({}, '--lr="0.5"', cwd=tmp_path)
    assert quoted.hp("lr", 1.0) == 0.5, "as the SDK's v2 quotes strings"


@pytest.mark.parametrize(
    ("word", "value"), [("TRUE", True), ("1", True), ("yes", True), ("False", False), ("no", False)]
)
def test_truth_is_spelled_in_many_ways(word, value, tmp_path):
    assert context({}, "--flag", word, cwd=tmp_path).hp("flag", not value) is value


def test_a_wrong_hyperparameter_names_key_text_and_type(tree, tmp_path):
    job = context(tree, cwd=tmp_path)

    with pytest.raises(ConfigError, match=r"hyperparameters.json: lr is '1e-3': must be a whole number.*default is 3"):
        job.hp("lr", 3)
    with pytest.raises(ConfigError, match=r"lr is '1e-3': must be true or false"):
        job.hp("lr", True)
    with pytest.raises(ConfigError, match=r"epochs is missing; there are lr, model.depth.*--epochs VALUE"):
        job.hp("epochs")
    with pytest.raises(TypeError, match=r"bool, int, float or str, not list"):
        job.hp("lr", [1])


def test_a_default_of_none_makes_it_optional_and_leaves_it_decoded(tmp_path):
    job = context({}, "--widths", "[1, 2]", cwd=tmp_path)
    assert job.hp("widths", None) == [1, 2]
    assert job.hp("resume", None) is None
    with pytest.raises(TypeError, match=r"bool, int, float or str, not list"):
        job.hp("absent", [1])


def ended(script: str, *argv: str, cwd: Path) -> str:
    """What a script of its own said on stdout."""
    run = [sys.executable, "-c", f"import trainkit\njob = trainkit.job()\n{script}", *argv]
    return subprocess.run(run, cwd=cwd, capture_output=True, text=True, timeout=60).stdout


def test_a_hyperparameter_that_nobody_read_is_told_once(tmp_path):
    given = (
        "--sagemaker_program",
        "t.py",
        "--_tuning_objective_metric",
        "loss",
        "--lrr",
        "0.1",
        "--batch-size",
        "8",
        "--zzz",
        "1",
    )
    told = "hyperparameters never read: lrr (did you mean lr?), zzz\n"
    reads = "job.hp('lr', 1.0); job.hp('batch_size', 1)"

    assert ended(reads, *given, cwd=tmp_path) == told
    assert ended(f"{reads}; job.hp('zzz'); job.hp('lrr')", *given, cwd=tmp_path) == ""
    assert ended(f"{reads}; job._tell_unread(); print('saved')", *given, cwd=tmp_path) == told + "saved\n"


@pytest.mark.parametrize(
    "script", ["job.seed", "job.hp('lr', 1.0); dict(job.hyperparameters)", "job.hp('lr', 1.0); raise ValueError"]
)
def test_a_script_that_reads_them_another_way_or_fails_is_told_nothing(script, tmp_path):
    assert ended(script, "--lrr", "0.1", cwd=tmp_path) == ""


def test_a_rank_whose_error_was_written_down_is_told_nothing_more(tmp_path, monkeypatch):
    """As the harness does it: it shows and records the error, and ends the rank itself."""
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "0.error.json"))
    script = "job.hp('lr', 1.0); open('0.error.json', 'w').close(); raise SystemExit(1)"
    assert ended(script, "--lrr", "0.1", cwd=tmp_path) == ""


def test_only_the_first_rank_tells_what_was_not_read(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert ended("job.hp('lr', 1.0)", "--lrr", "0.1", cwd=tmp_path) == ""


def test_a_channel_is_found_however_its_name_is_spelled(tmp_path):
    job = context({"SM_CHANNEL_TRAIN-DATA": str(tmp_path), "SM_CHANNEL_CODE": str(tmp_path)}, cwd=tmp_path)
    assert job.channel("train-data") == job.channel("Train_Data") == job.channel("train_data") == tmp_path
    assert job.channel("code") == tmp_path
    assert job.channels == ("train-data",), "the script is no data"


def test_ranks_that_make_no_sense_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="RANK is '2': is no rank of a world of 2"):
        context({"RANK": "2", "WORLD_SIZE": "2"}, cwd=tmp_path)
    with pytest.raises(ConfigError, match="WORLD_SIZE is 'two': must be a whole number"):
        context({"WORLD_SIZE": "two"}, cwd=tmp_path)
