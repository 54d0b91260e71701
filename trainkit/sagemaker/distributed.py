"""`Trainkit`, a DistributedConfig of the SDK: our settings as its fields, and this package as its driver."""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any

import trainkit
from trainkit.contract.drivers import VERSION_KEY, spelled
from trainkit.contract.settings import TABLE
from trainkit.sagemaker import bundle


@cache
def configuration() -> Any:
    """The class. It is made, not written, since the SDK it derives from may be absent, and TABLE has its fields.

    Raises ImportError where the SDK is not installed.
    """
    try:
        base = importlib.import_module("sagemaker.train.distributed").DistributedConfig
    except ImportError as missing:
        raise ImportError(f"Trainkit is for AWS's SDK: pip install 'sagemaker>=3' ({missing})") from missing
    fields = {VERSION_KEY: trainkit.__version__, **{row.name: None for row in TABLE}}
    members = {
        "__module__": __name__,
        "__doc__": "Start the script with trainkit. The fields are its settings (docs/settings.md).",
        "__annotations__": dict.fromkeys(fields, Any),
        **fields,
        "driver_dir": property(lambda self: str(bundle.folder())),
        "driver_script": property(lambda self: bundle.DRIVER),
        "model_post_init": _check,
    }
    return type(base)("Trainkit", (base,), members)


def _check(self: Any, context: Any) -> None:
    """A bad value is said where it was written, and not when the hosts have been paid for."""
    for row in TABLE:
        value = getattr(self, row.name)
        if value is None:
            continue
        try:
            row.parse(spelled(value))
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
            raise ValueError(f"Trainkit({row.name}={value!r}) must be {row.expects}: it sets {row.meaning}") from None
