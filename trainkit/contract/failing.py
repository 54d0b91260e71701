"""Whether this process ends with an error, for what runs in it while it ends and is told no exit code."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def failing() -> bool:
    """Python keeps an error that nobody caught in last_value; what starts a rank writes it to the file."""
    told_in = os.environ.get("TORCHELASTIC_ERROR_FILE")
    return hasattr(sys, "last_value") or bool(told_in and Path(told_in).exists())
