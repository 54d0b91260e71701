from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from trainkit.contract import environ, job, settings
from trainkit.contract.paths import Paths
from trainkit.errors import Mistake

many = hypothesis_settings(max_examples=60, deadline=None, database=None)


def read(
    flags: dict[str, str] | None = None, env: dict[str, str] | None = None, hps: dict[str, str] | None = None
) -> tuple[settings.Settings, list[Mistake]]:
    mistakes: list[Mistake] = []
    chosen = settings.read(flags=flags or {}, environ=env or {}, hyperparameters=hps or {}, mistakes=mistakes)
    return chosen, mistakes


def test_a_flag_beats_the_environment_which_beats_the_hyperparameter() -> None:
    sources = [{"port": "1001"}, {"TRAINKIT_PORT": "1002"}, {"trainkit_port": "1003"}]

    assert read(*sources)[0].port == 1001
    assert read({}, *sources[1:])[0].port == 1002
    assert read({}, {}, sources[2])[0].port == 1003
    assert read()[0].port == 7777


def test_the_peers_names_are_heard_last_of_their_kind() -> None:
    theirs = ({"SAGEMAKER_PROGRAM": "env.py"}, {"sagemaker_program": '"hp.py"'})

    assert read({}, *theirs)[0].script == "env.py"
    assert read({}, {}, theirs[1])[0].script == "hp.py"
    assert read({}, {"TRAINKIT_SCRIPT": "ours.py", **theirs[0]}, theirs[1])[0].script == "ours.py"
    assert read({}, {}, {"trainkit_script": "ours.py", **theirs[1]})[0].script == "ours.py"


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("engine", "spawn", "spawn"),
        ("engine", '"spawn"', "spawn"),
        ("procs", '"4"', 4),
        ("stop_grace", '"1.5m"', 90.0),
        ("preload", "numpy, scipy", ("numpy", "scipy")),
        ("preload", '["numpy", "scipy"]', ("numpy", "scipy")),
        ("source", '"/opt/ml/my code"', "/opt/ml/my code"),
    ],
)
def test_a_hyperparameter_sets_it_bare_and_in_the_quotes_of_sdk_v2(name: str, text: str, value: object) -> None:
    chosen, mistakes = read(hps={f"trainkit_{name}": text})

    assert getattr(chosen, name) == value
    assert mistakes == []


def test_only_sdk_quotes_are_taken_off_so_a_folder_with_quotes_in_its_name_stays() -> None:
    assert read(flags={"source": '"odd"'})[0].source == '"odd"'


@pytest.mark.parametrize(
    ("text", "value"),
    [("90", 90), ("90s", 90), ("1.5m", 90), ("2h", 7200), ("0", 0), ("1e3", 1000), ("1e3s", 1000), ("0.1s", 0.1)],
)
def test_seconds_are_read_with_their_unit(text: str, value: float) -> None:
    assert settings.seconds(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "s", "-1", "-1s", "nan", "inf", "infs", "1e999", "10d", "ten", "1 m 2", "1:30"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        settings.seconds(text)


@many
@given(st.sampled_from(settings.TABLE), st.text() | st.sampled_from(["[" * 2000, '"\\ud800"', '"\\u0000"', "[1]", '"']))
def test_any_text_either_sets_it_or_is_a_mistake_that_says_what_is_expected(row: settings.Setting, text: str) -> None:
    chosen, mistakes = read(hps={f"trainkit_{row.name}": text})

    if mistakes:
        assert [(mistake.key, mistake.value) for mistake in mistakes] == [(f"trainkit_{row.name}", text)]
        assert row.expects in mistakes[0].problem and row.meaning in mistakes[0].remedy
        assert getattr(chosen, row.name) == getattr(settings.Settings(), row.name)
    elif row.name in ("script", "source"):
        assert b"\0" not in os.fsencode(getattr(chosen, row.name))  # no system call could take it


def test_a_mistake_names_the_source_it_came_from() -> None:
    assert [(m.file, m.key) for m in read({"port": "x"}, {"TRAINKIT_PROCS": "0"}, {"trainkit_engine": "x"})[1]] == [
        ("environment", "TRAINKIT_PROCS"),
        ("hyperparameters.json", "trainkit_engine"),
        ("command line", "--port"),
    ]


def test_a_strong_source_hides_what_is_wrong_in_a_weaker_one() -> None:
    chosen, mistakes = read({"port": "1"}, {}, {"trainkit_port": "x"})

    assert (chosen.port, mistakes) == (1, [])


def test_a_misspelt_variable_is_worth_a_warning_with_the_right_spelling() -> None:
    warnings = settings.strange({"TRAINKIT_PRCOS": "2", "TRAINKIT_PORT": "1", "PATH": "/bin"})

    assert warnings == ["TRAINKIT_PRCOS is no setting of trainkit. Did you mean TRAINKIT_PROCS?"]


def test_the_variables_between_our_own_processes_are_no_misspellings() -> None:
    assert settings.strange(dict.fromkeys([job.HOST_ADDRESSES, environ.CHANNEL_URL + "TRAIN"], "x")) == []


def test_every_setting_of_the_table_is_a_field_and_every_field_is_in_the_table() -> None:
    assert [row.name for row in settings.TABLE] == list(settings.Settings.__dataclass_fields__)


def test_the_root_is_opt_ml_unless_the_environment_says_otherwise() -> None:
    assert Paths.of({}).root == Paths.of({"SAGEMAKER_BASE_DIR": ""}).root == Path("/opt/ml")
    assert Paths.of({"SAGEMAKER_BASE_DIR": "/tmp/host"}).failure == Path("/tmp/host/output/failure")
