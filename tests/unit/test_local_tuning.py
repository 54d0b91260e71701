"""One trial of a tuning job."""

from __future__ import annotations

import json
import random
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trainkit.errors import ConfigError, UsageError
from trainkit.local import training_rules, tuning

FILE = Path(__file__).parents[1] / "local_requests/sdk-v3-tuner.json"


@pytest.fixture
def job() -> dict[str, Any]:
    """A tuning job as the SDK asks for it."""
    found: dict[str, Any] = json.loads(FILE.read_text())["request"]
    return found


def trial(job: dict[str, Any], seed: int | None = None, **given: str) -> tuning.Trial:
    return tuning.trial(job, given=given, seed=seed, file="job.json")


def test_a_trial_is_a_training_job_with_all_its_hyperparameters(job: dict[str, Any]) -> None:
    made = trial(job, lr="0.001")
    assert training_rules.mistakes(made.request, file="job.json") == []
    hyperparameters = made.request["HyperParameters"]
    assert made.request["TrainingJobName"].startswith("trainkit-261122-0810-001-")
    assert hyperparameters["epochs"] == "3"
    assert (hyperparameters["lr"], hyperparameters["opt"] in ("adam", "sgd")) == ("0.001", True)
    assert 8 <= int(hyperparameters["bs"]) <= 64
    assert hyperparameters["_tuning_objective_metric"] == "val:loss"
    assert made.objective == tuning.Objective("val:loss", "Minimize")
    assert set(made.values) == {"bs", "lr", "opt"}


def test_a_seed_gives_the_same_values_and_a_given_one_moves_no_other(job: dict[str, Any]) -> None:
    assert trial(job, 1).values == trial(job, 1).values != trial(job, 2).values
    assert {**trial(job, 1).values, "lr": "0.01"} == trial(job, 1, lr="0.01").values
    job["HyperParameterTuningJobConfig"]["RandomSeed"] = 2
    assert trial(job).values == trial(job, 2).values


@pytest.mark.parametrize(
    ("scaling", "low", "high", "middle"),
    [
        ("Auto", 0.0, 1.0, (0.4, 0.6)), ("Linear", 0.0, 1.0, (0.4, 0.6)), ("Logarithmic", 1e-4, 1.0, (5e-3, 2e-2)),
        ("ReverseLogarithmic", 0.0, 0.9999, (0.97, 0.998)),
    ],
)  # fmt: skip
def test_values_are_spread_as_the_scale_says(
    job: dict[str, Any], scaling: str, low: float, high: float, middle: tuple[float, float]
) -> None:
    one = {"Name": "x", "MinValue": str(low), "MaxValue": str(high), "ScalingType": scaling}
    ranges = job["HyperParameterTuningJobConfig"]["ParameterRanges"]
    ranges["ContinuousParameterRanges"] = [one]
    drawn = [float(tuning._draw("ContinuousParameterRanges", one, random.Random(n))) for n in range(400)]
    assert all(low <= value <= high for value in drawn)
    assert middle[0] < statistics.median(drawn) < middle[1]
    assert low <= float(trial(job).values["x"]) <= high


Change = Callable[[dict[str, Any]], object]


def ranges(job: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = job["HyperParameterTuningJobConfig"]["ParameterRanges"]
    return found


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda j: ranges(j)["ContinuousParameterRanges"][0].update(MinValue="0"), "above 0 for a Logarithmic scale"),
        (lambda j: ranges(j)["ContinuousParameterRanges"][0].update(MaxValue="nan"), "must be numbers, as strings"),
        (lambda j: ranges(j)["IntegerParameterRanges"][0].update(MinValue="8.5"), "must be whole numbers"),
        (lambda j: ranges(j)["IntegerParameterRanges"][0].update(MinValue="80"), "ends before it begins"),
        (lambda j: ranges(j)["IntegerParameterRanges"][0].update(Name="epochs"), "epochs has two ranges, or is static"),
        (lambda j: j["HyperParameterTuningJobConfig"].update(ParameterRanges={}), "there is nothing to tune"),
        (
            lambda j: j["TrainingJobDefinition"]["AlgorithmSpecification"].pop("MetricDefinitions"),
            "is defined by no MetricDefinitions",
        ),
        (lambda j: j.update(TrainingJobDefinitions=[j["TrainingJobDefinition"]]), "and not both"),
        (
            lambda j: j.update(TrainingJobDefinitions=[j.pop("TrainingJobDefinition")] * 2),
            "are several, and one trial of one runs here",
        ),
        (lambda j: j.update(Autotune={"Mode": "Enabled"}), "Autotune lets AWS choose"),
        (
            lambda j: j["TrainingJobDefinition"]["AlgorithmSpecification"].update(ContainerEntrypoint=["x"]),
            "ContainerEntrypoint is ['x']: is nothing that the API knows",
        ),
        (
            lambda j: j["TrainingJobDefinition"]["InputDataConfig"][0].update(CompressionType="Gzip"),
            "TrainingJobDefinition.InputDataConfig[0].CompressionType is 'Gzip': goes with the mode Pipe only",
        ),
    ],
)  # fmt: skip
def test_a_mistake_is_named(job: dict[str, Any], change: Change, says: str) -> None:
    change(job)
    with pytest.raises(ConfigError) as refused:
        trial(job)
    assert says in str(refused.value)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"lr": "1"}, "must be a number from 1e-05 to 0.01"), ({"bs": "9.5"}, "must be a number from 8 to 64"),
        ({"opt": "lion"}, "is none of adam, sgd"), ({"lt": "1"}, "has no range of that name; it has bs, lr, opt"),
    ],
)  # fmt: skip
def test_a_value_that_no_trial_could_have_is_refused(job: dict[str, Any], given: dict[str, str], says: str) -> None:
    with pytest.raises(UsageError) as refused:
        trial(job, **given)
    assert says in str(refused.value)


def test_of_several_instances_the_trial_takes_the_first(job: dict[str, Any]) -> None:
    definition = job["TrainingJobDefinition"]
    del definition["ResourceConfig"]
    instances = [{"InstanceType": f"ml.m5.{size}", "InstanceCount": 2, "VolumeSizeInGB": 9} for size in ("large", "x")]
    definition["HyperParameterTuningResourceConfig"] = {"InstanceConfigs": instances}
    assert trial(job).request["ResourceConfig"] == instances[0]
