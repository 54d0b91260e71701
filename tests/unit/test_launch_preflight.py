"""What hosts look at before ranks start."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import trainkit
from trainkit.contract.cluster import Cluster
from trainkit.contract.hyperparameters import Hyperparameters
from trainkit.contract.job import Job
from trainkit.contract.paths import Paths
from trainkit.contract.settings import Settings
from trainkit.launch import preflight
from trainkit.plan import launch
from trainkit.plan.launch import LaunchPlan
from trainkit.plan.machine import Machine
from trainkit.plan.script import Script


def plan(root: Path, *, procs: int = 1, imports: frozenset[str] = frozenset({"torch"})) -> LaunchPlan:
    job = Job(
        name="job", paths=Paths(root), cluster=Cluster("algo-1", ("algo-1",)), channels=(),
        hyperparameters=Hyperparameters({}), settings=Settings(procs=procs), checkpoints=root / "checkpoints",
    )  # fmt: skip
    machine = Machine(cpus=1, gpus=0, interfaces=("lo",), efa=0)
    return launch.make(job, machine=machine, script=Script(Path("/x.py"), Path("/"), imports), environ={})


@contextmanager
def limited(files: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_too_few_descriptors_are_told_and_enough_are_not(tmp_path):
    assert [*preflight.here(plan(tmp_path), {})] == []
    with limited(files=512):
        (said,) = preflight.here(plan(tmp_path), {})
    assert "ulimit -n is 512" in said


def test_shared_memory_is_measured_by_the_ranks_and_only_where_the_script_imports_torch(tmp_path):
    many = 10**6
    (said,) = preflight._shared_memory(many)
    assert f"MB for {many} ranks" in said
    without = plan(tmp_path, procs=1000, imports=frozenset())
    assert [*preflight.here(without, {})] == []


def test_a_host_tells_the_versions_that_import_would_find():
    traits = preflight.traits(os.environ)

    assert traits["torch"] == metadata.version("torch")
    assert traits["Python"] == ".".join(map(str, sys.version_info[:3]))
    assert all(isinstance(value, str | int) for value in traits.values())


def test_looking_imports_nothing_and_takes_milliseconds():
    show = (
        "import os, sys, time; from trainkit.launch import preflight; preflight.traits(os.environ); "
        "now = time.process_time; "
        "took = min((t := now(), preflight.traits(os.environ), now() - t)[2] for _ in range(5)); "
        "print(took, *sys.modules)"
    )
    folder = Path(trainkit.__file__).parents[1]
    took, *modules = subprocess.check_output([sys.executable, "-c", show], text=True, cwd=folder, timeout=60).split()

    assert float(took) < 0.005
    assert not {"torch", "importlib.metadata", "boto3"} & {*modules}


def test_what_hosts_differ_in_is_told_once_with_their_names():
    alike = {"GPUs": 8, "torch": "2.9.0"}
    hosts = {"algo-1": alike, "algo-2": {"GPUs": 4, "torch": "2.9.0"}, "algo-3": alike, "algo-4": {}}

    (said,) = preflight.differences(hosts, {})

    assert said.startswith("hosts have different GPUs: 8 on algo-1, algo-3; 4 on algo-2; each host runs as many ranks")


def test_clocks_may_be_seconds_apart_and_no_more():
    hosts = {"algo-1": {}, "algo-2": {}, "algo-3": {}}

    (said,) = preflight.differences(hosts, {"algo-2": 0.8, "algo-3": -90.0})

    assert said.startswith("the clock of algo-3 is 90 s behind")
