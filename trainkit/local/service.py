"""One training job as the service would run it, on this machine.

request ─▶ channels linked or fetched ─▶ a root per host with its config ─▶ `train` on each ─▶ wait
                                                                                                 │ stop, MaxRuntime:
describe.json ◀─ failure reason ◀─ model.tar.gz, output.tar.gz, checkpoints ◀────────────────────┘ SIGTERM, SIGKILL
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainkit.contract.paths import Paths
from trainkit.contract.rehearsal import Fault
from trainkit.errors import StorageError
from trainkit.launch.output import Console
from trainkit.local import archive, claim, faults, isolation, layout, request, verdict
from trainkit.local.faults import Faults
from trainkit.local.isolation import Host, Isolation
from trainkit.local.request import Request
from trainkit.local.screen import Screen
from trainkit.local.status import Status, failure_reason
from trainkit.local.training import Ended, Stop, Training
from trainkit.local.verdict import Verdict
from trainkit.storage.commit import write_whole


@dataclass(frozen=True, slots=True)
class Options:
    """How to run a request here, apart from what the request itself says."""

    output: Path
    environ: Mapping[str, str]
    isolation: str | None = None
    stop_after: float | None = None  # seconds of training
    faults: tuple[Fault, ...] = ()
    at_terminal: bool = False
    colour: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    """The end of a local job."""

    exit_code: int
    description: Mapping[str, Any]
    model: Path | None
    failure: str | None


def run(job: Request, options: Options, console: Console) -> Result:
    """Execute a CreateTrainingJob request. Raises TrainkitError where it cannot be started at all.

    An earlier job's results in the output directory stay until it is known that this one can start.
    """
    output = options.output.absolute()
    links = any(fault.kind == "link" for fault in options.faults)
    chosen, why = isolation.choose(options.isolation or ("network" if links else None))
    with contextlib.ExitStack() as stack:
        stack.callback(chosen.close)
        faults.check(options.faults, chosen, hosts=len(request.hosts(job)))
        if why:
            console.say("local", why)
        stack.enter_context(told(output))
        known = layout.survey(job, covered=chosen.covers, output=output, warn=lambda text: console.say("local", text))
        stack.enter_context(claim.claimed(output))
        claim.clear(output)
        status = Status(job)
        status.enter("Starting")
        hosts = layout.hosts(job, chosen, output)
        status.enter("Downloading")
        layout.fill(job, hosts, known, interface=chosen.interface, output=output)
        screen = Screen(console, colour=options.colour)
        status.enter("Training")
        planned = Faults(options.faults, chosen, say=lambda text: console.say("local", text))
        training = Training(console, screen, planned, on_stop=lambda: status.enter("Stopping"))
        ended = _train(training, job, options, hosts, chosen)
        status.enter("Uploading")
        return _Finish(job, console, status, output).finish(ended, metrics=screen.metrics)


@contextlib.contextmanager
def told(output: Path) -> Iterator[None]:
    """What the operating system refuses on the way, as an error that says where."""
    try:
        yield
    except OSError as error:
        where = error.filename or output
        raise StorageError(
            f"the job cannot run: {where}: {error.strerror or error}. Its files lie in {output}: look at its "
            f"permissions and the space left, or name another --output"
        ) from error


def _train(training: Training, job: Request, options: Options, hosts: Sequence[Host], chosen: Isolation) -> Ended:
    output = options.output.absolute()
    addresses = {host.name: host.address for host in hosts}
    inherited = {**chosen.port, **layout.environment(job, options.environ), **faults.environment(options.faults)}
    limits = {Stop.MAX_RUNTIME: float(job["StoppingCondition"]["MaxRuntimeInSeconds"])}
    if options.stop_after is not None:
        limits[Stop.ASKED] = options.stop_after
    return training.run(
        [(host, inherited | chosen.environment(host, addresses)) for host in hosts],
        chosen,
        logs=output / "logs",
        hosts_file=layout.hosts_file(hosts, output),
        own_terminal=options.at_terminal and len(hosts) == 1,
        limits=limits,
    )


class _Finish:
    """Collect what the hosts left, and write down how it ended."""

    def __init__(self, job: Request, console: Console, status: Status, output: Path) -> None:
        self._job = job
        self._console = console
        self._status = status
        self._output = output

    def finish(self, ended: Ended, *, metrics: Mapping[str, float]) -> Result:
        found = verdict.judge(ended, logs=self._output / "logs")
        reason = failure_reason(found.failure, found.exit_code) if found.exit_code else None
        model = None
        try:
            model = self._collect([Paths(host.host.root) for host in ended.hosts])
        except OSError as error:
            text = f"Artifact upload failed: {error.filename or self._output}: {error.strerror or error}"
            self._console.say("local", f"{text}. What the hosts wrote lies in {self._output / 'hosts'}")
            if not found.exit_code:
                found = Verdict("Failed", StorageError.exit_code, text)
                reason = f"ClientError: {text}"
        self._status.enter(found.status)
        description = self._status.document(model=model, reason=reason, metrics=metrics)
        try:
            if found.failure:
                write_whole(self._output / "failure", found.failure)
            text = json.dumps(description, indent=2, allow_nan=False)
            write_whole(self._output / claim.DESCRIPTION, text + "\n")
        except OSError as error:
            self._console.say("local", f"cannot write {error.filename or self._output}: {error.strerror or error}")
            return Result(found.exit_code or StorageError.exit_code, description, model, found.failure)
        return Result(found.exit_code, description, model, found.failure)

    def _collect(self, roots: Sequence[Paths]) -> Path | None:
        """Merge models, outputs and checkpoints. Returns the model's place. Raises OSError."""
        compress = self._job["OutputDataConfig"].get("CompressionType", "GZIP") == "GZIP"
        for paths in roots:  # first, since nobody can make them again
            archive.copy_new(paths.checkpoints, into=self._output / "checkpoints")
        model, clashes = archive.collect([p.model for p in roots], into=self._output / "model", compress=compress)
        _, more = archive.collect([p.output_data for p in roots], into=self._output / "output", compress=compress)
        for name in [*clashes, *more]:
            self._console.say("local", f"warning: two hosts wrote {name} differently; the first host's stands")
        return model
