"""Ray: its head on the first host, a node on each other; whoever has no token is refused."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass

from trainkit.plan.clusters.base import JOINED, Daemon, Parts, Place, demand
from trainkit.plan.machine import Machine

_MODULE = ("-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats", "--log-color=false")
_PORTS = ("--min-worker-port=0", "--max-worker-port=0")  # any that are free: hosts may share an address range


@dataclass(frozen=True, slots=True)
class Ray:
    """Ray as this Python has it."""

    machine: Machine

    title = "Ray"
    has_sockets = True

    @classmethod
    def find(cls, *, machine: Machine, environ: Mapping[str, str]) -> Ray:
        """Raises TrainkitError where it is not installed."""
        demand("ray", extra="ray")
        return cls(machine)

    def parts(self, place: Place, environ: Mapping[str, str]) -> Parts:
        head = f"{place.first}:{place.ports[0]}"
        where = ("--head", f"--port={place.ports[0]}", "--include-dashboard=false") if place.leads else ()
        argv = (
            sys.executable, *_MODULE, *_PORTS, *where, *(() if place.leads else (f"--address={head}",)),
            f"--node-ip-address={place.address}", f"--node-name={place.host}", f"--num-cpus={self.machine.cpus}",
            f"--temp-dir={place.folder}",
        )  # fmt: skip
        known = {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(place.folder / "token"),
            "RAY_DISABLE_IMPORT_WARNING": "1",
        }
        return Parts(
            daemons=(Daemon("head" if place.leads else "node", argv),),
            environment=known,
            driver={**known, "RAY_ADDRESS": head},
            joined=(sys.executable, str(JOINED / "ray_nodes.py"), head),
            files={"token": place.secret},
        )
