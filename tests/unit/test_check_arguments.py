"""The script's parser beside the hyperparameters: what argparse would refuse, and what it takes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from trainkit.check import code
from trainkit.check.facts import Facts
from trainkit.check.request import TRAINING, Call
from trainkit.check.subjects import arguments

PARSER = """\
import argparse
parser = argparse.ArgumentParser()
parser.add_argument("--learning-rate", type=float, default=0.1)
parser.add_argument("-b", "--batch", type=int, default=8)
parser.add_argument("--name", default="x")
parser.add_argument("--layers", type=int, nargs="+")
parser.add_argument("--precision", type=int, choices=[16, 32])
parser.add_argument("--fast", action="store_true")
given = parser.{parse}()
"""


def found(folder: Path, script: str, **texts: str) -> list[str]:
    (folder / "train.py").write_text(script)
    call = Call(TRAINING, {"HyperParameters": {name.replace("__", "-"): text for name, text in texts.items()}})
    facts = Facts((call,), code.read(folder / "train.py"))
    return sorted(finding.code for finding in arguments.arguments(facts))


@pytest.mark.parametrize(
    "texts",
    [
        {"learning_rate": "0.1"}, {"learning__rate": "0.1"}, {"learning__rate": "-1e-3"}, {"learn": "1"}, {"le": "x"},
        {"l": "1"}, {"batch": "8.0"}, {"batch": " 8"}, {"batch": "1_000"}, {"batch": "-8"}, {"b": "8"}, {"name": ""},
        {"name": "-x"}, {"name": "--batch"}, {"name": "a b"}, {"name": "-a b"}, {"name": "-1"}, {"precision": "16"},
        {"precision": "8"}, {"layers": "3"}, {"layers": "[1, 2]"}, {"fast": "true"}, {"fas": "1"}, {"epochs": "3"},
        {"learning__rate": "nan"}, {"batch": "1e3"}, {"batch": "0x10"}, {"name": "None"}, {"learning__rate": ".5"},
    ],
    ids=str,
)  # fmt: skip
def test_it_judges_as_argparse_does(texts, tmp_path):
    ours = found(tmp_path, PARSER.format(parse="parse_args"), **texts)

    argv = [part for name, text in texts.items() for part in (f"--{name.replace('__', '-')}", text)]
    ended = subprocess.run([sys.executable, tmp_path / "train.py", *argv], capture_output=True, text=True, check=False)
    assert bool(ours) == (ended.returncode == 2), (ours, ended.stderr)


def test_unknown_arguments_are_let_be_where_the_script_does_and_where_not_all_are_known(tmp_path):
    assert found(tmp_path, PARSER.format(parse="parse_known_args"), epochs="3") == []
    unknown = "\nfor name in names:\n    parser.add_argument(name)\n"
    assert found(tmp_path, PARSER.format(parse="parse_args") + unknown, epochs="3") == []
    assert found(tmp_path, PARSER.format(parse="parse_args") + unknown, batch="x") == ["argument-type"]


def test_what_version_2_of_the_sdk_quotes_is_judged_as_the_script_gets_it(tmp_path):
    sdk = {"sagemaker_program": '"train.py"', "sagemaker_job_name": '"job"'}

    assert found(tmp_path, PARSER.format(parse="parse_args"), **sdk, batch='"8"', name='"x"') == []
    assert found(tmp_path, PARSER.format(parse="parse_args"), **sdk, batch='"eight"') == ["argument-type"]


def test_fields_of_a_dataclass_are_arguments_and_those_of_a_library_are_not_known(tmp_path):
    script = """\
from dataclasses import dataclass, field
from typing import Optional
from transformers import HfArgumentParser, TrainingArguments

@dataclass
class Data:
    path: str
    length: Optional[int] = field(default=None)
    fast: bool = False

parser = HfArgumentParser({classes})
data = parser.parse_args_into_dataclasses()
"""
    alone = script.format(classes="Data")
    assert found(tmp_path, alone, path="x", length="3", fast="true") == []
    assert found(tmp_path, alone, path="x", length="three", fast="perhaps") == ["argument-type", "argument-type"]
    assert found(tmp_path, alone, paht="x") == ["argument-missing", "argument-unknown"]
    assert found(tmp_path, script.format(classes="(Data, TrainingArguments)"), path="x", num_train_epochs="3") == []
