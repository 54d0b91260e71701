"""`trainkit checkpoint`: look at checkpoints where they lie, prove them whole, and carry models in and out.

Checkpoints are the inside wing's, and the wings meet in processes only: so this process becomes that one. What it takes
and says is in trainkit/checkpoint/__main__.py.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn


def main(argv: Sequence[str]) -> NoReturn:
    """Never returns: the exit code, the terminal and its signals are the other program's."""
    # `-m` would look for modules in the folder we are in first, where checkpoints lie, and a random.py may.
    safe = () if {"", str(Path.cwd())} & {*sys.path} else ("-P",)
    os.execv(sys.executable, [sys.executable, *safe, "-m", "trainkit.checkpoint", *argv])
