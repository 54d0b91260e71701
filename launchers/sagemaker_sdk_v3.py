"""Start a training job with version 3 of the SageMaker Python SDK: python launchers/sagemaker_sdk_v3.py IMAGE ROLE_ARN

ModelTrainer runs the image's `train` only without `source_code`; with it, the SDK's own start script takes its place.
So the script is in the image, or comes as a plain channel `code`; docs/clients.md has the way with `source_code`.
"""

import sys

from sagemaker.core.shapes import OutputDataConfig, StoppingCondition
from sagemaker.train import ModelTrainer
from sagemaker.train.configs import Compute, InputData


def main() -> None:
    image, role = sys.argv[1:]
    trainer = ModelTrainer(
        training_image=image,
        role=role,
        base_job_name="flights",
        compute=Compute(instance_type="ml.c7i.large", instance_count=2, volume_size_in_gb=10),
        hyperparameters={"epochs": 4, "lr": 0.001},
        output_data_config=OutputDataConfig(s3_output_path="s3://my-bucket/models/"),
        stopping_condition=StoppingCondition(max_runtime_in_seconds=3600),
        input_data_config=[
            InputData(channel_name="train", data_source="s3://my-bucket/flights/train/"),
            InputData(channel_name="test", data_source="s3://my-bucket/flights/test/"),
        ],
    )
    trainer.train(wait=False)


if __name__ == "__main__":
    main()
