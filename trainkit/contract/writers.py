"""Processes that finish a checkpoint after their rank is gone: the supervisor lets them, and the next ranks wait.

Each leaves a file `<generation>.<process id>` beside the folders of the generations, and takes it away when it ends.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from trainkit.contract.environ import RUN_DIR

FOLDER = "writers"
_PAUSE = 0.01  # seconds


@contextmanager
def registered(environ: Mapping[str, str]) -> Iterator[None]:
    """This process writes checkpoints for a rank. Without a supervisor nobody needs to know."""
    run_dir = environ.get(RUN_DIR)
    if not run_dir:
        yield
        return
    mark = Path(run_dir).parent / FOLDER / f"{Path(run_dir).name}.{os.getpid()}"
    with suppress(OSError):  # without it, it is ended with its rank: what it writes is lost then, and nothing else
        mark.parent.mkdir(exist_ok=True)
        mark.touch()
    try:
        yield
    finally:
        with suppress(OSError):
            mark.unlink()


def alive(run_dir: Path, *, but: str | None = None) -> frozenset[int]:
    """The process ids of the writers below a job's run folder, but for those of one generation."""
    try:
        marks = [mark.name.partition(".") for mark in (run_dir / FOLDER).iterdir()]
    except OSError:
        return frozenset()
    return frozenset(
        int(pid) for generation, _, pid in marks if generation != but and pid.isdecimal() and _lives(int(pid))
    )


def wait_for_earlier(environ: Mapping[str, str], *, patience: float) -> None:
    """Until the writers of earlier generations on this host are done, `patience` seconds at most."""
    deadline = time.monotonic() + patience
    if run_dir := environ.get(RUN_DIR):
        own = Path(run_dir)
        while alive(own.parent, but=own.name) and time.monotonic() < deadline:
            time.sleep(_PAUSE)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True
