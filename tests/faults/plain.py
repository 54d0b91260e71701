"""Hosts as plain `train` processes, each with a root of its own: light enough to start thirty-two of them at once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from harness import DEADLINE, environment, lay_tree, processes_mentioning

ENTRY = (sys.executable, "-c", "from trainkit.cli.entry import main; main()")
"""The executable that an image has: unlike `-m trainkit.cli.train`, it holds signals back while it is imported."""
FORKED = {"engine": "fork", "preload": "json"}
_clusters = count()


@dataclass(frozen=True)
class Host:
    """One `train`, with its root."""

    name: str
    root: Path
    process: subprocess.Popen[bytes]

    @property
    def log(self) -> str:
        return (self.root / "log").read_text(errors="replace")

    @property
    def failure(self) -> str | None:
        path = self.root / "output/failure"
        return path.read_text() if path.is_file() else None

    def wait_for(self, text: str, *, times: int = 1) -> None:
        """Until `text` stands in its log, so often."""
        until(lambda: self.log.count(text) >= times, lambda: f"no {text!r} in:\n{self.log}")

    def end(self, *, deadline: float = DEADLINE) -> int:
        return self.process.wait(deadline)


def until(happened: Callable[[], object], what: Callable[[], str] = lambda: "") -> None:
    """Wait for something that takes a moment."""
    deadline = time.monotonic() + DEADLINE
    while not happened():
        assert time.monotonic() < deadline, what()
        time.sleep(0.005)


@contextmanager
def hosts(
    folder: Path,
    script: str,
    *,
    number: int = 1,
    settings: Mapping[str, Any] | None = None,
    before: tuple[str, ...] = (),
    **environ: str,
) -> Iterator[list[Host]]:
    """As many hosts as `number`, of one job, that find each other on the loopback interface.

    `before` stands before the command: `prlimit`, or a shell that sets something up. `{root}` in a variable of
    `environ` is the host's own. What is left at the end is killed, and gone when this returns.
    """
    names = tuple(f"algo-{n}" for n in range(1, number + 1))
    which = next(_clusters)
    addresses = {name: f"127.79.{which % 250}.{n}" for n, name in enumerate(names, 2)}
    given = {f"trainkit_{name}": str(value) for name, value in (settings or {}).items()}
    running = []
    try:
        for name in names:
            root = lay_tree(folder / name, script, hyperparameters=given, hosts=names, current=name)
            variables = {
                "SAGEMAKER_BASE_DIR": str(root), "TRAINKIT_HOST_ADDRESSES": json.dumps(addresses),
                "TRAINKIT_PORT": str(20000 + os.getpid() % 10000), "TRAINKIT_RUN_DIR": str(root),
                "TRAINING_JOB_NAME": "j", **{key: value.replace("{root}", str(root)) for key, value in environ.items()},
            }  # fmt: skip
            with (root / "log").open("wb") as log:
                # SIGTERM is held back from its first moment on. An interpreter that has not come to our first line
                # would die of it; for PID 1 the kernel drops it then.
                signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
                try:
                    process = subprocess.Popen(
                        [*before, *ENTRY], env=environment(**variables), stdin=subprocess.DEVNULL, stdout=log,
                        stderr=subprocess.STDOUT,
                    )  # fmt: skip
                finally:
                    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
            running.append(Host(name, root, process))
        yield running
    finally:
        for host in running:
            if host.process.poll() is None:
                host.process.kill()
            host.process.wait()
        until(lambda: not processes_mentioning(str(folder)))
