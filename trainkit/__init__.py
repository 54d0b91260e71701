"""What a train.py imports. Names are fetched when they are asked for, so that `import trainkit` costs nothing.

job = trainkit.job()          this rank's view of the job: hyperparameters, channels, ranks, directories
trainkit.load_model(m, dir)   reads back what job.save_model wrote
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainkit.artifact.model import load_model
    from trainkit.errors import TrainkitError
    from trainkit.job.context import Context

    def job() -> Context: ...


__version__ = "0.1.0"
__all__ = ["Context", "TrainkitError", "__version__", "job", "load_model"]

_HOMES = {
    "Context": "trainkit.job.context",
    "TrainkitError": "trainkit.errors",
    "load_model": "trainkit.artifact.model",
}


def __getattr__(name: str) -> Any:
    if name == "job":
        return importlib.import_module("trainkit.job")  # a package that can be called: see there
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'trainkit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
