"""The two dialects: which one is spoken, what each makes of a value, and where they part from the peers with reason.

tests/interop has the peers themselves beside them.
"""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from test_contract_environ import make_job, variables

from trainkit.contract import dialect, dialect_json, dialect_toolkit, environ
from trainkit.contract.settings import Settings


@pytest.mark.parametrize(
    ("texts", "channels", "spoken"),
    [
        ({"lr": "0.1"}, (), "json"),
        ({}, (), "json"),
        ({"lr": "0.1"}, ("code", "sm_drivers"), "json"),
        ({"sagemaker_program": '"train.py"'}, (), "toolkit"),
        ({"sagemaker_submit_directory": '"s3://b/sourcedir.tar.gz"'}, ("sm_drivers",), "toolkit"),
        ({"sagemaker_program": "train.py"}, ("sm_drivers",), "json"),
        ({"sagemaker_program": "train.py"}, (), "toolkit"),
    ],
    ids=["boto3", "nothing", "trainer", "v2", "v2-directory", "v3-tuner", "script-mode-by-hand"],
)
def test_the_dialect_is_that_of_the_client_that_sent_the_job(
    texts: dict[str, str], channels: tuple[str, ...], spoken: str
) -> None:
    assert dialect.choose(texts, channels) == spoken
    assert make_job(texts, channels).dialect == spoken


def test_the_setting_comes_before_the_evidence() -> None:
    job = make_job({"sagemaker_program": '"train.py"', "on": "true"})

    assert environ.arguments(job) == ("--on", "True")
    assert environ.arguments(replace(job, settings=Settings(dialect="json"))) == ("--on", "true")


@pytest.mark.parametrize(
    ("text", "toolkit", "toolkits_variable", "as_json"),
    [
        ("Adam", "Adam", "Adam", "Adam"),
        ('"Adam"', "Adam", "Adam", "Adam"),
        ("true", "True", "true", "true"),
        ("null", "", "", "null"),
        ('[1,"a",null]', "[1, 'a', None]", '[1,"a",null]', '[1, "a", null]'),
        ('{"b":"x y","a":[1,2]}', "a=[1, 2],b=x y", '{"a":[1,2],"b":"x y"}', '{"b": "x y", "a": [1, 2]}'),
        ('["é"]', "['é']", '["\\u00e9"]', '["\\u00e9"]'),
        ("007", "007", "007", "007"),
        ("it's", "it's", "it's", "it's"),
        ("", "", "", ""),
    ],
)
def test_a_value_is_spelled_as_the_peer_spells_it(
    text: str, toolkit: str, toolkits_variable: str, as_json: str
) -> None:
    assert dialect_toolkit.arguments({"name": text}) == ("--name", toolkit)
    assert dialect_toolkit.variable(text) == toolkits_variable
    assert dialect_json.arguments({"name": text}) == ("--name", as_json)
    assert dialect_json.variable(text) == as_json


@pytest.mark.parametrize("text", ["12345e6", "1e999", "-0", "1.50", "1E5", "1e-5", "NaN", "-Infinity", "9" * 5000])
def test_a_number_keeps_its_spelling_where_the_peers_write_it_anew(text: str) -> None:
    for spoken in (dialect_toolkit, dialect_json):
        assert spoken.arguments({"name": text}) == ("--name", text)
        assert spoken.variable(text) == text
    assert dialect_toolkit.arguments({"n": f"[{text}]"}) == ("-n", f"[{text}]")
    assert dialect_json.variable(f'{{"a":{text}}}') == f'{{"a": {text}}}'


def test_argv_of_the_drivers_is_decoded_twice_and_their_variables_once() -> None:
    assert dialect_json.arguments({"name": '"[1,2]"'}) == ("--name", "[1, 2]")
    assert dialect_json.variable('"[1,2]"') == "[1,2]"


@pytest.mark.parametrize("text", ['"\\u0000"', '"\\ud800"', "[" * 500 + "]" * 500, '{"a":"\\u0000"}'])
def test_what_decodes_to_something_no_argument_can_carry_stays_as_it_was_written(text: str) -> None:
    for spoken in (dialect_toolkit, dialect_json):
        for written in (*spoken.arguments({"name": text}), spoken.variable(text)):
            assert "\0" not in written
            written.encode()
    if not text.startswith("{"):
        assert dialect_toolkit.arguments({"name": text})[1] == dialect_json.arguments({"name": text})[1] == text


def test_what_clients_tell_the_container_is_no_argument_in_either_dialect() -> None:
    """The drivers would pass it on, but ModelTrainer sends them none of it: only its tuner does, to the image."""
    told = {
        "sagemaker_program": "train.py",
        "sagemaker_submit_directory": "s3://b/sourcedir.tar.gz",
        "sagemaker_torch_distributed_enabled": "true",
        "_tuning_objective_metric": "val:loss",
        "lr": "0.1",
    }
    for spoken in ("toolkit", "json"):
        job = replace(make_job(told), settings=Settings(dialect=spoken))
        found, _ = variables(job)

        assert environ.arguments(job) == ("--lr", "0.1")
        assert json.loads(found["SM_HPS"]) == {"lr": 0.1}
        assert [name for name in found if name.startswith("SM_HP_")] == ["SM_HP_LR"]
        assert json.loads(found["SM_FRAMEWORK_PARAMS"]) == {"sagemaker_torch_distributed_enabled": True}
        assert job.hyperparameters.for_script.texts == told


def test_a_name_that_one_peer_alone_has_is_there_in_both_dialects() -> None:
    for spoken in ("toolkit", "json"):
        found, _ = variables(replace(make_job(), settings=Settings(dialect=spoken)))

        assert found["SM_HOST_COUNT"] == "2"
        assert found["SM_MODULE_NAME"] == "train"
        assert found["SM_USER_ARGS"] == "[]"
