"""Run by the Python of an environment that has the SDK, version 3: start a job as a user would, keep what was sent.

sdk_v3_client.py trainer|tuner OUT      # OUT/request.json, OUT/sm_drivers/…, OUT/sourcedir.tar.gz
"""

import json
import pathlib
import sys
import warnings

warnings.simplefilter("ignore")
import boto3  # noqa: E402
import botocore.client  # noqa: E402
from sagemaker.core.helper.session_helper import Session  # noqa: E402
from sagemaker.core.shapes import OutputDataConfig  # noqa: E402
from sagemaker.train import ModelTrainer  # noqa: E402
from sagemaker.train.configs import Compute, SourceCode  # noqa: E402
from sagemaker.train.distributed import Torchrun  # noqa: E402

from trainkit.sagemaker import FIRST_PROCESS, Trainkit  # noqa: E402

ROLE = "arn:aws:iam::123456789012:role/mine"
IMAGE = "123456789012.dkr.ecr.eu-west-1.amazonaws.com/stock:7"
kind, out = sys.argv[1], pathlib.Path(sys.argv[2])
real, sent = botocore.client.BaseClient._make_api_call, {}


def keep(self, operation, request):
    if operation in ("CreateTrainingJob", "CreateHyperParameterTuningJob"):
        sent.update(request)
    if operation == "GetCallerIdentity":  # asked of AWS itself, whatever AWS_ENDPOINT_URL says
        return {"Account": "123456789012", "Arn": ROLE}
    return real(self, operation, request)


botocore.client.BaseClient._make_api_call = keep
(out / "src").mkdir(parents=True)
(out / "src/train.py").write_text("print('trains')\n")
trainer = ModelTrainer(
    training_image=IMAGE,
    role=ROLE,
    base_job_name="tk",
    sagemaker_session=Session(boto3.Session(region_name="us-east-1")),
    source_code=SourceCode(source_dir=str(out / "src"), entry_script="train.py"),
    distributed=Trainkit(procs=2, max_restarts=3) if kind == "trainer" else Torchrun(process_count_per_node=2),
    compute=Compute(instance_type="ml.m5.xlarge", instance_count=2, volume_size_in_gb=10),
    hyperparameters={"epochs": 3, "name": "it's"},
    environment=FIRST_PROCESS,
    output_data_config=OutputDataConfig(s3_output_path="s3://tk-bucket/out"),
)
if kind == "trainer":
    trainer.train(wait=False)
else:
    from sagemaker.core.parameter import ContinuousParameter
    from sagemaker.train.tuner import HyperparameterTuner

    HyperparameterTuner(
        model_trainer=trainer,
        objective_metric_name="val:loss",
        hyperparameter_ranges={"lr": ContinuousParameter(1e-5, 1)},
        metric_definitions=[{"Name": "val:loss", "Regex": "val_loss=(.*)"}],
        max_jobs=1,
    ).tune(wait=False)

(out / "request.json").write_text(json.dumps(sent, default=str))
definition = sent.get("TrainingJobDefinition", sent)
s3 = boto3.client("s3")
for channel in definition["InputDataConfig"]:
    bucket, _, prefix = channel["DataSource"]["S3DataSource"]["S3Uri"].removeprefix("s3://").partition("/")
    for entry in s3.list_objects_v2(Bucket=bucket, Prefix=prefix)["Contents"]:
        file = out / channel["ChannelName"] / entry["Key"].removeprefix(prefix).lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        s3.download_file(bucket, entry["Key"], str(file))
