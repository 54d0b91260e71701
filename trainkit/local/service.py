"""One training job as the service would run it, on this machine.

request ─▶ channels found, linked or fetched ─▶ a root per host with its config ─▶ its command on each ─▶ wait
                                          ▲          checkpoints ◀─▶ hosts, all the while             │
                                          └── a host was lost: RetryStrategy, spot ◀──────────────────┤ stop, limits:
                                                                                                      │ SIGTERM, SIGKILL
                        describe.json ◀─ failure reason ◀─ model.tar.gz, output.tar.gz (see results) ◀┘
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainkit.contract.rehearsal import Fault
from trainkit.errors import DataError, StorageError, UsageError
from trainkit.launch.output import Console
from trainkit.local import agent, claim, faults, inputs, isolation, layout, request, results
from trainkit.local.agent import Agent
from trainkit.local.faults import Faults
from trainkit.local.inputs import Found, Pipes
from trainkit.local.isolation import Host, Isolation
from trainkit.local.metrics import Metrics
from trainkit.local.request import Request
from trainkit.local.results import Finish, Places, Result
from trainkit.local.screen import Screen
from trainkit.local.status import Status
from trainkit.local.training import Ended, Stop, Training
from trainkit.local.uploads import Destination, Uploads


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
class Surroundings:
    """What the request of a training job does not say."""

    base: Path
    """Where its paths are relative to."""
    code: str | None = None
    """The channel that is a script's folder on this machine, of which caches and the like are no part."""
    upload: bool = False
    """Whether results really go to their URLs, instead of the output directory."""
    own_metrics: bool = False
    """Whether metrics are what `job.log` wrote, and not what MetricDefinitions find."""
    described: Callable[[Mapping[str, float]], Mapping[str, Any]] = lambda metrics: {}
    """What else belongs into the description, given the job's metrics."""


def run(job: Request, options: Options, around: Surroundings, console: Console) -> Result:
    """Execute a CreateTrainingJob request. Raises TrainkitError where it cannot be started at all.

    An earlier job's results in the output directory stay until it is known that this one can start.
    """
    output = options.output.absolute()

    def say(text: str) -> None:
        console.say("local", text)

    chosen, why = isolation.choose(_isolation(job, options))
    with contextlib.ExitStack() as stack:
        stack.callback(chosen.close)
        faults.check(options.faults, chosen, hosts=len(request.hosts(job)))
        _refuse(job, chosen)
        if why:
            say(why)
        if job.get("EnableNetworkIsolation") and options.isolation not in (None, "network"):
            say(f"EnableNetworkIsolation: not with --isolation {options.isolation}, hosts have this machine's network")
        stack.enter_context(told(output))
        inputs.unseen("--output", output, covered=chosen.covers)
        sources = request.sources(job, code=around.code)
        found = inputs.survey(sources, base=around.base, covered=chosen.covers, output=output, warn=say)
        places = results.places(job, base=around.base, output=output, upload=around.upload)
        stack.enter_context(claim.claimed(output))
        claim.clear(output)
        if places.beginning and isinstance(places.checkpoints, Path):
            agent.seed(places.beginning, places.checkpoints)
        metrics = Metrics(None if around.own_metrics else job["AlgorithmSpecification"].get("MetricDefinitions") or [])
        status = Status(job, output / claim.DESCRIPTION)
        attempts = _Attempts(job, options, places, status, metrics, console)
        ended = attempts.run(found, chosen)
        status.enter("Uploading")
        finish = Finish(job, console, status, places)
        values = metrics.values
        more, trouble = around.described(values), attempts.trouble
        return finish.finish(ended, metrics=values, trouble=trouble, more=more, lost=attempts.lost)


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


def _isolation(job: Request, options: Options) -> str | None:
    apart = job.get("EnableNetworkIsolation") or any(fault.kind == "link" for fault in options.faults)
    return options.isolation or ("network" if apart else None)


def _refuse(job: Request, chosen: Isolation) -> None:
    """What this kind of hosts cannot do."""
    words = request.words(job)
    if chosen.covers is None and words != ("train",):
        raise UsageError(
            f"ContainerEntrypoint and ContainerArguments say {' '.join(words)[:200]!r}: commands like this need the "
            f"host's own /opt/ml, and so --isolation namespace"
        )


class _Attempts:
    """The job's life on its hosts: once, and again where hosts were lost and the request says so."""

    def __init__(
        self, job: Request, options: Options, places: Places, status: Status, metrics: Metrics, console: Console
    ) -> None:
        self._job = job
        self._options = options
        self._places = places
        self._status = status
        self._metrics = metrics
        self._console = console
        self._faults = options.faults
        self._began = time.monotonic()
        self._trained = 0.0  # seconds
        self._attempts = 0  # that are over
        self._lost: list[str] = []
        self.lost = False
        """Whether the last attempt ended because the platform lost a host."""
        self.trouble: OSError | StorageError | None = None
        """What kept the checkpoints from being copied in the end."""

    def run(self, found: Sequence[Found], chosen: Isolation) -> Ended:
        """See it through. Raises TrainkitError, OSError."""
        restarts = (self._job.get("RetryStrategy") or {}).get("MaximumRetryAttempts", 0)
        while True:
            self._status.enter("Starting")
            with contextlib.ExitStack() as stack:
                stack.callback(chosen.close)
                ended = self._attempt(found, chosen, stack)
            self.lost = bool(self._lost) and ended.stop in (None, Stop.FAILED)
            if not self.lost or not (self._job.get("EnableManagedSpotTraining") or restarts):
                return ended
            if self._job.get("EnableManagedSpotTraining"):
                self._status.enter("Interrupted")
            else:
                restarts -= 1
                self._status.enter("Restarting")
            self._console.say("local", f"{' and '.join(self._lost)} was lost: the job starts again")
            self._clear()
            chosen, _ = isolation.choose(_isolation(self._job, self._options))

    def _clear(self) -> None:
        """New hosts begin with nothing; the logs of the old ones are kept under other names."""
        claim.remove(self._places.output / "hosts")
        self._attempts += 1
        for log in sorted((self._places.output / "logs").glob("algo-*[0-9].log")):
            log.rename(log.with_name(f"attempt-{self._attempts}-{log.name}"))

    def _attempt(self, found: Sequence[Found], chosen: Isolation, stack: contextlib.ExitStack) -> Ended:
        job, output = self._job, self._places.output
        fetched = output / "inputs"
        argv = request.as_argv(request.words(job))
        hosts = layout.hosts(job, chosen, output, argv=argv, found=found, fetched=fetched)
        self._status.enter("Downloading")
        checkpoints = self._agent(hosts)
        here = [inputs.fetch(one, into=fetched) for one in found]
        stack.callback(inputs.unlock, here, hosts)
        for one in here:
            inputs.lay(one, hosts, read_only=chosen.covers is None)
        board = Uploads(self._tensorboard(), hosts)
        stack.callback(board.stop)
        pipes = Pipes(here, hosts, self._options.environ)
        stack.callback(pipes.close)

        def begun() -> None:
            board.begin()
            if checkpoints:
                stack.callback(checkpoints.stop)
                checkpoints.begin()

        ended = self._train(hosts, chosen, begun)
        pipes.close()
        self._last_copies(checkpoints, board)
        return ended

    def _agent(self, hosts: Sequence[Host]) -> Agent | None:
        local = request.checkpoints(self._job)
        if local is None or self._places.checkpoints is None:
            return None
        checkpoints = Agent(local, self._places.checkpoints, hosts)
        checkpoints.download()
        return checkpoints

    def _tensorboard(self) -> list[Destination]:
        local, target = request.tensorboard(self._job), self._places.tensorboard
        return [Destination("tensorboard", local, target, continuous=True)] if local and target is not None else []

    def _last_copies(self, checkpoints: Agent | None, board: Uploads) -> None:
        try:
            if checkpoints:
                checkpoints.end(lost=self._lost)
            board.end(all_of_them=True)
        except DataError as clash:
            self._console.say("local", f"warning: {clash}")
        except (OSError, StorageError) as error:
            self.trouble = error

    def _train(self, hosts: Sequence[Host], chosen: Isolation, begun: Callable[[], None]) -> Ended:
        job, options = self._job, self._options
        output = self._places.output
        addresses = {host.name: host.address for host in hosts}
        environ = layout.environment(job, options.environ)
        inherited = {**chosen.port, **environ, **faults.environment(self._faults)}
        planned = Faults(self._faults, chosen, say=lambda text: self._console.say("local", text))
        screen = Screen(self._console, colour=options.colour, metrics=self._metrics)
        training = Training(self._console, screen, planned, on_stop=lambda: self._status.enter("Stopping"))
        self._status.enter("Training")
        began = time.monotonic()
        try:
            return training.run(
                [(host, inherited | chosen.environment(host, addresses)) for host in hosts],
                chosen,
                logs=output / "logs",
                hosts_file=layout.hosts_file(hosts, output),
                own_terminal=options.at_terminal and len(hosts) == 1,
                limits=self._limits(),
                begun=begun,
            )
        finally:
            self._trained += time.monotonic() - began
            self._faults, self._lost = planned.waiting, planned.killed

    def _limits(self) -> dict[Stop, float]:
        """Seconds from now."""
        runtime, waiting = (request.limit(self._job, f"Max{name}InSeconds") for name in ("Runtime", "WaitTime"))
        limits = {Stop.MAX_RUNTIME: float(runtime or 0) - self._trained}
        if waiting is not None and self._job.get("EnableManagedSpotTraining"):
            limits[Stop.MAX_WAIT] = waiting - (time.monotonic() - self._began)
        if self._options.stop_after is not None:
            limits[Stop.ASKED] = self._options.stop_after - self._trained
        return limits
