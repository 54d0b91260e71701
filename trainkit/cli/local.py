"""`trainkit local`: the job on this machine, with a person in front of it."""

from __future__ import annotations

import argparse
import datetime
import os
import time
from collections.abc import Sequence
from pathlib import Path

from trainkit.cli import arguments, local_options, local_processing, local_request
from trainkit.cli.local_summary import summary
from trainkit.launch.output import Console
from trainkit.local import requests, service
from trainkit.local.request import Shorthand, compose
from trainkit.local.service import Surroundings


def main(argv: Sequence[str]) -> int:
    """Run it. Returns the job's exit code: the script's own where it failed, 0 when completed or stopped."""
    if argv and argv[0].endswith(".json"):
        loaded = requests.load(Path(argv[0]))
        if loaded.operation == requests.PROCESSING:
            return local_processing.main(argv, loaded)
        return local_request.main(argv, loaded)
    if local_processing.is_meant(argv):
        return local_processing.main(argv)
    given = _parser().parse_args(argv)
    shorthand = arguments.shorthand(given)
    now = datetime.datetime.now()
    with arguments.output(given.output, name=f"{shorthand.script.stem}-{now:%Y%m%d-%H%M%S}") as output:
        return _run(shorthand, given, output=output, now=now)


def _run(shorthand: Shorthand, given: argparse.Namespace, *, output: Path, now: datetime.datetime) -> int:
    request = compose(shorthand, output=output, now=now)
    if given.max_runtime is not None:
        request["StoppingCondition"]["MaxRuntimeInSeconds"] = given.max_runtime
    alone = str(given.procs or os.environ.get("TRAINKIT_PROCS", 1)) == "1"
    options = local_options.of(given, output=output, at_terminal=alone)
    around = Surroundings(base=Path.cwd(), code="code", own_metrics=True)
    console = Console()
    began = time.monotonic()
    console.say(
        "local", f"{request['TrainingJobName']}: {arguments.hosts(shorthand.hosts)}, output in {arguments.near(output)}"
    )
    result = service.run(request, options, around, console)
    console.say("local", summary(result, output=output, took=time.monotonic() - began))
    return result.exit_code


def _parser() -> argparse.ArgumentParser:
    parser = arguments.Parser(
        prog="trainkit local",
        description="Run a script as a SageMaker job, here; or a request: trainkit local job.json --help.",
    )
    arguments.add(parser)
    local_options.add(
        parser,
        stop="rehearse a stop: SIGTERM after that time",
        kill="rehearse a fault, once: rank=3@step=20, host=2@step=20, host=2@30s, link=2@30s, link=2@30s+5s (healed "
        "after 5 s); may be repeated",
    )
    return parser
