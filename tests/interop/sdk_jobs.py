"""Run by the Python of an environment that has the SageMaker SDK: start jobs as a user would, keep what was asked for.

    python sdk_jobs.py v2|v3 BUCKET SOURCE OUT          # OUT/<job>.json: {"operation": …, "request": {…}}

All calls go to the server that the environment names, but for those of STS, which the SDK sends to AWS itself.
"""

import json
import sys
import warnings
from pathlib import Path
from unittest import mock

warnings.simplefilter("ignore")
import boto3  # noqa: E402
import botocore.client  # noqa: E402

ROLE = "arn:aws:iam::123456789012:role/mine"
IMAGE = "123456789012.dkr.ecr.us-east-1.amazonaws.com/mine:1"
METRICS = [{"Name": "train:loss", "Regex": "loss=([0-9.]+)"}]
HYPERPARAMETERS = {"epochs": 3, "lr": 0.1, "name": "it is $(id)", "flag": True, "sizes": [1, 2]}
"""Without an apostrophe: the drivers of version 3 end at one, in the cloud as here."""
version, bucket, source, out = sys.argv[1], sys.argv[2], sys.argv[3], Path(sys.argv[4])
real = botocore.client.BaseClient._make_api_call
asked = []


def answer(self, operation, request):
    if operation == "GetCallerIdentity":
        return {"Account": "123456789012", "Arn": ROLE}
    if operation == "SimulatePrincipalPolicy":  # the SDK asks whether the role may do all this
        return {"EvaluationResults": []}
    if operation.startswith("Create") and operation.endswith("Job"):
        asked.append({"operation": operation, "request": request})
    return real(self, operation, request)


def v2():
    import sagemaker
    from sagemaker.estimator import Estimator
    from sagemaker.inputs import ShuffleConfig, TrainingInput
    from sagemaker.instance_group import InstanceGroup
    from sagemaker.pytorch import PyTorch
    from sagemaker.tuner import ContinuousParameter, HyperparameterTuner

    session = sagemaker.Session(boto3.Session(region_name="us-east-1"), default_bucket=bucket)
    inputs = {
        "train": TrainingInput(f"s3://{bucket}/data", distribution="ShardedByS3Key", input_mode="FastFile"),
        "val": f"s3://{bucket}/data",
    }
    common = {
        "role": ROLE, "image_uri": IMAGE, "sagemaker_session": session, "hyperparameters": HYPERPARAMETERS,
        "metric_definitions": METRICS,
    }  # fmt: skip
    two = {"instance_count": 2, "instance_type": "ml.m5.xlarge"}
    spot = {"use_spot_instances": True, "max_wait": 7200, "max_run": 3600}
    kept = {"checkpoint_s3_uri": f"s3://{bucket}/kept"}
    yield "own-image", lambda: Estimator(**common, **two, **spot, **kept).fit(inputs, wait=False)
    pipe = TrainingInput(f"s3://{bucket}/data", input_mode="Pipe", shuffle_config=ShuffleConfig(3))
    yield "own-image-pipe", lambda: Estimator(**common, **two, environment={"A": "1"}).fit({"p": pipe}, wait=False)
    code = {"source_dir": source, "entry_point": "train.py", "framework_version": "2.3", "py_version": "py311"}
    torchrun = {"distribution": {"torch_distributed": {"enabled": True}}}
    torch = {**common, "instance_count": 2, "instance_type": "ml.g5.12xlarge"}
    yield "pytorch", lambda: PyTorch(**torch, **code, **torchrun, max_retry_attempts=2).fit(inputs, wait=False)
    groups = [InstanceGroup("data", "ml.m5.large", 1), InstanceGroup("gpu", "ml.m5.xlarge", 2)]
    some = TrainingInput(f"s3://{bucket}/data", instance_groups=["gpu"])
    yield "groups", lambda: PyTorch(**common, **code, instance_groups=groups).fit({"some": some}, wait=False)
    ranges = {"lr": ContinuousParameter(1e-5, 1, "Logarithmic")}
    tuned = {"metric_definitions": METRICS, "objective_type": "Minimize", "max_jobs": 2}
    yield (
        "tuner",
        lambda: HyperparameterTuner(PyTorch(**torch, **code), "train:loss", ranges, **tuned).fit(inputs, wait=False),
    )


def v3():
    from sagemaker.core.helper.session_helper import Session
    from sagemaker.core.parameter import ContinuousParameter
    from sagemaker.core.shapes import CheckpointConfig, MetricDefinition, OutputDataConfig, StoppingCondition
    from sagemaker.train import ModelTrainer
    from sagemaker.train.configs import Compute, InputData, SourceCode
    from sagemaker.train.tuner import HyperparameterTuner

    two = Compute(instance_type="ml.m5.xlarge", instance_count=2, volume_size_in_gb=30)
    spot = Compute(
        instance_type="ml.m5.xlarge", instance_count=2, volume_size_in_gb=30, enable_managed_spot_training=True
    )
    data = [InputData(channel_name="train", data_source=f"s3://{bucket}/data")]
    code = SourceCode(source_dir=source, entry_script="train.py")

    metrics = [MetricDefinition(name=one["Name"], regex=one["Regex"]) for one in METRICS]

    def trainer(name, compute, **more):
        return ModelTrainer(
            training_image=IMAGE, role=ROLE, base_job_name=name, compute=compute, hyperparameters=HYPERPARAMETERS,
            sagemaker_session=Session(boto3.Session(region_name="us-east-1"), default_bucket=bucket),
            output_data_config=OutputDataConfig(s3_output_path=f"s3://{bucket}/out", compression_type="NONE"), **more,
        ).with_metric_definitions(metrics)  # fmt: skip

    limits = StoppingCondition(max_runtime_in_seconds=3600, max_wait_time_in_seconds=7200)
    kept = CheckpointConfig(s3_uri=f"s3://{bucket}/kept", local_path="/opt/ml/checkpoints")
    yield (
        "own-image",
        lambda: trainer("own", spot, stopping_condition=limits, checkpoint_config=kept).train(data, wait=False),
    )
    yield "source-code", lambda: trainer("code", two, source_code=code).train(data, wait=False)
    ranges = {"lr": ContinuousParameter(1e-5, 1, scaling_type="Logarithmic")}
    definitions = {"metric_definitions": METRICS, "objective_type": "Minimize", "max_jobs": 2}
    yield (
        "tuner",
        lambda: HyperparameterTuner(trainer("tune", two, source_code=code), "train:loss", ranges, **definitions).tune(
            data, wait=False
        ),
    )


out.mkdir(exist_ok=True)
with mock.patch.object(botocore.client.BaseClient, "_make_api_call", answer):
    for name, start in {"v2": v2, "v3": v3}[version]():
        asked.clear()
        start()
        (out / f"{name}.json").write_text(json.dumps(asked[-1], default=str))
