"""A processing job's status, as DescribeProcessingJob would answer, kept in describe.json as it changes."""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainkit.local.request import Request
from trainkit.local.status import PROCESSING_ARN
from trainkit.storage.commit import write_whole

MESSAGE_LIMIT = 1024
_SHOWN = (
    "ProcessingInputs", "ProcessingOutputConfig", "ProcessingResources", "StoppingCondition", "AppSpecification",
    "NetworkConfig", "RoleArn", "ExperimentConfig",
)  # fmt: skip


class Status:
    """InProgress, Stopping, then Completed, Failed or Stopped: the whole life of it."""

    def __init__(self, request: Request, file: Path) -> None:
        self._request = request
        self._file = file
        self._created = self._changed = _now()
        self._began: str | None = None
        self._ended: str | None = None
        self.value = "InProgress"

    def enter(self, status: str) -> None:
        """Raises OSError where that cannot be written down."""
        self.value, self._changed = status, _now()
        self._write(self.document())

    def began(self) -> None:
        """The containers run."""
        self._began = _now()
        self._write(self.document())

    def ended(self, status: str, *, message: str, reason: str | None) -> dict[str, Any]:
        """How it ended. Raises OSError where that cannot be written down."""
        self.value, self._changed = status, _now()
        self._ended = self._changed
        described = self.document()
        described |= {"ExitMessage": message} if message else {}
        described |= {"FailureReason": reason} if reason else {}
        self._write(described)
        return described

    def document(self) -> dict[str, Any]:
        """The answer as the API would give it now, times in ISO 8601."""
        request = self._request
        described: dict[str, Any] = {
            "ProcessingJobName": request["ProcessingJobName"],
            "ProcessingJobArn": arn(request),
            "ProcessingJobStatus": self.value,
            **{name: request[name] for name in _SHOWN if request.get(name) is not None},
            "Environment": dict(request.get("Environment") or {}),
            "CreationTime": self._created,
            "LastModifiedTime": self._changed,
        }
        described |= {"ProcessingStartTime": self._began} if self._began else {}
        described |= {"ProcessingEndTime": self._ended} if self._ended else {}
        return described

    def _write(self, described: dict[str, Any]) -> None:
        write_whole(self._file, json.dumps(described, indent=2) + "\n")


def arn(request: Request) -> str:
    return f"{PROCESSING_ARN}{request['ProcessingJobName']}"


def exit_message(messages: Sequence[bytes]) -> str:
    """What the service makes of the hosts' messages: joined, then cut to 1 KB. Raises UnicodeDecodeError."""
    joined = b"".join(messages)
    joined.decode("utf-8")
    return joined[:MESSAGE_LIMIT].decode("utf-8", "ignore")


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat()
