"""The directories of a local job: its output, and the root of each host with channels, config and checkpoints."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from trainkit.contract.environ import CLUSTER_KEY
from trainkit.contract.paths import Paths
from trainkit.contract.settings import TABLE
from trainkit.errors import UsageError
from trainkit.local import archive, claim, config, request, stage
from trainkit.local.isolation import Host, Isolation
from trainkit.local.request import Request
from trainkit.local.stage import Listing
from trainkit.local.status import arn
from trainkit.storage.commit import write_whole


def survey(job: Request, *, covered: Path | None, output: Path, warn: Callable[[str], None]) -> dict[str, Listing]:
    """What the local channels hold. Nothing is changed yet: here a job is refused that cannot run.

    `covered` is what the hosts do not see of this machine. Raises UsageError.
    """
    found = {name: path for name, url in _channels(job).items() if (path := stage.local(url))}
    what = {f"channel {name}": path for name, path in found.items()}
    places = {**what, "--output": output, "the interpreter": Path(sys.prefix)}
    for name, path in what.items():
        if any(path.resolve().is_relative_to((output / made).resolve()) for made in claim.REPLACED):
            raise UsageError(
                f"{name} is {path}, a result of an earlier job that this one would replace: name another --output"
            )
    for name, path in places.items():
        if covered and any(one.is_relative_to(covered) for one in (path.absolute(), path.resolve())):
            raise UsageError(
                f"{name} is {path}, but every host has a {covered} of its own there and cannot see it: name another "
                f"path, or use --isolation process"
            )
    without = [*(path for name, path in found.items() if name != "code"), output]

    def skip(error: OSError) -> None:
        warn(f"warning: {error.filename} is left out of the code: {error.strerror}")

    return {
        name: stage.code(path, without=without, unreadable=skip) if name == "code" else stage.data(path)
        for name, path in found.items()
    }


def hosts(job: Request, chosen: Isolation, output: Path) -> list[Host]:
    """The job's hosts, each with an empty root and the checkpoints of an earlier run."""
    names = request.hosts(job)
    made = [
        Host(name, address, output / "hosts" / name)
        for name, address in zip(names, chosen.addresses(len(names)), strict=True)
    ]
    for host in made:
        paths = Paths(host.root)
        for folder in (
            paths.config,
            paths.channels,
            paths.model,
            paths.output_data,
            paths.checkpoints,
            host.root / "run",
        ):
            folder.mkdir(parents=True)
        archive.copy_new(output / "checkpoints", into=paths.checkpoints)
    return made


def fill(job: Request, hosts: Sequence[Host], known: Mapping[str, Listing], *, interface: str, output: Path) -> None:
    """Lay config and channels into every host: the `known` ones, and those that must be fetched first."""
    for host in hosts:
        config.write(job, host=host.name, interface=interface, config=Paths(host.root).config)
    for name, url in _channels(job).items():
        listing = known.get(name) or stage.data(stage.fetch(url, into=output / "channels" / name))
        for host in hosts:
            stage.link(listing, into=Paths(host.root).channels / name)


def _channels(job: Request) -> dict[str, str]:
    return {channel["ChannelName"]: request.source(channel) for channel in job.get("InputDataConfig", [])}


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
    return {**image_environment(environ), **identity, **job.get("Environment", {})}


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
    return inherited
