"""What is done here with every member of the requests that start training jobs: nothing is left out without a word.

A member is done, or done in part (it is said in how far), or means nothing on this machine (said too, where a person
could think otherwise), or refuses the job. Where a member is not listed, the one above it speaks for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple


class Refused(NamedTuple):
    """The job cannot run here with it."""

    problem: str
    remedy: str


class Noted(NamedTuple):
    """The job runs, and the person is told this."""

    text: str


DONE = "done"
"""It has its effect here."""
KEPT = "kept"
"""It has no effect that a job could see: it is checked, and stands in describe.json."""

Fate = str | Refused | Noted

_JUMPSTART = Refused("is a model or data set of a hub, which is not here", "Give the data as an S3DataSource")
_PLAN = Noted("capacity is not reserved here")

COMMON: Mapping[str, Fate] = {
    "AlgorithmSpecification.TrainingImage": DONE,  # said by the command itself: this machine's Python stands for it
    "AlgorithmSpecification.AlgorithmName": Refused(
        "is an algorithm that AWS runs, and not here", "Name a TrainingImage: your own code runs in its place"
    ),
    "AlgorithmSpecification.TrainingInputMode": DONE,
    "AlgorithmSpecification.MetricDefinitions": DONE,
    "RoleArn": KEPT,
    "InputDataConfig": DONE,
    "InputDataConfig[].ContentType": DONE,
    "InputDataConfig[].DataSource.S3DataSource.ModelAccessConfig": _JUMPSTART,
    "InputDataConfig[].DataSource.S3DataSource.HubAccessConfig": _JUMPSTART,
    "InputDataConfig[].DataSource.FileSystemDataSource": Refused(
        "is a file system (EFS or FSx), which is not mounted here", "Give its folder as an S3DataSource: a path will do"
    ),
    "InputDataConfig[].DataSource.DatasetSource": _JUMPSTART,
    "OutputDataConfig": DONE,
    "OutputDataConfig.KmsKeyId": Noted("KmsKeyId: results are not encrypted here"),
    "ResourceConfig.InstanceType": DONE,
    "ResourceConfig.InstanceCount": DONE,
    "ResourceConfig.InstanceGroups": DONE,
    "ResourceConfig.VolumeSizeInGB": KEPT,  # every request has it
    "ResourceConfig.VolumeKmsKeyId": Noted("VolumeKmsKeyId: this machine's disk is as it is"),
    "ResourceConfig.KeepAlivePeriodInSeconds": Noted("KeepAlivePeriodInSeconds: there is nothing to keep warm here"),
    "ResourceConfig.TrainingPlanArn": _PLAN,
    "ResourceConfig.InstancePlacementConfig": _PLAN,
    "ResourceConfig.InstancePreferences": Refused(
        "leaves the instance type open, which is not decided here", "Write InstanceType and InstanceCount"
    ),
    "ResourceConfig.SelectedInstanceType": KEPT,
    "ResourceConfig.SelectedInstanceCount": KEPT,
    "VpcConfig": Noted("VpcConfig: hosts have this machine's network"),
    "StoppingCondition.MaxRuntimeInSeconds": DONE,
    "StoppingCondition.MaxWaitTimeInSeconds": DONE,
    "StoppingCondition.MaxPendingTimeInSeconds": KEPT,
    "EnableNetworkIsolation": DONE,
    "EnableInterContainerTrafficEncryption": Noted(
        "EnableInterContainerTrafficEncryption: traffic stays on this machine"
    ),
    "EnableManagedSpotTraining": DONE,
    "CheckpointConfig": DONE,
    "RetryStrategy": DONE,
    "Environment": DONE,
}

TRAINING: Mapping[str, Fate] = {
    **COMMON,
    "TrainingJobName": DONE,
    "HyperParameters": DONE,
    "AlgorithmSpecification.EnableSageMakerMetricsTimeSeries": KEPT,
    "AlgorithmSpecification.ContainerEntrypoint": DONE,
    "AlgorithmSpecification.ContainerArguments": DONE,
    "AlgorithmSpecification.TrainingImageConfig": Refused(
        "says how to pull the image, and no image is pulled here", "Leave it out of the request that runs here"
    ),
    "Tags": KEPT,
    "DebugHookConfig": Noted("DebugHookConfig: debughookconfig.json is laid; what a hook saves stays in the host"),
    "DebugRuleConfigurations": Noted("DebugRuleConfigurations: no rule is evaluated here"),
    "TensorBoardOutputConfig": DONE,
    "ExperimentConfig": Noted("ExperimentConfig: nothing is recorded in SageMaker Experiments"),
    "ProfilerConfig": Noted("ProfilerConfig: nothing is profiled here"),
    "ProfilerRuleConfigurations": Noted("ProfilerRuleConfigurations: no rule is evaluated here"),
    "RemoteDebugConfig": Noted("RemoteDebugConfig: hosts are processes here, and pdb works in them"),
    "InfraCheckConfig": Noted("InfraCheckConfig: this machine is not checked"),
    "SessionChainingConfig": KEPT,
    "ServerlessJobConfig": Refused("is a job without a container, which AWS alone runs", "Run a job with an image"),
    "MlflowConfig": Noted("MlflowConfig: nothing is recorded in MLflow"),
    "ModelPackageConfig": Noted("ModelPackageConfig: no model package is registered here"),
}

_DEFINITION: Mapping[str, Fate] = {
    **COMMON,
    "DefinitionName": DONE,
    "TuningObjective": DONE,
    "HyperParameterRanges": DONE,
    "StaticHyperParameters": DONE,
    "HyperParameterTuningResourceConfig": DONE,
    "HyperParameterTuningResourceConfig.VolumeKmsKeyId": KEPT,
}
_CONFIG = "HyperParameterTuningJobConfig"
TUNING: Mapping[str, Fate] = {
    "HyperParameterTuningJobName": DONE,
    f"{_CONFIG}.Strategy": Noted("Strategy: of a tuning job one trial runs here; its values are drawn, not chosen"),
    f"{_CONFIG}.StrategyConfig": KEPT,
    f"{_CONFIG}.HyperParameterTuningJobObjective": DONE,
    f"{_CONFIG}.ResourceLimits": KEPT,
    f"{_CONFIG}.ParameterRanges": DONE,
    f"{_CONFIG}.TrainingJobEarlyStoppingType": Noted(
        "TrainingJobEarlyStoppingType: the one trial is not stopped early"
    ),
    f"{_CONFIG}.TuningJobCompletionCriteria": KEPT,
    f"{_CONFIG}.RandomSeed": DONE,
    "WarmStartConfig": Noted("WarmStartConfig: nothing is learnt from earlier tuning jobs here"),
    "Tags": KEPT,
    "Autotune": Refused("lets AWS choose ranges and limits", "Write ParameterRanges"),
    **{
        f"{definition}.{name}": fate
        for definition in ("TrainingJobDefinition", "TrainingJobDefinitions[]")
        for name, fate in _DEFINITION.items()
    },
}


class Told(NamedTuple):
    """A member of a request that somebody must hear about: the path in it, and what there is to say."""

    key: str
    value: Any
    fate: Refused | Noted


def judge(request: Mapping[str, Any], table: Mapping[str, Fate]) -> list[Told]:
    """What of `request` is refused, and what is to be said. Members that are null are not there."""
    return list(_judge(request, table, key="", shape=""))


def fate(path: str, table: Mapping[str, Fate]) -> Fate | None:
    """What happens with the member `path` (lists as `Name[]`), by its own line or that of one above it."""
    while path and path not in table:
        path = path.removesuffix("[]") if path.endswith("[]") else path.rpartition(".")[0]
    return table.get(path)


def _judge(value: Any, table: Mapping[str, Fate], *, key: str, shape: str) -> Iterator[Told]:
    found = table.get(shape)
    if isinstance(found, (Refused, Noted)):
        if any(value.values()) if isinstance(value, dict) else value not in (None, False, []):
            yield Told(key, value, found)
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from _judge(
                inner, table, key=f"{key}.{name}" if key else name, shape=f"{shape}.{name}" if shape else name
            )
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _judge(inner, table, key=f"{key}[{index}]", shape=f"{shape}[]")
