"""What each host of a cluster runs, decided from the machine and the place alone."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from trainkit.errors import TrainkitError
from trainkit.plan.clusters import base, choose
from trainkit.plan.clusters.base import Place
from trainkit.plan.clusters.dask import Dask
from trainkit.plan.clusters.ray import Ray
from trainkit.plan.clusters.spark import Spark
from trainkit.plan.machine import Machine, look

GIB = 1 << 30
BIG = Machine(cpus=16, gpus=0, interfaces=("eth0",), efa=0, memory=64 * GIB)
SMALL = replace(BIG, cpus=2, memory=4 * GIB)
SECRET = "5e" * 32
FIRST = Place("algo-1", "10.0.0.1", "10.0.0.1", True, (7778, 8080), Path("/run/c"), SECRET)
SECOND = Place("algo-2", "10.0.0.2", "10.0.0.1", False, (7778, 0), Path("/run/c"), SECRET)


def spark(machine: Machine = BIG, defaults: str = "", config: Path = Path("/nowhere")) -> Spark:
    return Spark(Path("/spark"), machine, config, defaults)


def conf(text: str) -> dict[str, str]:
    return dict(line.split(maxsplit=1) for line in text.splitlines())


def value(argv: tuple[str, ...], option: str) -> str:
    return argv[argv.index(option) + 1]


@pytest.mark.parametrize("engine", [spark(), Ray(BIG), Dask(BIG)], ids=lambda engine: engine.title)
def test_the_secret_is_in_files_and_in_no_command_line_or_variable(engine: Any) -> None:
    for place in (FIRST, SECOND):
        parts = engine.parts(place, {})
        argvs = [parts.prepare, parts.joined, *(daemon.argv for daemon in parts.daemons)]
        seen = [word for argv in argvs for word in argv] + [*parts.environment.values(), *parts.driver.values()]
        assert not any(SECRET in word for word in seen)
        assert any(SECRET in text for text in parts.files.values())


def test_spark_has_a_master_on_the_first_host_and_a_worker_on_each_at_their_own_addresses() -> None:
    first, second = spark().parts(FIRST, {}), spark().parts(SECOND, {})

    master, worker = first.daemons
    assert (master.name, value(master.argv, "--host"), value(master.argv, "--port")) == ("master", "10.0.0.1", "7778")
    assert (worker.argv[-1], first.head) == ("spark://10.0.0.1:7778", "master")
    assert [daemon.name for daemon in second.daemons] == ["worker"]
    assert value(second.daemons[0].argv, "--host") == "10.0.0.2"
    assert (value(worker.argv, "--cores"), value(second.daemons[0].argv, "--cores")) == ("15", "16")
    assert first.environment["SPARK_LOCAL_IP"] == "127.0.0.1"


@pytest.mark.parametrize("machine", [BIG, SMALL, replace(BIG, memory=16 * GIB)])
def test_all_that_spark_has_fits_into_the_first_hosts_memory(machine: Machine) -> None:
    one = spark(machine)
    parts = one.parts(FIRST, {})
    said = conf(parts.files["conf/spark-defaults.conf"])

    assert said["spark.executor.memory"] == value(parts.daemons[1].argv, "--memory") == f"{one.executor_memory}m"
    taken = one.executor_memory / 0.6 + 1.25 * one.driver_memory + 2 * 1.5 * 512
    assert taken < machine.memory / (1 << 20)
    assert one.executor_memory > 0.1 * machine.memory / (1 << 20)


def test_what_the_image_configured_overrules_ours_but_not_where_the_cluster_is(tmp_path: Path) -> None:
    (tmp_path / "log4j2.properties").touch()
    (tmp_path / "spark-defaults.conf").touch()
    said = "spark.executor.memory 3g\nspark.master yarn\nspark.authenticate false\nspark.sql.shuffle.partitions 7\n"
    parts = spark(defaults=said, config=tmp_path).parts(FIRST, {"PYSPARK_PYTHON": "python3.12"})
    found = conf(parts.files["conf/spark-defaults.conf"])

    assert found["spark.executor.memory"] == "3g"
    assert found["spark.sql.shuffle.partitions"] == "7"
    assert (found["spark.master"], found["spark.authenticate"]) == ("spark://10.0.0.1:7778", "true")
    assert parts.links == {"conf/log4j2.properties": tmp_path / "log4j2.properties"}
    assert "PYSPARK_PYTHON" not in parts.driver
    assert spark().parts(FIRST, {}).driver["PYSPARK_PYTHON"] == sys.executable


def test_ray_joins_the_head_under_the_hosts_name_with_the_jobs_token() -> None:
    first, second = Ray(BIG).parts(FIRST, {}), Ray(BIG).parts(SECOND, {})

    assert {"--head", "--port=7778", "--node-ip-address=10.0.0.1"} <= set(first.daemons[0].argv)
    assert {"--address=10.0.0.1:7778", "--node-name=algo-2", "--num-cpus=16"} <= set(second.daemons[0].argv)
    assert first.driver["RAY_ADDRESS"] == "10.0.0.1:7778"
    assert first.environment["RAY_AUTH_MODE"] == "token"


@pytest.mark.parametrize(("cpus", "processes"), [(1, 1), (2, 2), (4, 4), (5, 5), (8, 4), (16, 4), (96, 12)])
def test_dask_has_the_workers_that_its_own_local_cluster_would_have(cpus: int, processes: int) -> None:
    one = Dask(replace(BIG, cpus=cpus))
    worker = one.parts(FIRST, {}).daemons[1].argv

    assert (value(worker, "--nworkers"), value(worker, "--nthreads")) == (str(processes), str(cpus // processes))
    assert one.memory(FIRST) * processes < 0.8 * BIG.memory < one.memory(SECOND) * processes < BIG.memory


def test_an_engine_that_is_not_there_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(base.importlib.util, "find_spec", lambda name: None)
    for kind in ("spark", "ray", "dask"):
        with pytest.raises(TrainkitError, match=rf"TRAINKIT_CLUSTER={kind} needs .*install trainkit\[{kind}\]"):
            choose.find(kind, machine=BIG, environ={"PATH": str(tmp_path)})


def test_the_machine_knows_its_memory() -> None:
    assert GIB // 4 < look({}).memory < 1 << 50
