"""Start a training job on SageMaker from its API request, with nothing but boto3.

python launchers/sagemaker_boto3.py examples/flights/job.json --image IMAGE --role ROLE_ARN
"""

import argparse
import json
import time
from pathlib import Path

import boto3


def main() -> None:
    parser = argparse.ArgumentParser(description="Start a training job on SageMaker from its API request.")
    parser.add_argument("request", type=Path, help="a CreateTrainingJob request, as JSON")
    parser.add_argument("--image", required=True, help="the image's URI in ECR")
    parser.add_argument("--role", required=True, help="the ARN of the role that the job has")
    given = parser.parse_args()
    request = json.loads(given.request.read_text(encoding="utf-8"))
    # A name can be used once per account and region.
    request["TrainingJobName"] = f"{request['TrainingJobName']}-{time.strftime('%Y-%m-%d-%H-%M-%S', time.gmtime())}"
    request["AlgorithmSpecification"]["TrainingImage"] = given.image
    request["RoleArn"] = given.role
    print(boto3.client("sagemaker").create_training_job(**request)["TrainingJobArn"])


if __name__ == "__main__":
    main()
