"""`Trainkit` as a driver of the SDK's version 3: under its own start script, on hosts that have nothing of ours."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import v3_upload
from harness import DEADLINE, environment

import trainkit
from trainkit.errors import IsolationUnavailable
from trainkit.local import isolation
from trainkit.sagemaker import FIRST_PROCESS, bundle

HOSTS = ("algo-1", "algo-2")
SUMS = """
import os, sys
import torch, torch.distributed as dist
import trainkit
dist.init_process_group("gloo")
total = torch.tensor([float(os.environ["RANK"])])
dist.all_reduce(total)
job = trainkit.job()
print("sum", total.item(), "world", os.environ["WORLD_SIZE"], "argv", sys.argv[1:], "hp", job.hp("lr", 0.0),
      "from", trainkit.__file__, flush=True)
dist.destroy_process_group()
sys.exit(3 if os.environ["RANK"] == "3" and "fail" in sys.argv else 0)
"""
BAKED = {"SAGEMAKER_PROGRAM": "of_the_image.py", "SAGEMAKER_SUBMIT_DIRECTORY": "/opt/ml/code"}
WAITS = """
import signal, sys, threading
done = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: done.set())
print("waits", sys.argv[1:], flush=True)
sys.exit(0 if done.wait(60) else 9)
"""


class Started:
    """The hosts of a job, each with the SDK's container command as its first process."""

    def __init__(self, hosts: dict[str, tuple[Path, subprocess.Popen[str]]]) -> None:
        self._hosts = hosts
        self.lines: dict[str, list[str]] = {name: [] for name in hosts}
        self.said = threading.Condition()
        self._readers = [
            threading.Thread(target=self._read, args=(name, process)) for name, (_, process) in hosts.items()
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, name: str, process: subprocess.Popen[str]) -> None:
        assert process.stdout
        with process.stdout:
            for line in process.stdout:
                with self.said:
                    self.lines[name].append(line)
                    self.said.notify_all()

    def wait_for(self, text: str) -> None:
        with self.said:
            heard = self.said.wait_for(
                lambda: all(any(text in line for line in lines) for lines in self.lines.values()), timeout=DEADLINE
            )
        assert heard, self.lines

    def stop(self, place: isolation.Isolation) -> None:
        """SIGTERM to each host's first process, as the service sends it."""
        for _, process in self._hosts.values():
            first = place.train_pid(process.pid)
            assert first
            os.kill(first, signal.SIGTERM)

    def codes(self) -> list[int]:
        return [process.wait(timeout=DEADLINE) for _, process in self._hosts.values()]

    def end(self) -> None:
        for _, process in self._hosts.values():
            process.kill()
            process.wait()
        for reader in self._readers:
            reader.join()

    def failure(self, host: str) -> str | None:
        path = self._hosts[host][0] / "output/failure"
        return path.read_text() if path.exists() else None


@contextmanager
def job(
    tmp_path: Path, script: str, *, fields: dict[str, Any], hyperparameters: Mapping[str, str], environ: dict[str, str]
) -> Iterator[tuple[Started, isolation.Isolation]]:
    try:
        place, _ = isolation.choose("namespace")
    except IsolationUnavailable as reason:
        pytest.skip(str(reason))
    drivers = tmp_path / "drivers"
    drivers.mkdir()
    bundle.lay(drivers)
    addresses = dict(zip(HOSTS, place.addresses(len(HOSTS)), strict=True))
    hosts_file = tmp_path / "hosts"
    hosts_file.write_text("127.0.0.1 localhost\n" + "".join(f"{a} {n}\n" for n, a in addresses.items()))
    hosts = {}
    for name, address in addresses.items():
        root = tmp_path / name
        lay(root, name, script, hyperparameters)
        v3_upload.lay(
            root / "input/data/sm_drivers", distributed={"trainkit": trainkit.__version__, **fields},
            script=bundle.DRIVER, driver_dir=drivers,
        )  # fmt: skip
        host = isolation.Host(name, address, root, v3_upload.COMMAND)
        given = {**place.environment(host, addresses), **place.port, **environ}
        process = subprocess.Popen(
            place.command(host, hosts_file), text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, errors="replace",
            env=environment(**given) | {
                "TRAINING_JOB_NAME": "tk-1", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            },
        )  # fmt: skip
        hosts[name] = (root, process)
    started = Started(hosts)
    try:
        yield started, place
    finally:
        started.end()
        place.close()


def lay(root: Path, host: str, script: str, hyperparameters: Mapping[str, str]) -> None:
    config = root / "input/config"
    config.mkdir(parents=True)
    group = {"instance_group_name": "homogeneousCluster", "instance_type": "ml.m5.xlarge", "hosts": list(HOSTS)[::-1]}
    resources = {
        "current_host": host, "current_instance_type": "ml.m5.xlarge", "current_group_name": "homogeneousCluster",
        "hosts": list(HOSTS), "instance_groups": [group], "network_interface_name": "lo",
    }  # fmt: skip
    inputs = {name: {"TrainingInputMode": "File"} for name in ("code", "sm_drivers")}
    (config / "resourceconfig.json").write_text(json.dumps(resources))
    (config / "inputdataconfig.json").write_text(json.dumps(inputs))
    (config / "hyperparameters.json").write_text(json.dumps(dict(hyperparameters)))
    for folder in ("input/data/code", "output", "run"):
        (root / folder).mkdir(parents=True)
    (root / "input/data/code/train.py").write_text(script)


def test_under_the_sdks_own_start_script_two_hosts_train_together_and_a_failure_is_ours(tmp_path: Path) -> None:
    values = {"lr": "0.1", "mode": "fail"}
    with job(tmp_path, SUMS, fields={"procs": 2}, hyperparameters=values, environ=BAKED) as (ran, _):
        assert ran.codes() == [3, 3], ran.lines

    said = [line for lines in ran.lines.values() for line in lines if "sum" in line and "world" in line]
    assert len(said) == 4
    assert all("sum 6.0 world 4 argv ['--lr', '0.1', '--mode', 'fail'] hp 0.1" in line for line in said)
    assert all("trainkit-package-" in line for line in said)  # what was uploaded, not what this machine has installed
    for host in HOSTS:
        failure = ran.failure(host)
        assert failure
        assert "rank 3 on algo-2" in failure
        assert "Training Execution failed" not in failure


def test_as_first_process_a_stop_is_heard_and_an_apostrophe_is_a_value(tmp_path: Path) -> None:
    values = {"name": "it's", "rude": "x'; touch /opt/ml/pwned; '"}
    with job(tmp_path, WAITS, fields={"procs": 1}, hyperparameters=values, environ=FIRST_PROCESS) as (ran, place):
        ran.wait_for("waits ['--name', \"it's\", '--rude', \"x'; touch /opt/ml/pwned; '\"]")
        ran.stop(place)
        assert ran.codes() == [0, 0]

    assert not any((tmp_path / host / "pwned").exists() for host in HOSTS)


def test_under_the_sdks_own_start_script_an_apostrophe_ends_the_job_before_us(tmp_path: Path) -> None:
    """Not ours to mend from behind it, and why FIRST_PROCESS is there: this test says when it becomes needless."""
    with job(tmp_path, WAITS, fields={}, hyperparameters={"name": "it's"}, environ={}) as (ran, _):
        assert ran.codes() != [0, 0]

    assert not any("waits" in line for lines in ran.lines.values() for line in lines)


def test_the_archive_is_the_same_whenever_it_is_made_and_carries_the_whole_package(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        bundle.lay(tmp_path / name)

    first, second = ((tmp_path / name / bundle.ARCHIVE).read_bytes() for name in ("a", "b"))
    assert first == second
    assert len(first) < 2_000_000
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [
        "trainkit.bash",
        "trainkit.zip",
        "trainkit_driver.py",
    ]


def test_the_first_process_file_leaves_every_other_bash_alone(tmp_path: Path) -> None:
    bundle.lay(tmp_path)
    ran = subprocess.run(
        ["bash", "-c", "echo $0 still here"], env={**os.environ, "BASH_ENV": str(tmp_path / "trainkit.bash")},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip

    assert (ran.stdout, ran.stderr, ran.returncode) == ("bash still here\n", "", 0)
    assert FIRST_PROCESS["BASH_ENV"].endswith("/sm_drivers/distributed_drivers/trainkit.bash")


def test_without_the_sdk_it_says_what_to_install() -> None:
    if importlib.util.find_spec("sagemaker"):
        pytest.skip("the SDK is installed here")
    ran = subprocess.run(
        [sys.executable, "-c", "from trainkit.sagemaker import Trainkit"], capture_output=True, text=True, timeout=60
    )

    assert ran.stderr.splitlines()[-1].startswith("ImportError: Trainkit is for AWS's SDK: pip install 'sagemaker>=3'")
