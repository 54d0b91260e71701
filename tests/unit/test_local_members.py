"""The table that decides for every member of a request."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest

from trainkit.local import members, model, training_rules
from trainkit.local.members import Fate


def paths(name: str, *, above: str = "") -> Iterator[str]:
    """Every member of a shape, and of those in it: `InputDataConfig[].DataSource.S3DataSource.S3Uri`."""
    shapes = model.shapes()
    shape = shapes[name]
    if shape["type"] == "structure":
        for member, inner in shape["members"].items():
            path = f"{above}.{member}" if above else member
            below = list(paths(inner["shape"], above=path))
            yield from below or [path]
    elif shape["type"] == "list":
        yield from paths(shape["member"]["shape"], above=f"{above}[]")


TABLES = {
    "CreateTrainingJobRequest": members.TRAINING,
    "CreateHyperParameterTuningJobRequest": members.TUNING,
}


@pytest.mark.parametrize("shape", TABLES)
def test_every_member_that_the_api_knows_is_decided_for(shape: str) -> None:
    undecided = [path for path in paths(shape) if members.fate(path, TABLES[shape]) is None]
    assert undecided == []


@pytest.mark.parametrize("shape", TABLES)
def test_no_line_is_about_a_member_that_the_api_does_not_know(shape: str) -> None:
    known = set()
    for path in paths(shape):
        words = path.split(".")
        known |= {".".join(words[: count + 1]).removesuffix("[]") for count in range(len(words))}
        known |= {".".join(words[: count + 1]) for count in range(len(words))}
    assert sorted(set(TABLES[shape]) - known) == []


def said(request: Mapping[str, object], table: Mapping[str, Fate] = members.TRAINING) -> list[str]:
    return [one.key for one in members.judge(request, table)]


def test_a_shuffle_that_changes_nothing_is_told_with_its_channel() -> None:
    shuffled = {"ChannelName": "a", "ShuffleConfig": {"Seed": 1}}
    definition = {
        "AlgorithmSpecification": {"TrainingImage": "image", "TrainingInputMode": "FastFile"},
        "InputDataConfig": [shuffled, {**shuffled, "ChannelName": "b", "InputMode": "Pipe"}, {"ChannelName": "c"}],
    }
    for request in (definition, {"TrainingJobDefinition": definition}):
        told = training_rules.notes(request, members.TRAINING)
        assert told == ["ShuffleConfig of a: FastFile channels have no order"]


def test_what_is_null_false_or_empty_is_not_there() -> None:
    assert said({"VpcConfig": None, "RemoteDebugConfig": {"EnableRemoteDebug": False}, "ProfilerConfig": {}}) == []
    assert said({"RemoteDebugConfig": {"EnableRemoteDebug": True}}) == ["RemoteDebugConfig"]


def test_a_member_deep_inside_is_named_with_its_place() -> None:
    channel = {"DataSource": {"FileSystemDataSource": {"FileSystemId": "fs-12345678"}}}
    assert said({"InputDataConfig": [{}, channel]}) == ["InputDataConfig[1].DataSource.FileSystemDataSource"]
    definition = {"TrainingJobDefinitions": [{"InputDataConfig": [channel]}]}
    assert said(definition, members.TUNING) == [
        "TrainingJobDefinitions[0].InputDataConfig[0].DataSource.FileSystemDataSource"
    ]
