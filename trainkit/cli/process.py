"""`process`: what SageMaker runs in the container of a processing job. One command per host, and one outcome for all.

    docker run IMAGE process features.py --x 1
    docker run IMAGE train                          where the service laid a processing job, and no training job
    trainkit process features.py --x 1              here, as a job of one host where no job is laid

All arguments are the script's; settings (docs/settings.md) come by the environment.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from trainkit.cli.folders import make
from trainkit.contract import job as contract
from trainkit.contract import message, processing
from trainkit.contract.outcome import LIMIT, Outcome, write_failure
from trainkit.contract.paths import Paths
from trainkit.contract.processing import ProcessingJob
from trainkit.contract.secrets import scrub
from trainkit.errors import TrainkitError
from trainkit.launch import supervise, words
from trainkit.launch.output import Console
from trainkit.plan import command, machine, process
from trainkit.plan.clusters.base import Engine
from trainkit.plan.launch import Process
from trainkit.plan.machine import Machine

_USAGE = """\
usage: process SCRIPT [argument]...      a script: .py, .sh
       process PROGRAM [argument]...     python3 script.py, bash runproc.sh, smspark-submit app.py, ...
       process                           process.py or features.py, of the image or of the input `code`
Runs the processing job that is laid under /opt/ml; a job of one host where none is."""


def main(arguments: Sequence[str] | None = None) -> None:
    """The executable. Never returns: the exit code is the job's."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if list(arguments) in (["-h"], ["--help"]):
        print(_USAGE)
        sys.exit(0)
    console = Console()
    paths = Paths.of(os.environ)
    _set_aside(paths)
    try:
        job, outcome = run(paths, arguments, console=console)
    except TrainkitError as error:
        job, outcome = None, Outcome(error.exit_code, str(error))
        words.report(outcome, speaker="process", console=console)
    except Exception as error:  # noqa: BLE001 (as PID 1 we are the last who can say what happened)
        import traceback  # a fault of ours is rare, and every start would pay for it

        traceback.print_exc()
        text = f"trainkit itself failed: {type(error).__name__}: {error}"
        job, outcome = None, Outcome(TrainkitError.exit_code, text)
        words.report(outcome, speaker="process", console=console)
    _leave(job, outcome, paths=paths, console=console)
    sys.exit(outcome.exit_code)


def run(paths: Paths, arguments: Sequence[str], *, console: Console) -> tuple[ProcessingJob, Outcome]:
    """One host's part of the job, from its config files to the verdict."""
    job = processing.read(paths, environ=os.environ)
    folders = (Path.cwd(), paths.processing / "input/code", paths.code)
    environ = {**job.environment, **os.environ}
    asked = environ.get("TRAINKIT_SCRIPT") or environ.get("SAGEMAKER_PROGRAM")
    here, wanted, cluster = machine.look(os.environ), job.settings.cluster, None
    try:
        what = command.resolve(
            arguments, folders=folders, environ=environ, script=asked, hosts=len(job.hosts), cluster=wanted
        )
        kind = what.cluster or wanted or "none"
        cluster = _cluster(kind, machine=here, environ=environ) if kind != "none" else None
    except TrainkitError as error:
        if len(job.hosts) == 1:
            raise
        what = Process((), " ".join(arguments), problem=error)  # the others are not to wait for this host
    if job.laid:
        make(paths.output)
    for output in job.outputs.values():
        if output.path and not output.app_managed:
            make(output.path)
    planner = partial(
        process.make, job, what, machine=here, environ=os.environ, folder=Path.cwd(),
        warnings=process.unready(job), cluster=cluster,
    )  # fmt: skip
    outcome = supervise.run(planner, environ=os.environ, console=console)
    # A variable of the request may be a secret that our own environment does not have.
    hidden = scrub(outcome.failure, job.environment) if outcome.failure else None
    return job, replace(outcome, failure=hidden)


def _cluster(kind: str, *, machine: Machine, environ: Mapping[str, str]) -> Engine:
    from trainkit.plan.clusters import choose  # most jobs have none

    return choose.find(kind, machine=machine, environ=environ)


def _set_aside(paths: Paths) -> None:
    """What an earlier run left in the same root is not this one's."""
    for path in (paths.message, paths.failure):
        with suppress(OSError):  # there is none, or it cannot be moved; then it could not be written either
            path.replace(path.with_name(f"{path.name}.previous"))


def _leave(job: ProcessingJob | None, outcome: Outcome, *, paths: Paths, console: Console) -> None:
    """The failure file on every host, and the message on one."""
    if not (job.laid if job else contract.is_processing(paths)):
        return  # tried out by hand: the log has it all
    speaker = job.host if job else "process"
    try:
        if outcome.failure:
            write_failure(paths.failure, scrub(outcome.failure)[:LIMIT])
        _leave_message(job, outcome, paths=paths, console=console)
    except OSError as error:
        console.say(speaker, f"cannot write into {paths.output}: {error.strerror}")


def _leave_message(job: ProcessingJob | None, outcome: Outcome, *, paths: Paths, console: Console) -> None:
    """One host's message is the job's, since the service joins them: the first's, or the next one's if that is gone."""
    own = _script_message(paths)
    speaks = job is None or job.is_first or (outcome.alone and job.host_rank == 1)
    if not speaks:
        if own:
            console.say(job.host if job else "process", f"the script's message:\n{own.decode('utf-8', 'replace')}")
            paths.message.unlink()
        return
    text = message.compose(scrub(outcome.failure), own) if outcome.failure else message.fitted(own)
    if text and text != own:
        from trainkit.storage.commit import write_whole

        if outcome.failure is None and job:
            console.say(job.host, f"the script's message is cut, or made UTF-8: {len(own)} bytes, {message.LIMIT} fit")
        write_whole(paths.message, text)


def _script_message(paths: Paths) -> bytes:
    try:
        return paths.message.read_bytes()
    except OSError:
        return b""


if __name__ == "__main__":
    main()
