"""The folders that SageMaker looks into afterwards: they are there, whatever the script does."""

from __future__ import annotations

import os
from pathlib import Path

from trainkit.errors import TrainkitError


def make(folder: Path) -> None:
    """Make it, with those above it. Raises TrainkitError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainkitError(
            f"cannot make {folder}: {error.strerror}. uid {os.geteuid()} must be able to write there: SageMaker mounts "
            f"it writable for root"
        ) from None
