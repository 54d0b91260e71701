"""Checks of requests that are wrong in ways nobody thought of: they are told, and nothing breaks."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
from mistakes import base

from trainkit.check import request, table
from trainkit.check.facts import Facts
from trainkit.check.gather import Asked, gather
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


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("pipe.json", "is neither a file nor a directory"),
        ("pipe.py", "is neither a file nor a directory"),
        ("big.json", "has 16,777,217 bytes, and no request or pipeline has more than 16,777,216"),
        ("s3://bucket/job.json", "there is no s3:/bucket/job.json here: copy it to this machine first"),
    ],
)
def test_what_would_be_read_without_end_is_no_target(tmp_path: Path, name: str, said: str) -> None:
    target = Path(name) if "://" in name else tmp_path / name
    if name.startswith("pipe"):
        os.mkfifo(target)
    elif name.startswith("big"):
        target.touch()
        os.truncate(target, (16 << 20) + 1)
    with pytest.raises(UsageError, match=re.escape(said)):
        gather(Asked(target))


def test_a_pipe_among_the_modules_is_passed_over(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.py")
    (tmp_path / "train.py").touch()
    found = gather(Asked(tmp_path / "train.py")).code
    assert found is not None
    assert [module.path.name for module in found.closure] == ["train.py"]


def test_a_finding_about_a_secret_does_not_show_it() -> None:
    made = base.request("training", {"HyperParameters.api_key": 99887766, "Environment": {"HF_TOKEN": ["hf"]}})
    said = [str(found) for found in table.run(Facts((Call(request.TRAINING, made),)))]
    assert any("HyperParameters.api_key: *** must be a string" in one for one in said)
    assert any("Environment.HF_TOKEN: *** must be a string" in one for one in said)
