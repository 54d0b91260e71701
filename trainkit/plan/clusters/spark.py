"""Spark's standalone cluster: a master on the first host, a worker on each, one executor per worker.

There is one configuration for all of it, a folder with spark-defaults.conf as spark-submit and `python app.py` read it.
What the user says there, or in the image's own, overrules ours; where the cluster is, does not.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from trainkit.errors import TrainkitError
from trainkit.plan.clusters.base import JOINED, Daemon, Parts, Place, unless
from trainkit.plan.machine import Machine

_DEFAULTS = "spark-defaults.conf"
_MIB = 1 << 20
_LEAST = 512  # MiB: Spark refuses an executor or driver of less than 450
_DAEMON = 512  # MiB of a daemon's heap; it needs half as much again beside it
_JVM = 1.25  # what a driver takes for each byte of its heap
_HEAP = 0.6  # of what an executor has: the rest is Python's, Arrow's and the JVM's own
_QUICK = "-XX:+UseSerialGC -XX:TieredStopAtLevel=1"  # daemons do little: this halves their start
_LOGGING = "daemons.properties"
_QUIET = """\
rootLogger.level = warn
rootLogger.appenderRef.stdout.ref = console
appender.console.type = Console
appender.console.name = console
appender.console.target = SYSTEM_ERR
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{HH:mm:ss} %p %c{1}: %m%n%ex
"""


@dataclass(frozen=True, slots=True)
class Spark:
    """One Spark: where it lies, and what the image has configured."""

    home: Path
    machine: Machine
    config: Path
    """The image's own configuration, which may not exist."""
    defaults: str
    """The text of its spark-defaults.conf."""

    title = "Spark"
    has_sockets = False

    @classmethod
    def find(cls, *, machine: Machine, environ: Mapping[str, str]) -> Spark:
        """Raises TrainkitError where there is no Spark, or no Java for it."""
        home = home_of(environ)
        if home is None:
            raise TrainkitError(
                "TRAINKIT_CLUSTER=spark needs Spark, which this image has not: install trainkit[spark] (pyspark, and "
                "Java 17)"
            )
        check_java(environ)
        config = Path(environ.get("SPARK_CONF_DIR") or home / "conf")
        try:
            defaults = (config / _DEFAULTS).read_text(encoding="utf-8", errors="replace")
        except OSError:
            defaults = ""
        return cls(home, machine, config, defaults)

    @property
    def driver_memory(self) -> int:
        """MiB of the driver's heap: an eighth of the host."""
        return min(max(self.machine.memory // _MIB // 8, _LEAST), 8192)

    @property
    def executor_memory(self) -> int:
        """MiB of an executor's heap. All are alike, so it is what fits beside the driver, on the first host."""
        free = self.machine.memory / _MIB * 0.9 - 2 * 1.5 * _DAEMON - _JVM * self.driver_memory
        return max(int(free * _HEAP), _LEAST)

    def cores(self, place: Place) -> int:
        """Of the executor there: all, but for one that the driver has."""
        return max(self.machine.cpus - place.leads, 1)

    def parts(self, place: Place, environ: Mapping[str, str]) -> Parts:
        port, web = place.ports
        conf, run = place.folder / "conf", str(self.home / "bin/spark-class")
        url = f"spark://{place.first}:{port}"
        worker = (
            run, "org.apache.spark.deploy.worker.Worker", "--host", place.address, "--webui-port", "0", "--cores",
            str(self.cores(place)), "--memory", f"{self.executor_memory}m", "--work-dir", str(place.folder / "work"),
            url,
        )  # fmt: skip
        master = (
            run, "org.apache.spark.deploy.master.Master", "--host", place.address, "--port", str(port),
            "--webui-port", str(web),
        )  # fmt: skip
        options = f"{_QUICK} -Dlog4j2.configurationFile={(place.folder / _LOGGING).as_uri()}"
        both = {
            "SPARK_HOME": str(self.home),
            "SPARK_CONF_DIR": str(conf),
            "SPARK_LOCAL_IP": "127.0.0.1",  # for the pages, which ask nobody who he is; all else is at our address
            **unless(environ, {"SPARK_LOCAL_DIRS": str(place.folder / "local"), "PYSPARK_PYTHON": sys.executable}),
        }
        own = {
            "SPARK_PUBLIC_DNS": place.host,
            **unless(environ, {"SPARK_DAEMON_MEMORY": f"{_DAEMON}m", "SPARK_DAEMON_JAVA_OPTS": options}),
        }
        return Parts(
            daemons=(*([Daemon("master", master)] if place.leads else []), Daemon("worker", worker)),
            environment={**both, **own},
            driver=both,
            head="master",  # a worker that is there before it is asked again after ten seconds
            joined=(sys.executable, "-I", str(JOINED / "spark.py"), str(web)),
            files={f"conf/{_DEFAULTS}": self._configuration(place, url), _LOGGING: _QUIET},
            links={f"conf/{path.name}": path for path in _others(self.config)},
        )

    def _configuration(self, place: Place, url: str) -> str:
        """Of two lines for one name, Spark takes the last."""
        proposed = {
            "spark.driver.memory": f"{self.driver_memory}m",
            "spark.executor.memory": f"{self.executor_memory}m",
            "spark.master.rest.enabled": "false",
        }
        needed = {
            "spark.master": url,
            "spark.driver.host": place.address,
            "spark.driver.bindAddress": place.address,
            "spark.authenticate": "true",
            "spark.authenticate.secret": place.secret,
        }
        blocks = (_lines(proposed), self.defaults.rstrip("\n"), _lines(needed))
        return "\n".join(filter(None, blocks)) + "\n"


def home_of(environ: Mapping[str, str]) -> Path | None:
    """SPARK_HOME, or that of the pyspark that this Python has, or that of a spark-submit in PATH."""
    homes = [Path(environ["SPARK_HOME"])] if environ.get("SPARK_HOME") else []
    if spec := importlib.util.find_spec("pyspark"):
        homes += [Path(place) for place in spec.submodule_search_locations or []]
    if found := shutil.which("spark-submit", path=environ.get("PATH")):
        homes.append(Path(found).resolve().parents[1])
    return next((home for home in homes if (home / "bin/spark-class").is_file()), None)


def check_java(environ: Mapping[str, str]) -> None:
    """Raises TrainkitError where Spark would find no Java."""
    given = environ.get("JAVA_HOME")
    if not (shutil.which(f"{given}/bin/java") if given else shutil.which("java", path=environ.get("PATH"))):
        where = f"JAVA_HOME={given}" if given else f"PATH={environ.get('PATH', os.defpath)}"
        raise TrainkitError(f"Spark needs Java, and there is none ({where}): install a Java 17 runtime, headless")


def _others(config: Path) -> list[Path]:
    """What else the image has configured: logging, Hadoop, Hive."""
    try:
        return sorted(path.absolute() for path in config.iterdir() if path.name != _DEFAULTS)
    except OSError:
        return []


def _lines(settings: Mapping[str, str]) -> str:
    return "\n".join(f"{name} {value}" for name, value in settings.items())
