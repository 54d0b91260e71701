"""Starting the real commands for tests, and finding out what they left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

DEADLINE = 120
"""Seconds for anything without torch on a busy machine; the event itself usually takes one."""

TRAIN = (sys.executable, "-m", "trainkit.cli.train")
TRAINKIT = (sys.executable, "-m", "trainkit.cli.main")


def environment(**extra: str) -> dict[str, str]:
    """This process's environment without what belongs to a job or a terminal."""
    mine = ("SM_", "SAGEMAKER_", "TRAINKIT_", "TORCHELASTIC_", "TRAINING_JOB_", "MASTER_", "OMP_", "GLOO_", "NCCL_")
    return {k: v for k, v in os.environ.items() if not k.startswith(mine)} | extra


def lay_tree(
    root: Path,
    script: str,
    *,
    hyperparameters: Mapping[str, Any] | None = None,
    hosts: tuple[str, ...] = ("algo-1",),
    current: str = "algo-1",
    name: str = "train.py",
) -> Path:
    """A root as SageMaker lays it under /opt/ml, with `script` as the code."""
    config = root / "input/config"
    config.mkdir(parents=True)
    resources = {"current_host": current, "hosts": list(hosts), "network_interface_name": "lo"}
    (config / "resourceconfig.json").write_text(json.dumps(resources))
    (config / "inputdataconfig.json").write_text("{}")
    (config / "hyperparameters.json").write_text(json.dumps(dict(hyperparameters or {})))
    (root / "code").mkdir()
    (root / "code" / name).write_text(script)
    return root


@dataclass(frozen=True)
class Ran:
    """A command that has ended."""

    code: int
    out: str
    root: Path

    @property
    def failure(self) -> str | None:
        for path in (self.root / "output/failure", self.root / "failure"):
            if path.is_file():
                return path.read_text()
        return None

    @property
    def described(self) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads((self.root / "describe.json").read_text())
        return loaded


def train(root: Path, *flags: str, deadline: float = DEADLINE, **environ: str) -> Ran:
    """Run `train` on a laid tree to its end."""
    done = subprocess.run(
        [*TRAIN, *flags], env=environment(SAGEMAKER_BASE_DIR=str(root), **environ), stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=deadline, check=False,
    )  # fmt: skip
    return Ran(done.returncode, done.stdout.decode(errors="replace"), root)


def local(script: Path, *arguments: str, output: Path, deadline: float = DEADLINE, **environ: str) -> Ran:
    """Run `trainkit local` to its end."""
    done = subprocess.run(
        [*TRAINKIT, "local", str(script), *arguments, "--output", str(output)], env=environment(**environ),
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=deadline, check=False,
    )  # fmt: skip
    return Ran(done.returncode, done.stdout.decode(errors="replace"), output)


def stopped(script: Path, *arguments: str, output: Path, at: str, times: int = 1) -> Ran:
    """Run `trainkit local`, and tell it to stop when it has said `at` so often."""
    command = [*TRAINKIT, "local", str(script), *arguments, "--output", str(output)]
    with subprocess.Popen(
        command, env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as running:
        assert running.stdout
        overdue = threading.Timer(DEADLINE, running.kill)
        overdue.start()
        out, told = "", False
        for line in running.stdout:
            out += line.decode(errors="replace")
            if not told and out.count(at) >= times:
                told = True
                running.terminate()
        overdue.cancel()
    return Ran(running.returncode, out, output)


def limited(script: Path, *arguments: str, limit: str, ready: int = 1, output: Path) -> Ran:
    """Run `trainkit local` with `limit`, a flag that ends it after some seconds, when it has said "ready" so often.

    What it does with a stop shows only then. On a busy machine two seconds may be too few: then it gets more.
    """
    for seconds in (2, 10, 50):
        ran = local(script, *arguments, limit, f"{seconds}s", output=output)
        if ran.out.count("] ready") >= ready:
            break
    return ran


@contextmanager
def unprivileged() -> Iterator[None]:
    """As a user for whom modes count, in this process."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def processes_mentioning(text: str) -> list[str]:
    """Command lines of living processes that carry `text` in their arguments or their environment."""
    return [*living(text).values()]


def living(text: str) -> dict[int, str]:
    """The same, by process id."""
    found = {}
    for process in Path("/proc").iterdir():
        if not process.name.isdigit() or int(process.name) == os.getpid():
            continue
        try:
            command = (process / "cmdline").read_bytes()
            seen = command + (process / "environ").read_bytes()
            state = (process / "stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:
            continue  # it ended meanwhile
        if text.encode() in seen and state != "Z":
            found[int(process.name)] = command.replace(b"\0", b" ").decode(errors="replace")
    return found
