"""`train`: what SageMaker runs in the container. Read the config, plan, run, write the failure, exit as the script did.

    docker run IMAGE train

It takes no arguments in the cloud; by hand, any setting (docs/settings.md) as a flag: `train --procs 2 --engine spawn`.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from trainkit.cli.folders import make
from trainkit.contract import job as contract
from trainkit.contract.job import Job
from trainkit.contract.outcome import LIMIT, Outcome, write_failure
from trainkit.contract.paths import Paths
from trainkit.contract.secrets import scrub
from trainkit.contract.settings import TABLE
from trainkit.errors import TrainkitError, UsageError
from trainkit.launch import supervise, words
from trainkit.launch.errand import Errand, Planner
from trainkit.launch.output import Console
from trainkit.plan import code, launch, machine, script
from trainkit.plan.code import Prepared
from trainkit.plan.machine import Machine


def main() -> None:
    """The executable. Never returns: the exit code is the job's."""
    paths = Paths.of(os.environ)
    if contract.is_processing(paths):  # the image has one entry point, and the job is of the other kind
        from trainkit.cli import process

        process.main(sys.argv[1:])
    console = Console()
    try:
        outcome = train(paths, flags=parse(sys.argv[1:]), console=console)
    except TrainkitError as error:
        outcome = Outcome(error.exit_code, str(error))
        words.report(outcome, speaker="train", console=console)
    except Exception as error:  # noqa: BLE001 (as PID 1 we are the last who can say what happened)
        import traceback  # a fault of ours is rare, and every start would pay for it

        traceback.print_exc()
        outcome = Outcome(TrainkitError.exit_code, f"trainkit itself failed: {type(error).__name__}: {error}")
        words.report(outcome, speaker="train", console=console)
    _leave(outcome, paths=paths, console=console)
    sys.exit(outcome.exit_code)


def train(paths: Paths, *, flags: dict[str, str], console: Console) -> Outcome:
    """One host's part of the job, from its config files to the verdict."""
    _set_aside(paths)
    job = contract.read(paths, environ=os.environ, flags=flags)
    entry = script.locate(job)
    order = code.order(job, entry)
    if not (order and order.source):  # else the code is still to come
        entry = script.look(entry)
    for folder in (paths.model, paths.output_data, job.checkpoints):
        make(folder)
    here = machine.look(os.environ)
    ready: Prepared | None = None
    if job.settings.features:
        from trainkit.cli import embedded  # most jobs have none

        made, ready = embedded.make(job, order, machine=here, environ=os.environ, console=console)
        if made.failure or made.stopped or made.exit_code:
            return made
        job = contract.read(paths, environ=os.environ, flags=flags)  # their splits are channels now
    try:
        planner: Planner = partial(launch.make, job, machine=here, script=entry, environ=os.environ)
        if ready:
            planner, order = _plan_with(job, here, ready), None
        errand = Errand(order, partial(_plan_with, job, here)) if order else None
        outcome = supervise.run(planner, environ=os.environ, console=console, errand=errand)
        # What the job's author named as secret is no variable of ours, but the ranks knew it.
        hidden = scrub(outcome.failure, job.hyperparameters.texts) if outcome.failure else None
        return replace(outcome, failure=hidden)
    finally:
        if job.host_rank == 0:  # the one that writes the model; in the SDK's local mode all hosts share the folder
            _sweep(paths.model)


def _plan_with(job: Job, here: Machine, ready: Prepared) -> Planner:
    """How to plan when the code lies there, with all that it requires."""
    job = replace(job, unpacked=ready.folder)
    entry = script.look(script.locate(job))
    return partial(launch.make, job, machine=here, script=entry, environ=os.environ, code=ready)


def _set_aside(paths: Paths) -> None:
    """What an earlier run left in the same root is not this one's failure, nor its success."""
    with suppress(OSError):  # there is none, or it cannot be moved; then it could not be written either
        paths.failure.replace(paths.failure.with_name("failure.previous"))
    with suppress(OSError):
        paths.success.unlink()


def parse(arguments: Sequence[str]) -> dict[str, str]:
    """Settings from `--name value` and `--name=value`."""
    rows = {row.flag: row for row in TABLE}
    flags: dict[str, str] = {}
    rest = list(arguments)
    while rest:
        flag, equals, value = rest.pop(0).partition("=")
        if flag in ("-h", "--help"):
            print(_help())
            sys.exit(0)
        if flag not in rows or (not equals and not rest):
            raise UsageError(f"train: {flag} {'needs a value' if flag in rows else 'is no flag'}\n{_help()}")
        flags[rows[flag].name] = value if equals else rest.pop(0)
    return flags


def _help() -> str:
    width = max(len(row.flag) for row in TABLE)
    return "\n".join(["usage: train [--setting value]...", *(f"  {row.flag:{width}}  {row.meaning}" for row in TABLE)])


def _sweep(model: Path) -> None:
    """Remove what a killed rank left half-written: the platform uploads whatever lies there."""
    for scratch in model.glob(".trainkit-*.part"):
        shutil.rmtree(scratch, ignore_errors=True)


def _leave(outcome: Outcome, *, paths: Paths, console: Console) -> None:
    """The failure or success file. What the script wrote into the failure file itself is kept."""
    try:
        if outcome.failure:
            write_failure(paths.failure, scrub(outcome.failure)[:LIMIT])
        elif outcome.exit_code == 0 and paths.output.is_dir():
            paths.success.touch()
    except OSError as error:
        console.say("train", f"cannot write into {paths.output}: {error.strerror}")


if __name__ == "__main__":
    main()
