"""A file with an API request: which one, and its content.

{"TrainingJobName": …}  ·  {"HyperParameterTuningJobName": …}  ·  {"ProcessingJobName": …}
each bare, or as {"operation": "CreateTrainingJob", "request": {…}}
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trainkit.contract.document import DEPTH, too_deep
from trainkit.errors import UsageError

TRAINING, TUNING, PROCESSING = "CreateTrainingJob", "CreateHyperParameterTuningJob", "CreateProcessingJob"
_NAMED = {TRAINING: "TrainingJobName", TUNING: "HyperParameterTuningJobName", PROCESSING: "ProcessingJobName"}
"""What tells one from the other."""
_NAMELESS = {
    TRAINING: "AlgorithmSpecification", TUNING: "HyperParameterTuningJobConfig", PROCESSING: "AppSpecification",
}  # fmt: skip
"""The same, where the name is forgotten."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A request and where it stands."""

    operation: str
    request: Mapping[str, Any]
    file: Path

    def named(self, default: str) -> Loaded:
        """The same with a name, which the requests of a pipeline's steps do not have."""
        return replace(self, request={_NAMED[self.operation]: default, **self.request})


def load(file: Path) -> Loaded:
    """Read it. Raises UsageError where there is none that runs here."""
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{file} is no JSON: {error}") from None
    request = raw.get("request", raw) if isinstance(raw, dict) else raw
    if not isinstance(request, dict) or too_deep(request):
        raise UsageError(f"{file} holds no request: it must be an object, {DEPTH} levels deep at most")
    said = raw.get("operation") if "request" in raw else None
    if said is not None and said not in _NAMED:
        raise UsageError(f"{file} is a request for {said}: here run {', '.join(_NAMED)}")
    if isinstance(request.get("Steps"), list):
        raise UsageError(f"{file} is a pipeline: write the Arguments of one of its steps into a file, and run that")
    for names in (_NAMED, _NAMELESS):
        for operation, name in names.items():
            if said == operation or (said is None and name in request):
                return Loaded(operation, request, file)
    raise UsageError(f"{file} holds no request that runs here: it has none of {', '.join(_NAMED.values())}")
