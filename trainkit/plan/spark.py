"""`smspark-submit`: the call that the SDK's Spark processors send, as spark-submit understands it.

On one host in Spark's local mode, on several in a cluster of theirs (clusters/spark.py).
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from trainkit.errors import TrainkitError, UsageError
from trainkit.plan.clusters.spark import check_java, home_of
from trainkit.plan.launch import Process

_SWITCHES = frozenset({"--verbose", "-v", "--supervise"})
"""Options of spark-submit that take no value; all others do."""
_PLACES = ("--master", "--deploy-mode")
_OF_SMSPARK = frozenset({"--local-spark-event-logs-dir", "--spark-event-logs-s3-uri"})


class Call(NamedTuple):
    """A submission taken apart."""

    options: tuple[str, ...]
    event_logs: str | None
    app: str
    arguments: tuple[str, ...]


def parse(words: Sequence[str]) -> Call:
    """Raises UsageError where no application is named, or an option has no value."""
    options: list[str] = []
    event_logs = None
    rest = list(words)
    while rest and rest[0].startswith("-"):
        name, equals, value = rest.pop(0).partition("=")
        if name in _SWITCHES:
            options.append(name)
            continue
        if not equals:
            if not rest:
                raise UsageError(f"smspark-submit: {name} needs a value")
            value = rest.pop(0)
        if name in _OF_SMSPARK:
            event_logs = value
        else:
            options += [name, value]
    if not rest:
        raise UsageError("smspark-submit: no application is named: smspark-submit [options] app.py [arguments]")
    return Call(tuple(options), event_logs, rest[0], tuple(rest[1:]))


def submission(
    words: Sequence[str], *, folders: Sequence[Path], environ: Mapping[str, str], hosts: int, cluster: str | None = None
) -> Process:
    """The process for it: in a cluster where there are several hosts, unless the setting `cluster` is none.

    Raises UsageError, and TrainkitError where Spark is not installed.
    """
    call = parse(words)
    submit = _program(environ)
    if submit is None:
        raise TrainkitError(
            f"{call.app} needs Spark, and this image has none: install trainkit[spark] (pyspark, and Java 17)"
        )
    check_java(environ)
    kind = cluster or ("spark" if hosts > 1 else "none")
    if kind not in ("spark", "none"):
        raise UsageError(f"{call.app} was submitted to Spark, and TRAINKIT_CLUSTER={kind} is no Spark: leave it out")
    if kind == "spark" and (named := next((word for word in call.options if word in _PLACES), None)):
        raise UsageError(
            f"{call.app} was submitted with {named} on {hosts} hosts, where trainkit starts Spark's cluster: leave "
            f"{named} out, or set TRAINKIT_CLUSTER=none to run it on each host by itself"
        )
    places = [folder / call.app for folder in folders if (folder / call.app).is_file()]
    app = str(places[0].absolute()) if places else call.app
    master = () if kind == "spark" or "--master" in call.options else ("--master", "local[*]")
    logs = ("--conf", "spark.eventLog.enabled=true", "--conf", f"spark.eventLog.dir={call.event_logs}")
    options = (*master, *(logs if call.event_logs else ()), *call.options)
    # Spark's Python workers would otherwise be whatever python3 is first in PATH.
    python = () if "PYSPARK_PYTHON" in environ else ("env", f"PYSPARK_PYTHON={sys.executable}")
    argv = (*python, submit, *options, app, *call.arguments)
    wanted = "spark" if kind == "spark" else None
    return Process(argv, Path(call.app).name, is_shell=True, cluster=wanted)  # spark-submit is a shell script


def _program(environ: Mapping[str, str]) -> str | None:
    if found := shutil.which("spark-submit", path=environ.get("PATH")):
        return found
    home = home_of(environ)
    return str(home / "bin/spark-submit") if home else None
