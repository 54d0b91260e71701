"""Start a training job with version 2 of the SageMaker Python SDK: python launchers/sagemaker_sdk_v2.py IMAGE ROLE_ARN

Every estimator of version 2 runs the image's `train`. The script is in the image, or comes as a plain channel `code`:
without `entry_point`, which would send it as a bundle that nothing here unpacks.
"""

import sys

from sagemaker.estimator import Estimator


def main() -> None:
    image, role = sys.argv[1:]
    estimator = Estimator(
        image_uri=image,
        role=role,
        base_job_name="flights",
        instance_count=2,
        instance_type="ml.c7i.large",
        hyperparameters={"epochs": 4, "lr": 0.001},
        output_path="s3://my-bucket/models/",
        max_run=3600,
    )
    estimator.fit({"train": "s3://my-bucket/flights/train/", "test": "s3://my-bucket/flights/test/"}, wait=False)


if __name__ == "__main__":
    main()
