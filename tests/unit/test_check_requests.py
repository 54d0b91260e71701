"""Checks of requests that are wrong in ways nobody thought of: they are told, and nothing breaks."""

from __future__ import annotations

from typing import Any

import pytest
from mistakes import base

from trainkit.check import request, table
from trainkit.check.facts import Facts
from trainkit.check.request import Call
from trainkit.cli import check
from trainkit.errors import UsageError

ODD = (None, True, -1, "", "s3://", [], {}, [None], [[{}]], {"Get": "x"}, {"A": [[]]}, [{"Name": []}], "x" * 3000)
OPERATIONS = {"training": request.TRAINING, "tuning": request.TUNING, "processing": request.PROCESSING}


def paths(value: Any, path: str = "") -> list[str]:
    """The way to every member of a request."""
    if isinstance(value, dict):
        return [way for name, inner in value.items() for way in [f"{path}.{name}", *paths(inner, f"{path}.{name}")]]
    if isinstance(value, list):
        return [way for i, inner in enumerate(value) for way in [f"{path}[{i}]", *paths(inner, f"{path}[{i}]")]]
    return []


@pytest.mark.parametrize("kind", OPERATIONS)
def test_no_value_in_any_place_of_a_request_breaks_a_check(kind):
    for path in paths(base.REQUESTS[kind]):
        for value in ODD:
            made = base.request(kind, {path.lstrip("."): value})
            for found in table.run(Facts((Call(OPERATIONS[kind], made),))):
                assert str(found)


def test_a_file_that_holds_no_request_is_refused(tmp_path):
    for text in ("[]", "{", '{"A": 1}', "[" * 10_000):
        file = tmp_path / "job.json"
        file.write_text(text)
        with pytest.raises(UsageError):
            request.load(file)


def test_a_target_of_no_kind_is_refused(tmp_path):
    (tmp_path / "notes.txt").touch()
    for argv in (
        [],
        [str(tmp_path / "notes.txt")],
        [str(tmp_path / "gone.py")],
        ["--image-root", str(tmp_path / "no")],
    ):
        with pytest.raises(UsageError):
            check.main(argv)


def test_a_flag_changes_a_hyperparameter_of_the_request(tmp_path, capsys):
    code = base.folder(tmp_path, {**base.FILES, "job.json": __import__("json").dumps(base.REQUEST)})

    assert check.main([str(code / "job.json")]) == 0
    assert check.main([str(code / "job.json"), "--hp", "epochs=many"]) == 1
    assert "HyperParameters.epochs: is 'many'" in capsys.readouterr().out


def test_a_pipelines_steps_are_checked_and_what_it_fills_in_later_is_let_be(tmp_path, capsys):
    import json

    step = {key: value for key, value in base.REQUEST.items() if key != "TrainingJobName"}
    step = json.loads(json.dumps(step))
    step["InputDataConfig"][0]["DataSource"]["S3DataSource"]["S3Uri"] = {"Get": "Parameters.Data"}
    step["InputDataConfig"][0]["InputMode"] = "Fast"
    file = tmp_path / "pipeline.json"
    file.write_text(
        json.dumps({"Version": "2020-12-01", "Steps": [{"Name": "A", "Type": "Training", "Arguments": step}]})
    )

    assert check.main([str(file)]) == 1
    told = capsys.readouterr().out
    assert "Steps[0].Arguments.InputDataConfig[0].InputMode: 'Fast'" in told
    assert told.count("[api-") == 1
