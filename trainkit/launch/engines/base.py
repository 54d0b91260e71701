"""What every engine is given, and what is asked of it."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

from trainkit.contract.outcome import RankEnd
from trainkit.errors import ScriptMissing, TrainkitError
from trainkit.launch.limits import remedy
from trainkit.launch.loop import Loop
from trainkit.launch.processes import Ended, spawn
from trainkit.launch.relay import Relay
from trainkit.plan.launch import LaunchPlan


class Started(NamedTuple):
    """A process, and the ranks whose end its end is."""

    pid: int
    ranks: tuple[int, ...]


class Setting(NamedTuple):
    """What every engine works with. Without a relay, the one rank keeps the terminal."""

    environ: Mapping[str, str]
    run_dir: Path
    relay: Relay | None
    loop: Loop
    say: Callable[[str], None]

    def folder(self, plan: LaunchPlan) -> Path:
        """Where the ranks of the plan's generation and their supervisor leave each other files."""
        return self.run_dir / str(plan.meeting.generation)


class Engine(Protocol):
    """A way to start the ranks of one host."""

    def prepare(self, plan: LaunchPlan, on_ready: Callable[[], None]) -> None:
        """Begin what takes long, before the other hosts are known; call back once it is done."""

    def meeting_point(self, plan: LaunchPlan) -> tuple[int, bool]:
        """On the first host: the port where ranks meet, and whether something other than rank 0 hosts the store.

        Each call is for a new generation of ranks: it gets a new store, at a new port.
        """

    def start(self, plan: LaunchPlan) -> Iterator[Started]:
        """Start this host's ranks, one process after the other. May be called again when they have ended."""

    def ends(self, plan: LaunchPlan, started: Started, ended: Ended) -> list[RankEnd]:
        """What became of the ranks of a process that has ended."""

    @property
    def helpers(self) -> frozenset[int]:
        """The processes that live beside the ranks."""

    def close(self) -> None:
        """End what was started beside the ranks."""


def preferred_port(plan: LaunchPlan) -> int:
    """Where ranks should meet: at the port the others expect, the next one after a restart; any, on one host."""
    return plan.job.settings.port + 1 + plan.meeting.generation if len(plan.world.hosts) > 1 else 0


def meeting_port(plan: LaunchPlan) -> int:
    """The preferred one if it is free, else another."""
    return free_port(preferred_port(plan))


def free_port(preferred: int) -> int:
    """`preferred` if nobody listens there, else one that the kernel picks."""
    for port in (preferred, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise TrainkitError("no TCP port is free on this host")


def execute(command: tuple[str, ...], environ: Mapping[str, str], plan: LaunchPlan, output: int | None) -> int:
    """Start `command` in the script's folder. Raises ScriptMissing where that cannot be done."""
    try:
        return spawn(command, environ=environ, cwd=plan.script.folder, output=output)
    except OSError as error:
        what = f"cannot start {plan.script.command or plan.script.path}: {error.strerror} ({error.filename or 'fork'})"
        if error.errno not in (errno.ENOENT, errno.EACCES, errno.ENOEXEC, errno.ENOTDIR):
            raise TrainkitError(f"{what}. {remedy(error) or 'Look at the limits of this host: ulimit -a'}") from None
        raise ScriptMissing(
            f"{what}\nA script that is not Python must be executable (chmod +x) and begin with a #! line that names a "
            f"program of this image."
        ) from None
