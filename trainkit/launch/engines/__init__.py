"""Three ways to start the ranks of a host, behind one seam (see base.Engine)."""

from __future__ import annotations

from trainkit.launch.engines.base import Engine, Setting
from trainkit.launch.engines.fork import Fork
from trainkit.launch.engines.spawn import Spawn
from trainkit.launch.engines.torchrun import Torchrun

__all__ = ["Engine", "Setting", "engine_for"]

_ENGINES: dict[str, type[Spawn] | type[Torchrun]] = {"fork": Fork, "spawn": Spawn, "torchrun": Torchrun}


def engine_for(name: str, setting: Setting) -> Engine:
    """The engine that a plan names."""
    return _ENGINES[name](setting)
