"""What is to be done with the code before ranks can start: in a child, so that nothing of it burdens the supervisor.

The supervisor imports no storage, and must hear signals and the other hosts while S3 or an index is slow.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

from trainkit.contract.outcome import shell_code
from trainkit.errors import TrainkitError
from trainkit.launch.processes import Ended, send, spawn
from trainkit.plan.code import Order, Prepared
from trainkit.plan.launch import LaunchPlan, Meeting


class Planner(Protocol):
    """Plans this host's part, anew whenever more is known: first without a `meeting`, then for each one."""

    def __call__(self, *, meeting: Meeting | None = None, at_terminal: bool = False) -> LaunchPlan: ...


class Errand(NamedTuple):
    """An order, and how to plan when it is carried out."""

    order: Order
    then: Callable[[Prepared], Planner]


class Running:
    """The child that carries out an order."""

    def __init__(self, order: Order, *, environ: Mapping[str, str], run_dir: Path, output: int | None) -> None:
        """Start it; its lines go to `output`. Raises OSError where that cannot be."""
        self._answer = run_dir / "code.answer.json"
        asked = run_dir / "code.order.json"
        # In a file of ours, since a URL may hold a credential, and arguments can be read by everybody.
        asked.touch(mode=0o600)
        asked.write_text(json.dumps(order.message()), encoding="utf-8")
        command = (sys.executable, "-P", "-m", "trainkit.code", str(asked), str(self._answer))
        if output is None:  # at a terminal
            self.pid = spawn(command, environ=environ, cwd=Path("/"), output=None)
        else:
            from trainkit.launch import guard  # a package's build starts what it likes; most jobs have nothing to do

            self.pid = guard.start(command, environ=environ, cwd=Path("/"), output=output, whole_session=False)
        self.status: int | None = None

    @property
    def done(self) -> bool:
        return self.status is not None

    def reap(self, ended: Ended) -> bool:
        """Hear of a process that has ended. Returns whether it was this one."""
        if ended.pid != self.pid or self.done:
            return False
        self.status = ended.status
        return True

    def cancel(self) -> None:
        """It shall clear up and end. What does not, is killed with everything else."""
        if not self.done:
            send(self.pid, signal.SIGTERM)

    def prepared(self) -> Prepared:
        """What came of it. Raises TrainkitError with its words, and its exit code, where nothing did."""
        try:
            told = json.loads(self._answer.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            told = {"failure": self._unanswered(), "exit_code": TrainkitError.exit_code}
        if "failure" in told:
            error = TrainkitError(str(told["failure"]))
            error.exit_code = int(told["exit_code"])
            raise error
        folder = Path(told["folder"])
        os.chdir(folder)  # the folder that an image calls its WORKDIR may be another one now
        return Prepared(folder, tuple(told["paths"]), told["programs"])

    def _unanswered(self) -> str:
        code = shell_code(self.status or 0)
        return f"making the job's code ready failed, exit code {code}: its last lines in the log say more"
