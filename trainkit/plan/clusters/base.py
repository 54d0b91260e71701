"""What every engine of a cluster is asked for, and what it answers."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

from trainkit.errors import TrainkitError

JOINED = Path(__file__).parents[2] / "launch/joined"
"""Scripts that tell whom an engine counts: a line of JSON, a list of hosts' names, whenever that changes."""


class Place(NamedTuple):
    """Where one host's part of a cluster will run."""

    host: str
    address: str
    """This host's own, as others reach it."""
    first: str
    """The first host's."""
    leads: bool
    """Whether this is the first one."""
    ports: tuple[int, int]
    """Of the first host: where its daemons are reached, and another one that is free there."""
    folder: Path
    """For what the daemons need and leave; gone when the job ends."""
    secret: str
    """Of this job: 64 hexadecimal digits that all its hosts know. It is in files, never in a command line."""


class Daemon(NamedTuple):
    """A process that runs as long as the cluster does."""

    name: str
    argv: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Parts:
    """What one host runs."""

    daemons: tuple[Daemon, ...]
    environment: Mapping[str, str]
    """What the daemons get beyond what the script gets."""
    driver: Mapping[str, str]
    """What the one command gets: with it, the cluster is found."""
    joined: tuple[str, ...]
    """On the first host: the command that tells whom the engine counts (see JOINED), first nobody."""
    head: str | None = None
    """The daemon of the first host that must answer before any other is started, where that is so."""
    prepare: tuple[str, ...] = ()
    """Run to its end before the daemons start."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Name → text, made in the folder first; for this user alone."""
    links: Mapping[str, Path] = field(default_factory=dict)
    """Name → what it leads to, the same."""


class Engine(Protocol):
    """One engine as it is installed on this host."""

    @property
    def title(self) -> str:
        """`Spark`, for people."""

    @property
    def has_sockets(self) -> bool:
        """Whether it makes sockets in its folder, whose name must then be short."""

    def parts(self, place: Place, environ: Mapping[str, str]) -> Parts:
        """What runs there. `environ` is the script's: what it sets is not overruled without need."""


def unless(environ: Mapping[str, str], defaults: Mapping[str, str]) -> dict[str, str]:
    """Those of `defaults` that nobody has set."""
    return {name: value for name, value in defaults.items() if name not in environ}


def demand(*modules: str, extra: str) -> None:
    """Raises TrainkitError where one of `modules` is not installed."""
    if missing := [name for name in modules if importlib.util.find_spec(name) is None]:
        raise TrainkitError(
            f"TRAINKIT_CLUSTER={extra} needs {', '.join(missing)}, which this image has not: install trainkit[{extra}]"
        )
