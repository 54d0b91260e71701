"""The kinds of cluster that there are."""

from __future__ import annotations

from collections.abc import Mapping

from trainkit.plan.clusters.base import Engine
from trainkit.plan.clusters.dask import Dask
from trainkit.plan.clusters.ray import Ray
from trainkit.plan.clusters.spark import Spark
from trainkit.plan.machine import Machine

_ENGINES: Mapping[str, type[Spark] | type[Ray] | type[Dask]] = {"spark": Spark, "ray": Ray, "dask": Dask}


def find(kind: str, *, machine: Machine, environ: Mapping[str, str]) -> Engine:
    """The engine as it is installed here. Raises TrainkitError where it, or what it needs, is not."""
    return _ENGINES[kind].find(machine=machine, environ=environ)
