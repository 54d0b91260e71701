"""`trainkit process features.py --input flights=DIR --output DIR`, and the same inside a processing job."""

from __future__ import annotations

import argparse
import re
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

from trainkit.errors import ConfigError, Mistake, TrainkitError, UsageError
from trainkit.processing.features.declared import Features, Source

JOB = Path("/opt/ml/processing")
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def main(argv: Sequence[str] | None = None) -> None:
    """Exits with the error's code, its message on stderr."""
    try:
        make(sys.argv[1:] if argv is None else argv)
    except TrainkitError as error:
        print(f"features: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def make(argv: Sequence[str]) -> None:
    """Run what a command line asks for. Raises TrainkitError."""
    asked = _parser().parse_args(argv)
    features = read(asked.script)
    from trainkit.processing.features.run import Choices, run

    choices = Choices(
        artifact=asked.artifact, fit_only=asked.fit_only, report=not asked.no_report,
        memory=asked.memory, threads=asked.threads, spill=asked.spill,
    )  # fmt: skip
    run(features, _inputs(asked.input, features), asked.output, choices=choices)


def read(script: Path) -> Features:
    """The definition in a features.py: its module-level `features`. Runs the file."""
    if not script.is_file():
        raise UsageError(f"there is no {script}: name the file that says features = Features(…)")
    made = runpy.run_path(str(script), run_name="features").get("features")
    if not isinstance(made, Features):
        raise ConfigError([Mistake(str(script), "features", made, "is no Features", "Write features = Features(…)")])
    return made


def _inputs(given: Sequence[str], features: Features) -> dict[str, Path]:
    found = {}
    for one in given:
        name, equals, path = one.partition("=")
        if not (name and equals and path):
            raise UsageError(f"--input {one}: write --input NAME=DIR")
        found[name] = Path(path)
    for table in features.tables.values():
        name = table.input if isinstance(table, Source) else table
        if name not in found and (JOB / "input" / name).is_dir():
            found[name] = JOB / "input" / name
    return found


def _bytes(text: str) -> int:
    match = re.fullmatch(r"(\d+)\s*([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is no size: write 4G or 512M")
    return int(match[1]) * _UNITS[match[2].upper()]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="trainkit process",
        description="Make features from raw tables: fit, transform, report.",
        allow_abbrev=False,
    )
    parser.add_argument("script", type=Path, help="the file that says features = Features(…)")
    parser.add_argument("--input", action="append", default=[], metavar="NAME=DIR",
                        help=f"where an input lies; by default {JOB}/input/NAME")  # fmt: skip
    parser.add_argument("--output", type=Path, default=JOB / "output", metavar="DIR", help="default: %(default)s")
    parser.add_argument("--artifact", type=Path, metavar="DIR", help="apply this fitted artifact, and fit nothing")
    parser.add_argument("--fit-only", action="store_true", help="fit, and write no rows")
    parser.add_argument("--no-report", action="store_true", help="write no report; checks are made all the same")
    parser.add_argument("--memory", type=_bytes, metavar="SIZE", help="for the whole process; default: what there is")
    parser.add_argument("--threads", type=int, metavar="N", help="of the engine; default: one for each core")
    parser.add_argument("--spill", type=Path, metavar="DIR", help="where the engine spills; default: TMPDIR")
    return parser
