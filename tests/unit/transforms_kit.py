"""Transforms in a module of their own: what other processes import should be small."""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Any

import numpy as np
import pyarrow as pa


def identity(table: pa.Table) -> pa.Table:
    return table


def all_kinds(table: pa.Table) -> pa.Table:
    """Numbers, fixed lists, ragged lists, strings, bytes; fewer rows than there were."""
    numbers = [n for n in table["n"].to_pylist() if n % 3]
    return pa.table(
        {
            "n": pa.array(numbers, pa.int64()),
            "pair": pa.array([[n, -n] for n in numbers], pa.list_(pa.float32(), 2)),
            "ragged": pa.array([list(range(n % 5)) for n in numbers], pa.list_(pa.int32())),
            "text": pa.array(["é" * (n % 4) for n in numbers], pa.string()),
            "bytes": pa.array([bytes([n % 256]) * (n % 7) for n in numbers], pa.binary()),
        }
    )


def arrays(table: pa.Table) -> dict[str, Any]:
    """No table: small and large arrays, one of them read-only, and Python's own values."""
    numbers = table["n"].to_numpy()
    large = np.add.outer(numbers, np.arange(1000)).astype(np.float32)
    return {
        "read-only": numbers,
        "large": large,
        "part": large[:, ::2],
        "list": [str(n) for n in numbers],
        "none": None,
    }


def nothing(table: pa.Table) -> None:
    return None


def fails(table: pa.Table) -> Any:
    try:
        return _deeper(table)
    except KeyError as error:
        raise ValueError(f"row {table['n'][0]} is no good") from error


def _deeper(table: pa.Table) -> Any:
    return {}["missing"]


def unsendable(table: pa.Table) -> Any:
    return (row for row in table["n"])


def killed_at_20(table: pa.Table) -> pa.Table:
    if 20 in table["n"].to_pylist():
        os.kill(os.getpid(), signal.SIGSEGV)
    return table


def killed_with_a_child(table: pa.Table) -> Any:
    """The child has all that the process had: the rank's line, too."""
    if os.fork() == 0:
        os.read(int(sys.argv[2]), 1)  # as long as the rank has not let go of it
        os._exit(0)
    os.kill(os.getpid(), signal.SIGKILL)


def cut_off_and_never_ends(table: pa.Table) -> Any:
    threading.Thread(target=threading.Event().wait).start()
    os.close(int(sys.argv[1]))


def who(table: pa.Table) -> int:
    return os.getpid()
