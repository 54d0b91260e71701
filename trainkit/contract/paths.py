"""Every path of the contract, as one value with the root as its only input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

BASE_DIR = "SAGEMAKER_BASE_DIR"


@dataclass(frozen=True, slots=True)
class Paths:
    """The tree that SageMaker lays under `/opt/ml`.

    Source: https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-training-algo.html
    """

    root: Path = Path("/opt/ml")

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Paths:
        # Absolute, since ranks run in another folder than `train`.
        return cls(Path(environ.get(BASE_DIR) or "/opt/ml").absolute())

    @property
    def input(self) -> Path:
        return self.root / "input"

    @property
    def config(self) -> Path:
        return self.root / "input/config"

    @property
    def processing_config(self) -> Path:
        """Processing jobs have theirs here, and not where training jobs do."""
        return self.root / "config"

    @property
    def processing(self) -> Path:
        """Below it lie all inputs and outputs of a processing job."""
        return self.root / "processing"

    @property
    def channels(self) -> Path:
        return self.root / "input/data"

    @property
    def features(self) -> Path:
        """Where a training job makes features of its channels, before its ranks start (features.py)."""
        return self.root / "features"

    @property
    def code(self) -> Path:
        """Where images keep their script; a channel named `code` comes before it."""
        return self.root / "code"

    @property
    def model(self) -> Path:
        return self.root / "model"

    @property
    def output(self) -> Path:
        return self.root / "output"

    @property
    def output_data(self) -> Path:
        return self.root / "output/data"

    @property
    def failure(self) -> Path:
        return self.root / "output/failure"

    @property
    def message(self) -> Path:
        """What the service shows of a processing job, whether it failed or not."""
        return self.root / "output/message"

    @property
    def success(self) -> Path:
        """Not part of the platform's contract, but the toolkit writes it and its users' tests look for it."""
        return self.root / "output/success"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"
