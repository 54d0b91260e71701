"""What our commands that have commands of their own share: how they end, and sizes as people write them."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

from trainkit.errors import TrainkitError, UsageError

_UNITS = {"": 1, "B": 1, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "KB": 10**3, "MB": 10**6, "GB": 10**9}


class Parser(argparse.ArgumentParser):
    """One whose mistakes end as all of ours do, with 64."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(UsageError.exit_code, f"{self.prog}: {message}\n")


def run(
    parser: Parser, commands: Mapping[str, Callable[[argparse.Namespace], None]], argv: Sequence[str] | None
) -> None:
    """Do what `argv` asks for (None: the process's). Exits with 0, or with the error's code."""
    given = parser.parse_args(argv)
    try:
        commands[given.command](given)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read has seen enough; nor may the interpreter flush at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except TrainkitError as error:
        print(f"{parser.prog} {given.command}: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print(f"{parser.prog} {given.command}: interrupted", file=sys.stderr)
        sys.exit(130)


def size(text: str) -> int:
    """Bytes: 1048576, 512KiB, 1.5GB. For argparse: raises ArgumentTypeError."""
    parts = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", text)
    if not parts or parts[2].upper() not in _UNITS or not float(parts[1]):
        raise argparse.ArgumentTypeError(f"{text!r} is no size: write 1048576, 512KiB or 5GB")
    return int(float(parts[1]) * _UNITS[parts[2].upper()])
