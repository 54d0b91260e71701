"""What every way into `trainkit local` takes, whatever it runs: where, for how long, and what is rehearsed."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from trainkit.cli import arguments
from trainkit.local import isolation
from trainkit.local.service import Options


def add(parser: argparse.ArgumentParser, *, stop: str, kill: str, fault: str = "FAULT") -> None:
    """`stop` and `kill` say what these two rehearse; `fault` is what a value of --kill looks like."""
    parser.add_argument(
        "--isolation", choices=isolation.KINDS,
        help="how hosts are kept apart (default: namespace, or process where the machine allows none)",
    )  # fmt: skip
    parser.add_argument("--output", type=Path, metavar="DIR", help="where S3 would be (default: trainkit-output/…)")
    parser.add_argument("--stop-after", type=arguments.span, metavar="20s", help=stop)
    parser.add_argument("--kill", action="append", default=[], metavar=fault, help=kill)
    parser.add_argument(
        "--max-runtime",
        type=arguments.span,
        metavar="2h",
        help="MaxRuntimeInSeconds (default: the request's, or a day)",
    )


def of(given: argparse.Namespace, *, output: Path, at_terminal: bool = False) -> Options:
    """How to run it. `at_terminal`: it has the terminal to itself, if there is one. Raises UsageError."""
    return Options(
        output=output,
        environ=os.environ,
        isolation=given.isolation,
        stop_after=given.stop_after,
        faults=arguments.faults(given.kill),
        at_terminal=at_terminal and os.isatty(0) and os.isatty(1),
        colour=os.isatty(1) and "NO_COLOR" not in os.environ,
    )
