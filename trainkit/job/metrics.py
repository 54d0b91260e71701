r"""One line per record on stdout, one JSON object per record in metrics.jsonl, and the regex that finds a value again.

    trainkit.metric step=120 loss=0.345 lr=1e-05
    {"step": 120, "time": 1750000000.0, "loss": 0.345, "lr": 1e-05}

Numbers are spelled so that reading them back gives the same number. The line may get a prefix on its way to the log.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainkit.errors import StorageError
from trainkit.storage.store import remedy

FILE = "metrics.jsonl"
REGEX_LIMIT = 500
"""Characters of a MetricDefinition's Regex that the API takes."""

Number = int | float
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.:/-]*")
_RESERVED = ("step", "time")
_VALUE = r"(-?(?:[0-9]+(?:\.[0-9]+)?(?:e[-+]?[0-9]+)?|nan|inf))"


def numbers(values: Mapping[str, object]) -> dict[str, Number]:
    """The values as Python numbers; those of numpy and torch through their .item().

    Raises TypeError for a value that is no single number, ValueError for a name that no regex could find.
    """
    for name in values:
        if not _NAME.fullmatch(name) or name in _RESERVED:
            raise ValueError(
                f"job.log: {name!r} is no name for a metric; use letters, digits and _ . : / - after a letter or _, "
                f"and none of {', '.join(_RESERVED)}"
            )
    return {name: _number(name, value) for name, value in values.items()}


def _number(name: str, value: object) -> Number:
    item = getattr(value, "item", None)
    if callable(item):
        # Asked first, so that an error of .item() is the device's own, and passes as it is.
        if (count := _count(value)) != 1:
            raise TypeError(f"job.log: {name} must be a single number, not {count} of them; log its .mean()")
        value = item()
    if isinstance(value, bool):
        return int(value)
    if not isinstance(value, int | float):
        raise TypeError(f"job.log: {name} must be a number, not {type(value).__name__}")
    try:
        float(value)
    except OverflowError:
        raise ValueError(f"job.log: {name} is larger than any float; log its logarithm") from None
    return value


def _count(value: Any) -> int:
    """torch says numel(), and numpy size; what has neither is one."""
    numel = getattr(value, "numel", None)
    return int(numel() if callable(numel) else getattr(value, "size", 1))


def spell(value: Number) -> str:
    """The shortest text that reads back as the same number: `1e-05`, `nan`, `-inf`, `3`."""
    return repr(float(value)) if isinstance(value, float) else str(int(value))


def line(*, step: int, values: Mapping[str, Number]) -> str:
    return " ".join(["trainkit.metric", f"step={step}", *(f"{name}={spell(value)}" for name, value in values.items())])


def record(*, step: int, time: float, values: Mapping[str, Number]) -> str:
    """The same as JSON, where NaN and the infinities are strings, since JSON has no numbers for them."""
    return json.dumps({"step": step, "time": time, **{name: _json(value) for name, value in values.items()}})


def _json(value: Number) -> Number | str:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def append(path: Path, text: str, *, fresh: bool = False) -> None:
    """Add one line, in one write: a reader, or a restarted job, never meets half of it. `fresh` begins a new file."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = f"{text}\n".encode()
        with path.open("wb" if fresh else "ab", buffering=0) as out:
            if out.write(whole) < len(whole):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        raise StorageError(f"metrics cannot be written to {path}: {error.strerror}. {remedy(error)}.") from error


def definition(metric: str, *, name: str | None = None) -> dict[str, str]:
    """The MetricDefinition that finds `metric` in the lines of job.log. `name` is what AWS shall call it.

        definition("loss", name="train:loss")

    Raises ValueError for a name that job.log refuses too, or that makes the regex longer than the API takes.
    """
    if not _NAME.fullmatch(metric) or metric in _RESERVED:
        raise ValueError(f"{metric!r} is no name that job.log takes")
    # The space before the name tells `loss` from `val_loss` and from `train/loss`. No anchor: logs prefix their lines.
    regex = rf"trainkit\.metric .* {re.escape(metric)}={_VALUE}"
    if len(regex) > REGEX_LIMIT:
        raise ValueError(f"the regex for {metric!r} has {len(regex)} characters, the API takes {REGEX_LIMIT}")
    return {"Name": name or metric, "Regex": regex}
