"""`trainkit local`: the job on this machine, with a person in front of it."""

from __future__ import annotations

import argparse
import datetime
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from trainkit.cli import arguments, local_processing
from trainkit.errors import TrainkitError
from trainkit.launch.output import Console
from trainkit.local import isolation, service
from trainkit.local.request import Request, Shorthand, compose
from trainkit.local.service import Options, Result


def main(argv: Sequence[str]) -> int:
    """Run it. Returns the job's exit code: the script's own where it failed, 0 when completed or stopped."""
    if local_processing.is_meant(argv):
        return local_processing.main(argv)
    given = _parser().parse_args(argv)
    shorthand = arguments.shorthand(given)
    now = datetime.datetime.now()
    output: Path = given.output or arguments.fresh(f"{shorthand.script.stem}-{now:%Y%m%d-%H%M%S}")
    try:
        return _run(shorthand, given, output=output, now=now)
    except TrainkitError:
        if not given.output:
            with suppress(OSError):  # there are files in it, or other jobs beside it
                output.rmdir()
                output.parent.rmdir()
        raise


def _run(shorthand: Shorthand, given: argparse.Namespace, *, output: Path, now: datetime.datetime) -> int:
    request = compose(shorthand, output=output, now=now)
    if given.max_runtime is not None:
        request["StoppingCondition"]["MaxRuntimeInSeconds"] = given.max_runtime
    at_terminal = os.isatty(0) and os.isatty(1)
    options = Options(
        output=output,
        environ=os.environ,
        isolation=given.isolation,
        stop_after=given.stop_after,
        faults=arguments.faults(given.kill),
        at_terminal=at_terminal and str(given.procs or os.environ.get("TRAINKIT_PROCS", 1)) == "1",
        colour=os.isatty(1) and "NO_COLOR" not in os.environ,
    )
    console = Console()
    began = time.monotonic()
    console.say(
        "local", f"{request['TrainingJobName']}: {arguments.hosts(shorthand.hosts)}, output in {arguments.near(output)}"
    )
    result = service.run(request, options, console)
    console.say("local", _summary(request, result, output=output, took=time.monotonic() - began))
    return result.exit_code


def _parser() -> argparse.ArgumentParser:
    parser = arguments.Parser(prog="trainkit local", description="Run a script as a SageMaker job, here.")
    arguments.add(parser)
    parser.add_argument(
        "--isolation", choices=isolation.KINDS,
        help="how hosts are kept apart (default: namespace, or process where the machine allows none)",
    )  # fmt: skip
    parser.add_argument("--output", type=Path, metavar="DIR", help="where S3 would be (default: trainkit-output/…)")
    parser.add_argument(
        "--stop-after", type=arguments.span, metavar="20s", help="rehearse a stop: SIGTERM after that time"
    )
    parser.add_argument(
        "--kill", action="append", default=[], metavar="FAULT",
        help="rehearse a fault, once: rank=3@step=20, host=2@step=20, host=2@30s, link=2@30s, link=2@30s+5s (healed "
        "after 5 s); may be repeated",
    )  # fmt: skip
    parser.add_argument("--max-runtime", type=arguments.span, metavar="2h", help="MaxRuntimeInSeconds (default: a day)")
    return parser


def _summary(request: Request, result: Result, *, output: Path, took: float) -> str:
    """How it ended, where things are, and how good the model is."""
    described = result.description
    lines = [f"{described['SecondaryStatus']} after {took:.1f} s, exit code {result.exit_code}"]
    if "FailureReason" in described:
        cause, *more = (result.failure or described["FailureReason"]).split("\n\n", 1)[0].splitlines()
        lines += [f"  cause    {cause}", *(f"           {line}" for line in more)]
        lines += [f"  failure  {arguments.near(path)}" for path in [output / "failure"] if path.exists()]
        lines += [
            f"  logs     {arguments.near(path)}" for path in [output / "logs"] if any(path.glob("*"))
        ]  # none at a terminal
    if result.model:
        lines.append(f"  model    {arguments.near(result.model)} ({_size(_bytes(result.model))})")
    metrics = {m["MetricName"]: m["Value"] for m in described["FinalMetricDataList"]}
    if metrics:
        lines.append("  metrics  " + "  ".join(f"{name}={_short(value)}" for name, value in metrics.items()))
    return "\n".join(lines)


def _bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*")) if path.is_dir() else path.stat().st_size


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            break
        count /= 1000
    return f"{count:.3g} {unit}"


def _short(value: float) -> str:
    return f"{value:.5g}"
