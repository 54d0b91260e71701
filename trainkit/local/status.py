"""The job's status, shaped like the answer to DescribeTrainingJob."""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainkit.local.request import Request
from trainkit.storage.commit import write_whole

REASON_LIMIT = 1024
INTERNAL_ERROR = "InternalServerError: We encountered an internal error. Please try again."
"""What the service says where a host of its own was lost, once it has tried as often as it was told to."""
ARN = "arn:aws:sagemaker:local:000000000000:training-job/"
PROCESSING_ARN = "arn:aws:sagemaker:local:000000000000:processing-job/"
_MESSAGES = {
    "Starting": "Preparing the hosts for training",
    "Downloading": "Downloading input data",
    "Training": "Training image download completed. Training in progress.",
    "Stopping": "Stopping the training job",
    "Uploading": "Uploading generated training model",
    "Completed": "Training job completed",
    "Failed": "Training job failed",
    "Stopped": "Training job stopped",
    "MaxRuntimeExceeded": "Training job runtime exceeded MaxRuntimeInSeconds provided",
    "MaxWaitTimeExceeded": "Training job waited and ran longer than MaxWaitTimeInSeconds provided",
    "Interrupted": "Training job was interrupted, as its Spot capacity was taken back",
    "Restarting": "Restarting the training job after an internal error",
}
_ENDED = {
    "Completed": "Completed", "Failed": "Failed", "Stopped": "Stopped",
    "MaxRuntimeExceeded": "Stopped", "MaxWaitTimeExceeded": "Stopped",
}  # fmt: skip


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


@dataclass(slots=True)
class Status:
    """Where the job stands, and every step it took there."""

    request: Request
    file: Path
    """It always says how things stand."""
    created: datetime.datetime = field(default_factory=_now)
    transitions: list[dict[str, Any]] = field(default_factory=list)

    def enter(self, secondary: str) -> None:
        """The next step of the service's life cycle. Raises OSError where it cannot be written down."""
        now = _now()
        if self.transitions:
            self.transitions[-1]["EndTime"] = now.isoformat()
        self.transitions.append(
            {"Status": secondary, "StartTime": now.isoformat(), "StatusMessage": _MESSAGES[secondary]}
        )
        if secondary not in _ENDED:
            self.write(self.document(model=None, reason=None, metrics={}))

    def write(self, document: Mapping[str, Any]) -> None:
        """Raises OSError."""
        write_whole(self.file, json.dumps(document, indent=2, allow_nan=False) + "\n")

    @property
    def secondary(self) -> str:
        return str(self.transitions[-1]["Status"]) if self.transitions else "Starting"

    @property
    def primary(self) -> str:
        return _ENDED.get(self.secondary, "Stopping" if self.secondary == "Stopping" else "InProgress")

    def document(self, *, model: str | None, reason: str | None, metrics: Mapping[str, float]) -> dict[str, Any]:
        """The answer as the API would give it, times in ISO 8601."""
        request = self.request
        began = next((t["StartTime"] for t in self.transitions if t["Status"] == "Training"), None)
        described: dict[str, Any] = {
            "TrainingJobName": request["TrainingJobName"],
            "TrainingJobArn": arn(request),
            "TrainingJobStatus": self.primary,
            "SecondaryStatus": self.secondary,
            **{key: value for key, value in request.items() if key not in ("TrainingJobName", "Environment")},
            "Environment": dict(request.get("Environment") or {}),
            "CreationTime": self.created.isoformat(),
            "LastModifiedTime": _now().isoformat(),
            "SecondaryStatusTransitions": self.transitions,
            "FinalMetricDataList": [
                {"MetricName": name, "Value": value, "Timestamp": _now().isoformat()}
                for name, value in metrics.items()
                if math.isfinite(value)  # JSON has no others
            ],
        }
        if began:
            end = self.transitions[-1]["StartTime"]
            seconds = datetime.datetime.fromisoformat(end) - datetime.datetime.fromisoformat(began)
            described |= {"TrainingStartTime": began, "TrainingEndTime": end}
            described["TrainingTimeInSeconds"] = described["BillableTimeInSeconds"] = round(seconds.total_seconds())
        if model:
            described["ModelArtifacts"] = {"S3ModelArtifacts": model}
        if reason:
            described["FailureReason"] = reason
        return described


def arn(request: Request) -> str:
    return f"{ARN}{request['TrainingJobName']}"


def failure_reason(text: str | None, exit_code: int) -> str:
    """What the service makes of a failure file: at most 1,024 characters with its own words."""
    suffix = f", exit code: {exit_code}"
    head = f"AlgorithmError: {text}" if text else "AlgorithmError: "
    return head[: REASON_LIMIT - len(suffix)] + suffix
