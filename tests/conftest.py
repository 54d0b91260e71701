"""What all tests share."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers.s3 import s3, s3_server

__all__ = ["open_path", "s3", "s3_server"]


@pytest.fixture
def open_path() -> Iterator[Path]:
    """A folder that other users may come to. pytest closes its own ones to them, each time that somebody starts it."""
    with tempfile.TemporaryDirectory(prefix="trainkit-test-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)
