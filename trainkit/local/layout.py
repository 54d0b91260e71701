"""The directories of a local job: its output, and the root of each host with channels, config and checkpoints."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from trainkit.contract.paths import Paths
from trainkit.errors import UsageError
from trainkit.local import archive, config, request, stage
from trainkit.local.isolation import Host, Isolation
from trainkit.local.request import Request
from trainkit.local.stage import Amount
from trainkit.local.status import ARN, arn
from trainkit.storage.commit import write_whole

DESCRIPTION = "describe.json"


def clear(output: Path) -> Path:
    """An output directory without an earlier job's results; its checkpoints stay, as they would on S3."""
    output = output.absolute()
    if output.is_dir() and any(output.iterdir()) and not _is_ours(output / DESCRIPTION):
        raise UsageError(f"--output {output} holds files, and no earlier job of ours: name a new or empty directory")
    for name in ("hosts", "logs", "channels", "model", "output"):
        shutil.rmtree(output / name, ignore_errors=True)
    for name in ("model.tar.gz", "output.tar.gz", "failure", DESCRIPTION):
        (output / name).unlink(missing_ok=True)
    (output / "logs").mkdir(parents=True, exist_ok=True)
    write_whole(output / DESCRIPTION, "{}\n")  # from here on the directory is ours, even if we are killed
    return output


def _is_ours(description: Path) -> bool:
    """Whether an earlier local job wrote it; what lies beside it may then be removed."""
    try:
        described = json.loads(description.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return described == {} or (isinstance(described, dict) and described.get("TrainingJobArn", "").startswith(ARN))


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


def fill(job: Request, hosts: Sequence[Host], *, interface: str, output: Path) -> dict[str, Amount]:
    """Lay config and channels into every host. Returns what each channel holds."""
    channels = {channel["ChannelName"]: request.source(channel) for channel in job.get("InputDataConfig", [])}
    sources = {name: stage.fetch(url, into=output / "channels" / name) for name, url in channels.items()}
    amounts = {}
    for host in hosts:
        config.write(job, host=host.name, interface=interface, config=Paths(host.root).config)
    for name, source in sources.items():
        for host in hosts:
            into = Paths(host.root).channels / name
            if name == "code":
                data = [other for key, other in sources.items() if key != "code"]
                amounts[name] = stage.link_code(source, into=into, without=[*data, output])
            else:
                amounts[name] = stage.link(source, into=into)
    return amounts


def hosts_file(hosts: Sequence[Host], output: Path) -> Path:
    """The machine's own names, and the hosts'."""
    machine = Path("/etc/hosts")
    own = machine.read_text(encoding="utf-8", errors="replace") if machine.exists() else "127.0.0.1 localhost\n"
    path = output / "hosts" / "hosts"
    write_whole(path, own.rstrip("\n") + "\n" + "".join(f"{host.address} {host.name}\n" for host in hosts))
    return path


_NOT_INHERITED = (
    *("SM_", "SAGEMAKER_", "TRAINKIT_", "TORCHELASTIC_", "TRAINING_JOB_", "GROUP_", "ROLE_", "MASTER_"),
    *("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "HOSTNAME"),
)
_STILL_INHERITED = ("TRAINKIT_CHANNEL_", "TRAINKIT_S3_")


def environment(job: Request, environ: Mapping[str, str]) -> dict[str, str]:
    """A host's environment: ours in the place of an image's, less what speaks of another job; then the job's."""
    inherited = {
        name: value
        for name, value in environ.items()
        if not name.startswith(_NOT_INHERITED) or name.startswith(_STILL_INHERITED)
    }
    identity = {"TRAINING_JOB_NAME": job["TrainingJobName"], "TRAINING_JOB_ARN": arn(job)}
    return {**inherited, **identity, **job.get("Environment", {})}
