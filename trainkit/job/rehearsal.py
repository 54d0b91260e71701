"""Inside a rank: reach the step at which a fault was asked for, and meet it there."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path

from trainkit.contract import rehearsal
from trainkit.contract.environ import RUN_DIR
from trainkit.contract.rehearsal import REHEARSAL, STEPS, Fault

_PATIENCE = 10.0  # seconds for whoever cuts the link or kills the host; it looks every few milliseconds


def steps(environ: Mapping[str, str]) -> int | None:
    """How many steps of a loop are enough, where the environment says so."""
    text = environ.get(STEPS, "")
    return int(text) if text.isdecimal() else None


class Rehearsal:
    """The faults that may be this rank's, each of which happens once in a job, restarts included."""

    def __init__(self, faults: tuple[Fault, ...], folder: Path) -> None:
        self._faults = faults
        self._folder = folder

    @classmethod
    def find(cls, environ: Mapping[str, str]) -> Rehearsal | None:
        """What the environment asks for, if anything."""
        if not environ.get(REHEARSAL) or not environ.get(RUN_DIR):
            return None
        return cls(rehearsal.read(environ[REHEARSAL]), Path(environ[RUN_DIR]).parents[1])

    def reach(self, step: int, *, rank: int, host: str, local_rank: int) -> None:
        """`step` begins on this rank: die here if that was asked for, or let the host's fault happen."""
        for fault in self._faults:
            if fault.step != step or not self._is_mine(fault, rank=rank, host=host, local_rank=local_rank):
                continue
            mark = fault.mark(self._folder)
            try:
                mark.touch(exist_ok=False)
            except FileExistsError:
                continue  # it has happened in an earlier generation
            if fault.kind == "rank":
                os.kill(os.getpid(), signal.SIGKILL)
            deadline = time.monotonic() + _PATIENCE
            while mark.stat().st_size == 0 and time.monotonic() < deadline:
                time.sleep(0.002)  # whoever made the host writes there once it is done

    @staticmethod
    def _is_mine(fault: Fault, *, rank: int, host: str, local_rank: int) -> bool:
        if fault.kind == "rank":
            return fault.target == rank
        return local_rank == 0 and host == f"algo-{fault.target}"
