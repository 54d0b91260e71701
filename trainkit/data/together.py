"""What all ranks know of each other, where each host has other data."""

from __future__ import annotations

import sys
from typing import Any

from trainkit.errors import DataError


def gather(own: Any, *, ranks: int, why: str) -> list[Any]:
    """Every rank's value, in their order. All ranks must call it. Raises DataError without a process group."""
    if ranks == 1:
        return [own]
    distributed = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_initialized():
        raise DataError(f"{why}: call torch.distributed.init_process_group before you open the stream, on all ranks")
    values: list[Any] = [None] * ranks
    distributed.all_gather_object(values, own)
    return values
