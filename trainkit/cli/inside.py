"""`trainkit data` and `trainkit checkpoint`: commands of the inside wing.

The wings meet in processes only: so this process becomes the other program. What it takes and says is in
trainkit/data/__main__.py and trainkit/checkpoint/__main__.py.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn


def become(room: str, argv: Sequence[str]) -> NoReturn:
    """Never returns: the exit code, the terminal and its signals are the other program's."""
    # `-m` would look for modules in the folder we are in first, where data lies, and a random.py may.
    safe = () if {"", str(Path.cwd())} & {*sys.path} else ("-P",)
    os.execv(sys.executable, [sys.executable, *safe, "-m", f"trainkit.{room}", *argv])
