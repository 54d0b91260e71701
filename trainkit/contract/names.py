"""The names of variables: exact ones, aliases for those that no language can spell, and what Linux has room for."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping

LONGEST = 131_072
"""Bytes of `NAME=value` with its final NUL: Linux starts no program with a longer one."""


def alias(name: str) -> str:
    """`train-data` → `TRAIN_DATA`."""
    return re.sub(r"[^A-Z0-9_]", "_", name.upper())


def named(entries: Iterable[tuple[str, str, str, str]]) -> tuple[dict[str, str], list[str]]:
    """Variables for (kind, prefix, name, value): the exact names first, then the aliases that are still free."""
    entries = list(entries)
    exact: dict[str, tuple[str, str]] = {}
    warnings: list[str] = []
    for kind, prefix, name, value in entries:
        variable = prefix + name.upper()
        if variable in exact:
            first = exact[variable][0]
            warnings.append(f"{variable} stands for {kind} {first!r}, not for {name!r}, which differs in case only")
        elif "=" not in variable:  # no environment can hold such a name; argv and trainkit.job() do
            exact[variable] = (name, value)
    aliases: dict[str, tuple[str, str]] = {}
    for kind, prefix, name, value in entries:
        variable = prefix + alias(name)
        taken = exact.get(variable) or aliases.get(variable)
        if taken is None:
            aliases[variable] = (name, value)
        elif taken[0] != name and variable != prefix + name.upper():
            warnings.append(f"{variable} stands for {kind} {taken[0]!r}, so {name!r} has no alias: rename one of them")
    return {variable: value for variable, (_, value) in {**aliases, **exact}.items()}, warnings


def fitting(variables: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """What execve accepts. SM_HPS is the usual one that is not: it holds all the hyperparameters together."""
    sizes = {name: len(os.fsencode(name)) + len(os.fsencode(value)) + 2 for name, value in variables.items()}
    warnings = [
        f"{name} is left out: {size} bytes, and no variable can have more than {LONGEST}. Read it with trainkit.job()"
        for name, size in sizes.items()
        if size > LONGEST
    ]
    return {name: value for name, value in variables.items() if sizes[name] <= LONGEST}, warnings
