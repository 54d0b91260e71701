"""`trainkit process features.py --input flights=DIR --output DIR`, and the same inside a processing job.

Inside a job its config says where inputs lie and where the output goes; what the command line says comes first.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import runpy
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from trainkit.contract.paths import Paths
from trainkit.errors import ConfigError, Mistake, TrainkitError, UsageError
from trainkit.processing.features import around
from trainkit.processing.features.declared import Features
from trainkit.processing.features.tell import on_stderr

if TYPE_CHECKING:
    from trainkit.processing.features.run import Choices

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def main(argv: Sequence[str] | None = None) -> None:
    """Exits with the error's code, its message on stderr and, under a supervisor, in the record that it reads."""
    try:
        make(sys.argv[1:] if argv is None else argv)
    except TrainkitError as error:
        print(f"features: {error}", file=sys.stderr)
        _leave_record(error)
        sys.exit(error.exit_code)


def make(argv: Sequence[str]) -> None:
    """Run what a command line asks for. Raises TrainkitError."""
    asked = _parser().parse_args(argv)
    features = read(asked.script)
    if asked.embedded:
        from trainkit.processing.features import embedded

        embedded.make(features, os.environ, step=asked.embedded)
        return
    if asked.artifact and asked.fit_only:
        raise UsageError("--artifact fits nothing, so that --fit-only leaves nothing to do: leave one of them out")
    job = around.of_processing(os.environ)
    on_spark = around.engine_of(os.environ, asked.engine, job) == "spark"
    host = "" if on_spark else around.share(job, features, fits=asked.artifact is None)
    inputs = job.chosen(features, _inputs(asked.input))
    output = asked.output or job.output(Paths.of(os.environ).processing / "output")
    from trainkit.processing.features import engine
    from trainkit.processing.features.run import Choices, run

    for name in sorted(job.sharded & inputs.keys()) if host else ():
        place = inputs[name]
        if isinstance(place, Path) and engine.is_empty(place):
            on_stderr(f"{inputs[name]} is empty: other hosts have all objects of {name}")
            return
    choices = Choices(
        artifact=asked.artifact, fit_only=asked.fit_only, report=not asked.no_report,
        memory=asked.memory, threads=asked.threads, spill=asked.spill, host=host,
    )  # fmt: skip
    if on_spark:
        _run_on_spark(features, inputs, output, choices, job)
    else:
        run(features, inputs, output, choices=choices)


def _run_on_spark(
    features: Features, inputs: Mapping[str, Path | str], output: Path, choices: Choices, job: around.Around
) -> None:
    from trainkit.processing.features import spark_run

    cluster = os.environ.get(around.CLUSTER) == "spark"
    if cluster:
        around.replicated(job, features)
    if cluster and (choices.memory or choices.threads or choices.spill):
        raise UsageError("--memory, --threads and --spill are of one host: a cluster is set up in spark-defaults.conf")
    spark_run.run(features, inputs, output, choices=choices, cluster=cluster, hosts=job.hosts, first=job.host)


def read(script: Path) -> Features:
    """The definition in a features.py: its module-level `features`. Runs the file."""
    if not script.is_file():
        raise UsageError(f"there is no {script}: name the file that says features = Features(…)")
    sys.path.insert(0, str(script.parent.absolute()))  # its own modules, as Python has it for scripts
    made = runpy.run_path(str(script), run_name="features").get("features")
    if not isinstance(made, Features):
        raise ConfigError([Mistake(str(script), "features", made, "is no Features", "Write features = Features(…)")])
    return made


def _inputs(given: Sequence[str]) -> dict[str, Path | str]:
    found: dict[str, Path | str] = {}
    for one in given:
        name, equals, path = one.partition("=")
        if not (name and equals and path):
            raise UsageError(f"--input {one}: write --input NAME=DIR, or NAME=s3://…")
        found[name] = path if "://" in path else Path(path)
    return found


def _leave_record(error: TrainkitError) -> None:
    """What the supervisor reads, as ranks leave it: the cause in its own words."""
    where = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if not where:
        return
    cause = f"{type(error).__name__}: {error}"
    about = {"cause": cause, "frame": "", "time": time.time(), "exit_code": error.exit_code}
    with suppress(OSError):  # then the last lines of our output tell it
        Path(where).write_text(json.dumps({"message": {"message": cause}, "trainkit": about}), encoding="utf-8")


def _bytes(text: str) -> int:
    match = re.fullmatch(r"(\d+)\s*([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is no size: write 4G or 512M")
    return int(match[1]) * _UNITS[match[2].upper()]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}\n{self.format_usage().strip()}")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="trainkit process",
        description="Make features from raw tables: fit, transform, report.",
        allow_abbrev=False,
    )
    parser.add_argument("script", type=Path, help="the file that says features = Features(…)")
    parser.add_argument("--input", action="append", default=[], metavar="NAME=DIR",
                        help="where it lies, a URL too; default: the job's, else …/processing/input/NAME")  # fmt: skip
    parser.add_argument("--output", type=Path, metavar="DIR",
                        help="by default the job's, else /opt/ml/processing/output")  # fmt: skip
    parser.add_argument("--engine", choices=("duckdb", "spark"), help="default: spark in its cluster, else duckdb")
    parser.add_argument("--artifact", type=Path, metavar="DIR", help="apply this fitted artifact, and fit nothing")
    parser.add_argument("--fit-only", action="store_true", help="fit, and write no rows")
    parser.add_argument("--no-report", action="store_true", help="write no report; checks are made all the same")
    parser.add_argument("--memory", type=_bytes, metavar="SIZE", help="for the whole process; default: what there is")
    parser.add_argument("--threads", type=int, metavar="N", help="of the engine; default: one for each core")
    parser.add_argument("--spill", type=Path, metavar="DIR", help="where the engine spills; default: TMPDIR")
    parser.add_argument("--embedded", metavar="STEP", help=argparse.SUPPRESS)  # what `train` runs before the ranks
    return parser
