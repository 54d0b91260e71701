"""The hosts of a local job: the root of each with its config and directories, and what is in its environment."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from trainkit.contract.environ import CLUSTER_KEY
from trainkit.contract.paths import Paths
from trainkit.contract.processing import placed
from trainkit.contract.settings import TABLE
from trainkit.local import config, inputs, request
from trainkit.local.inputs import Found
from trainkit.local.isolation import Host, Isolation
from trainkit.local.request import Request
from trainkit.local.status import arn
from trainkit.storage.commit import write_whole


def hosts(
    job: Request, chosen: Isolation, output: Path, *, argv: tuple[str, ...], found: Sequence[Found], fetched: Path
) -> list[Host]:
    """The job's hosts, each with its config and empty directories; they are to run `argv`."""
    names = request.hosts(job)
    made = []
    for name, address in zip(names, chosen.addresses(len(names)), strict=True):
        paths = Paths(output / "hosts" / name)
        seen = Path("/opt/ml") if chosen.covers else paths.root
        frozen = inputs.mounted(found, name, names, fetched=fetched) if chosen.covers else ()
        made.append(Host(name, address, paths.root, argv, frozen))
        for folder in (paths.config, paths.channels, paths.model, paths.output_data, paths.root / "run"):
            folder.mkdir(parents=True)
        if tensorboard := request.tensorboard(job):
            placed(tensorboard, paths).mkdir(parents=True, exist_ok=True)
        config.write(job, host=name, interface=chosen.interface, config=paths.config, root=seen)
    return made


def hosts_file(hosts: Sequence[Host], output: Path) -> Path:
    """The machine's own names, and the hosts'."""
    machine = Path("/etc/hosts")
    own = machine.read_text(encoding="utf-8", errors="replace") if machine.exists() else "127.0.0.1 localhost\n"
    path = output / "hosts" / "hosts"
    write_whole(path, own.rstrip("\n") + "\n" + "".join(f"{host.address} {host.name}\n" for host in hosts))
    return path


_OTHER_JOBS = ("SM_", "SAGEMAKER_", "TRAINKIT_", "TORCHELASTIC_")
_OTHER_RANKS = frozenset(
    {
        *("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE"),
        *("ROLE_RANK", "ROLE_NAME", "ROLE_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "HOSTNAME"),
        *("TRAINING_JOB_NAME", "TRAINING_JOB_ARN"),
    }
)
_PASSED_ON = ("TRAINKIT_CHANNEL_", "TRAINKIT_S3_", CLUSTER_KEY)
_SETTINGS = frozenset(row.variable for row in TABLE if row.name not in ("script", "source"))  # those are the request's


def environment(job: Request, environ: Mapping[str, str]) -> dict[str, str]:
    """A host's environment: ours in the place of an image's, less what speaks of another job; then the job's."""
    identity = {"TRAINING_JOB_NAME": job["TrainingJobName"], "TRAINING_JOB_ARN": arn(job)}
    return {**image_environment(environ), **identity, **(job.get("Environment") or {})}


def image_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Ours in the place of an image's, less what speaks of another job."""
    inherited = {
        name: value
        for name, value in environ.items()
        if (name not in _OTHER_RANKS and not name.startswith(_OTHER_JOBS))
        or (name in _SETTINGS or name.startswith(_PASSED_ON))
    }
    if modules := inherited.get("PYTHONPATH"):  # hosts have working directories of their own
        inherited["PYTHONPATH"] = os.pathsep.join(str(Path(entry).absolute()) for entry in modules.split(os.pathsep))
    # An image has its programs, and its python3, in PATH.
    inherited["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), inherited.get("PATH", os.defpath)])
    return inherited
