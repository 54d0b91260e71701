"""`trainkit local job.json`, and `trainkit local prep.py --processing`: a processing job on this machine."""

from __future__ import annotations

import argparse
import datetime
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainkit.cli import arguments, local_options
from trainkit.contract.settings import CLUSTERS
from trainkit.errors import UsageError
from trainkit.launch.output import Console
from trainkit.local import processing_request, processing_service
from trainkit.local.processing_request import Shorthand
from trainkit.local.processing_service import Result, Surroundings
from trainkit.local.requests import Loaded

FLAG = "--processing"


def is_meant(argv: Sequence[str]) -> bool:
    """Whether a command line of `trainkit local` with a script is about a processing job."""
    return FLAG in (argv[: argv.index("--")] if "--" in argv else argv)


def main(argv: Sequence[str], loaded: Loaded | None = None) -> int:
    """Run it. Returns the job's exit code: the script's own where it failed, 0 when completed or stopped."""
    split = argv.index("--") if "--" in argv else len(argv)
    given = _parser().parse_args([word for word in argv[:split] if word != FLAG])
    now = datetime.datetime.now()
    what: Path = given.job
    request: dict[str, Any] = {}
    if loaded:
        said = [name for name in ("hosts", "cluster", "input", "result") if getattr(given, name)]
        if unheard := said or argv[split + 1 :]:
            raise UsageError(f"{unheard[0]} is said by {what} itself: change it there")
        request = dict(processing_request.checked(loaded.request, file=str(what)))
        around = Surroundings(base=what.absolute().parent, image_code=given.code, upload=given.upload)
    elif not what.is_file():
        raise UsageError(f"there is no script {what}")
    else:
        around = Surroundings(base=what.resolve().parent, code_input="code", image_code=given.code)
    with arguments.output(given.output, name=f"{what.stem}-{now:%Y%m%d-%H%M%S}") as output:
        request = request or _compose(given, argv[split + 1 :], output=output, now=now)
        if given.max_runtime is not None:
            request["StoppingCondition"] = {"MaxRuntimeInSeconds": given.max_runtime}
        return _run(request, given, around, output=output)


def _compose(given: argparse.Namespace, rest: Sequence[str], *, output: Path, now: datetime.datetime) -> dict[str, Any]:
    inputs = arguments.pairs(given.input, flag="--input", form="NAME=PATH")
    if "code" in inputs:
        raise UsageError("--input code: the input `code` is the script's folder; give this one another name")
    if unknown := set(given.shard) - set(inputs):
        raise UsageError(f"--shard {sorted(unknown)[0]}: there is no such --input")
    results = dict(text.split("=", 1) if "=" in text else (text, "") for text in given.result or ["output"])
    shorthand = Shorthand(
        script=given.job, arguments=tuple(rest), hosts=given.hosts or 1, inputs=inputs,
        sharded=frozenset(given.shard), outputs=results, continuous=given.continuous,
        environment={"TRAINKIT_CLUSTER": given.cluster} if given.cluster else {},
    )  # fmt: skip
    return processing_request.compose(shorthand, output=output, now=now)


def _run(request: dict[str, Any], given: argparse.Namespace, around: Surroundings, *, output: Path) -> int:
    options = local_options.of(given, output=output, at_terminal=True)
    console = Console()
    began = time.monotonic()
    count = len(processing_request.hosts(request))
    console.say(
        "local", f"{request['ProcessingJobName']}: {arguments.hosts(count)}, output in {arguments.near(output)}"
    )
    result = processing_service.run(request, options, around, console)
    console.say("local", _summary(result, output=output, took=time.monotonic() - began))
    return result.exit_code


def _parser() -> argparse.ArgumentParser:
    parser = arguments.Parser(
        prog="trainkit local",
        usage="trainkit local job.json [option]...\n"
        "       trainkit local SCRIPT --processing [option]... [-- argument]...",
        description="Run a CreateProcessingJob request, or a script as a processing job, here.",
    )
    parser.add_argument("job", type=Path, help="a request (.json), or a script; its folder is the input `code`")
    parser.add_argument(
        "--cluster", choices=CLUSTERS, help="the engine to start on all hosts, for the script on the first one"
    )
    parser.add_argument("--hosts", type=arguments.count, metavar="N", help="hosts (default: 1)")
    parser.add_argument(
        "--input", action="append", default=[], metavar="NAME=PATH|URL",
        help="an input, at /opt/ml/processing/input/NAME; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--shard", action="append", default=[], metavar="NAME", help="deal that input's files to the hosts, key by key"
    )
    parser.add_argument(
        "--result", action="append", metavar="NAME[=DIR|URL]",
        help="an output, at /opt/ml/processing/output/NAME; may be repeated (default: output)",
    )  # fmt: skip
    parser.add_argument("--continuous", action="store_true", help="copy results while the job runs")
    parser.add_argument("--code", type=Path, metavar="DIR", help="what the image has at /opt/ml/code")
    parser.add_argument(
        "--upload", action="store_true", help="write a request's s3:// outputs to S3 (default: to --output)"
    )
    local_options.add(
        parser, stop="StopProcessingJob after that time", kill="rehearse a fault, once", fault="host=2@30s"
    )
    return parser


def _summary(result: Result, *, output: Path, took: float) -> str:
    """How it ended, and where things are."""
    described = result.description
    lines = [f"{described['ProcessingJobStatus']} after {took:.1f} s, exit code {result.exit_code}"]
    if "FailureReason" in described:
        cause, *more = (result.failure or described["FailureReason"]).split("\n\n", 1)[0].splitlines()
        lines += [f"  cause    {cause}", *(f"           {line}" for line in more)]
        lines += [f"  logs     {arguments.near(path)}" for path in [output / "logs"] if any(path.glob("*"))]
    elif message := described.get("ExitMessage"):
        lines += [f"  message  {message.splitlines()[0] if message.strip() else ''}"]
    for name, place in result.places.items():
        lines.append(f"  {name:<8} {arguments.near(place) if isinstance(place, Path) else place}")
    return "\n".join(lines)
