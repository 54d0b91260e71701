"""What `trainkit local` and `trainkit plan` share: arguments, and words for people."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from trainkit import command
from trainkit.contract.rehearsal import Fault
from trainkit.contract.settings import ENGINES, seconds
from trainkit.errors import StorageError, TrainkitError, UsageError
from trainkit.local import claim
from trainkit.local.request import Shorthand


class Parser(command.Parser):
    """One that knows what most unknown options are meant for."""

    def error(self, message: str) -> NoReturn:
        unknown = message.partition("unrecognized arguments: --")[2].replace("=", " ", 1).split()
        if unknown:
            name, value = unknown[0], "".join(unknown[1:2]) or "VALUE"
            message += f"\nA hyperparameter of the script is written --hp {name}={value}"
        super().error(message)


def add(parser: argparse.ArgumentParser) -> None:
    """What describes the job."""
    parser.add_argument("script", type=Path, help="the script to run; its folder is the job's code")
    parser.add_argument("--hosts", type=count, default=1, metavar="N", help="hosts (default: 1)")
    parser.add_argument("--procs", type=count, metavar="M", help="ranks per host (default: its GPUs, else 1)")
    parser.add_argument(
        "--channel", action="append", default=[], metavar="NAME=PATH|URL", help="an input channel; may be repeated"
    )
    parser.add_argument(
        "--hp", action="append", default=[], metavar="KEY=VALUE",
        help="a hyperparameter: the text after = as it is; may be repeated",
    )  # fmt: skip
    parser.add_argument("--engine", choices=ENGINES, help="how ranks are started (default: fork)")


def shorthand(arguments: argparse.Namespace) -> Shorthand:
    """The job they describe. Raises UsageError where one makes no sense."""
    script: Path = arguments.script
    if not script.is_file():
        raise UsageError(f"there is no script {script}")
    channels = pairs(arguments.channel, flag="--channel", form="NAME=PATH")
    if "code" in channels:
        raise UsageError("--channel code: the channel `code` is the script's folder; give this one another name")
    settings = {"TRAINKIT_PROCS": arguments.procs, "TRAINKIT_ENGINE": arguments.engine}
    return Shorthand(
        script=script,
        hosts=arguments.hosts,
        channels=channels,
        hyperparameters=pairs(arguments.hp, flag="--hp", form="KEY=VALUE"),
        environment={name: str(value) for name, value in settings.items() if value is not None},
    )


def pairs(given: Iterable[str], *, flag: str, form: str) -> dict[str, str]:
    """NAME=VALUE, in the order given. Raises UsageError."""
    pairs: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise UsageError(f"{flag} {text}: write {flag} {form}")
        if name in pairs:
            raise UsageError(f"{flag} {name} is given twice")
        pairs[name] = value
    return pairs


def count(text: str) -> int:
    """A number of hosts or ranks. Raises ArgumentTypeError."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


@contextmanager
def output(given: Path | None, *, name: str) -> Iterator[Path]:
    """The job's output directory: the one given, or a new one, which is gone again where the job cannot be started."""
    if given:
        yield given
        return
    try:
        made = claim.fresh(Path("trainkit-output"), name)
    except OSError as error:
        raise StorageError(
            f"cannot make {error.filename}: {error.strerror}. Name another place with --output"
        ) from None
    try:
        yield made
    except TrainkitError:
        with suppress(OSError):  # there are files in it, or other jobs beside it
            made.rmdir()
            made.parent.rmdir()
        raise


def span(text: str) -> float:
    """Seconds. Raises ArgumentTypeError."""
    try:
        return seconds(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no time: write 90, 20s, 1.5m or 2h") from None


def faults(texts: Sequence[str]) -> tuple[Fault, ...]:
    """What --kill asks for. Raises UsageError."""
    try:
        return tuple(Fault.parse(text, number=number) for number, text in enumerate(texts))
    except ValueError as error:
        raise UsageError(f"--kill {error}") from None


def hosts(count: int) -> str:
    """So many, for people."""
    return "1 host" if count == 1 else f"{count} hosts"


def near(path: Path) -> str:
    """The path as a person would type it from here."""
    relative = os.path.relpath(path)
    return relative if len(relative) < len(str(path.absolute())) else str(path.absolute())
