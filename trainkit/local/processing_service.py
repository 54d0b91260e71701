"""One processing job as the service would run it, on this machine.

request ─▶ inputs found, linked or piped ─▶ a root per host with its config ─▶ its container's command on each ─▶ wait
                                                                                      │ Continuous outputs, stop,
describe.json ◀─ exit message ◀─ outputs merged, collisions told ◀────────────────────┘ MaxRuntime: SIGTERM, SIGKILL
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainkit.contract.paths import Paths
from trainkit.contract.processing import placed
from trainkit.errors import DataError, StorageError, TrainkitError, UsageError
from trainkit.launch.output import Console
from trainkit.local import (
    claim,
    faults,
    inputs,
    isolation,
    layout,
    objects,
    processing_config,
    processing_request,
    stage,
    verdict,
)
from trainkit.local.faults import Faults
from trainkit.local.inputs import Pipes
from trainkit.local.isolation import Host, Isolation
from trainkit.local.objects import Place
from trainkit.local.processing_status import Status, exit_message
from trainkit.local.request import Request
from trainkit.local.screen import Screen
from trainkit.local.service import Options, told
from trainkit.local.stage import Listing
from trainkit.local.status import failure_reason
from trainkit.local.training import Ended, Stop, Training
from trainkit.local.uploads import Uploads, destinations
from trainkit.local.verdict import Verdict
from trainkit.storage.commit import write_whole


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a request does not say: where its paths are relative to, and what stands for the image's own files."""

    base: Path
    image_code: Path | None = None
    """A folder that hosts see as /opt/ml/code."""
    code_input: str | None = None
    """The input that is a script's folder, of which caches and the like are no part."""
    upload: bool = False
    """Whether outputs really go to their URLs, instead of the output directory."""


@dataclass(frozen=True, slots=True)
class Result:
    """The end of a local processing job."""

    exit_code: int
    description: Mapping[str, Any]
    failure: str | None
    places: Mapping[str, Place]
    """Where each output is, by its name."""


def run(job: Request, options: Options, around: Surroundings, console: Console) -> Result:
    """Execute a CreateProcessingJob request. Raises TrainkitError where it cannot be started at all.

    An earlier job's results in the output directory stay until it is known that this one can start.
    """
    output = options.output.absolute()
    _refuse(options)

    def say(text: str) -> None:
        console.say("local", text)

    def skip(error: OSError) -> None:
        say(f"warning: {error.filename} is left out of the code: {error.strerror}")

    chosen, why = isolation.choose(options.isolation)
    with contextlib.ExitStack() as stack:
        stack.callback(chosen.close)
        faults.check(options.faults, chosen, hosts=len(processing_request.hosts(job)))
        if why:
            say(why)
        stack.enter_context(told(output))
        sources = processing_request.inputs(job, code=around.code_input)
        found = inputs.survey(sources, base=around.base, covered=chosen.covers, output=output, warn=say)
        image = stage.code(around.image_code, without=[output], unreadable=skip) if around.image_code else None
        places = _places(job, around, output)
        stack.enter_context(claim.claimed(output))
        claim.clear(output)
        status = Status(job, output / claim.DESCRIPTION)
        status.enter("InProgress")
        hosts = _hosts(job, chosen, output, image)
        fetched = [inputs.fetch(one, into=output / "inputs") for one in found]
        for one in fetched:
            inputs.lay(one, hosts, read_only=False)
        uploads = Uploads(destinations(processing_request.outputs(job), places=places), hosts)
        stack.callback(uploads.stop)
        pipes = Pipes(fetched, hosts, options.environ)
        stack.callback(pipes.close)
        ended = _run(job, options, hosts, chosen, console, status, uploads)
        pipes.close()
        return _finish(job, ended, status, uploads, output=output, console=console, places=places)


def _refuse(options: Options) -> None:
    for fault in options.faults:
        if fault.kind == "rank" or fault.step is not None:
            raise UsageError(f"--kill {fault}: a processing job has no ranks and no steps: write host=2@30s")


def _places(job: Request, around: Surroundings, output: Path) -> dict[str, Place]:
    """Where outputs go: paths and file:// URLs as they are, others below the output directory unless asked for."""
    places: dict[str, Place] = {}
    for one in processing_request.outputs(job):
        there = objects.place(one["S3Output"]["S3Uri"], base=around.base)
        kept = isinstance(there, Path) or around.upload
        places[one["OutputName"]] = there if kept else output / "outputs" / one["OutputName"]
    return places


def _hosts(job: Request, chosen: Isolation, output: Path, image: Listing | None) -> list[Host]:
    """The job's hosts, each with a root, its config, and its outputs' directories."""
    names = processing_request.hosts(job)
    made = []
    for name, address in zip(names, chosen.addresses(len(names)), strict=True):
        root = output / "hosts" / name
        seen = Path("/opt/ml") if chosen.covers else root
        host = Host(name, address, root, processing_request.argv(job, root=seen))
        paths = Paths(root)
        for folder in (paths.processing, paths.output, root / "run"):
            folder.mkdir(parents=True)
        for one in processing_request.outputs(job):
            placed(one["S3Output"]["LocalPath"], paths).mkdir(parents=True, exist_ok=True)
        if image:
            stage.link(image, into=paths.code)
        processing_config.write(job, host=name, interface=chosen.interface, config=paths.processing_config)
        made.append(host)
    return made


def _run(
    job: Request, options: Options, hosts: Sequence[Host], chosen: Isolation, console: Console, status: Status,
    uploads: Uploads,
) -> Ended:  # fmt: skip
    output = options.output.absolute()
    addresses = {host.name: host.address for host in hosts}
    environ = {**chosen.port, **layout.image_environment(options.environ), **(job.get("Environment") or {})}
    limits = {Stop.MAX_RUNTIME: processing_request.max_runtime(job)}
    if options.stop_after is not None:
        limits[Stop.ASKED] = options.stop_after
    planned = Faults(options.faults, chosen, say=lambda text: console.say("local", text))
    screen = Screen(console, colour=options.colour)
    training = Training(console, screen, planned, on_stop=lambda: status.enter("Stopping"))
    status.began()
    return training.run(
        [(host, environ | chosen.environment(host, addresses)) for host in hosts],
        chosen,
        logs=output / "logs",
        hosts_file=layout.hosts_file(hosts, output),
        own_terminal=options.at_terminal and len(hosts) == 1,
        limits=limits,
        begun=uploads.begin,
    )


def _finish(
    job: Request, ended: Ended, status: Status, uploads: Uploads, *, output: Path, console: Console,
    places: Mapping[str, Place],
) -> Result:  # fmt: skip
    found = verdict.judge(ended, logs=output / "logs")
    reason = failure_reason(None, found.exit_code) if found.exit_code else None
    try:
        uploads.end(all_of_them=not found.exit_code)
        for link in uploads.links:
            console.say("local", f"warning: {link} is a symbolic link, and the service copies none")
    except (OSError, TrainkitError) as error:
        what = f"{error.filename or output}: {error.strerror}" if isinstance(error, OSError) else str(error)
        console.say("local", f"{what}\nWhat the hosts wrote lies in {output / 'hosts'}")
        if not found.exit_code:
            code = DataError.exit_code if isinstance(error, DataError) else StorageError.exit_code
            found, reason = Verdict("Failed", code, what), f"ClientError: {what}"
    message = ""
    try:
        message = exit_message([_read(Paths(host.host.root).message) for host in ended.hosts])
    except UnicodeDecodeError:
        if not found.exit_code:
            what = "the exit message /opt/ml/output/message is not UTF-8"
            found, reason = Verdict("Failed", DataError.exit_code, what), f"ClientError: {what}"
    if found.failure:
        write_whole(output / "failure", found.failure)
    ended_as = {"MaxRuntimeExceeded": "Stopped"}.get(found.status, found.status)
    described = status.ended(ended_as, message=message, reason=reason)
    return Result(found.exit_code, described, found.failure, places)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
