"""Dask: a scheduler on the first host, workers on each; all of them speak TLS under a certificate of this job's."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from trainkit.plan.clusters.base import JOINED, Daemon, Parts, Place, demand, unless
from trainkit.plan.machine import Machine

_PAGES = ("--no-dashboard", "--dashboard-address", "127.0.0.1:0")  # the port is opened without a dashboard, too
_DRIVER = 0.125  # of the first host's memory


@dataclass(frozen=True, slots=True)
class Dask:
    """Dask as this Python has it."""

    machine: Machine

    title = "Dask"
    has_sockets = False

    @classmethod
    def find(cls, *, machine: Machine, environ: Mapping[str, str]) -> Dask:
        """Raises TrainkitError where it is not installed."""
        demand("distributed", "cryptography", extra="dask")
        return cls(machine)

    @property
    def processes(self) -> int:
        """Workers of a host: as many as Dask's own LocalCluster would have."""
        cpus = self.machine.cpus
        return cpus if cpus <= 4 else next(n for n in range(math.isqrt(cpus - 1) + 1, cpus + 1) if cpus % n == 0)

    def memory(self, place: Place) -> int:
        """Bytes of each worker there. The driver has its share of the first host."""
        return int(self.machine.memory * (0.9 - _DRIVER * place.leads)) // self.processes

    def parts(self, place: Place, environ: Mapping[str, str]) -> Parts:
        port = place.ports[0]
        address = f"tls://{place.first}:{port}"
        scheduler = (
            sys.executable, "-m", "distributed.cli.dask_scheduler", "--protocol", "tls", "--host", place.address,
            "--port", str(port), *_PAGES,
        )  # fmt: skip
        worker = (
            sys.executable, "-m", "distributed.cli.dask_worker", address, "--protocol", "tls", "--host", place.address,
            "--name", f"{place.host}/w", "--nworkers", str(self.processes), "--nthreads",
            str(self.machine.cpus // self.processes), "--memory-limit", str(self.memory(place)), *_PAGES,
            "--local-directory", str(place.folder),
        )  # fmt: skip
        key = str(place.folder / "tls.pem")
        known = {
            "DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION": "true",
            "DASK_DISTRIBUTED__COMM__TLS__CA_FILE": key,
            **{f"DASK_DISTRIBUTED__COMM__TLS__{who}__CERT": key for who in ("CLIENT", "SCHEDULER", "WORKER")},
        }
        return Parts(
            daemons=(*([Daemon("scheduler", scheduler)] if place.leads else []), Daemon("worker", worker)),
            environment={**known, **unless(environ, {"DASK_LOGGING__DISTRIBUTED": "warning"})},
            driver={**known, "DASK_SCHEDULER_ADDRESS": address},
            joined=(sys.executable, str(JOINED / "dask_workers.py"), address),
            prepare=(sys.executable, str(JOINED / "dask_certificate.py"), str(place.folder / "secret"), key),
            files={"secret": place.secret},
        )
