"""Sizes, times and names as people read them. Nothing that a file says reaches a terminal as it is."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence


def size(count: float) -> str:
    """`1.5 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:,.3g} TiB"


def when(at: float) -> str:
    """UTC, to the second."""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(at))
    except (ValueError, OverflowError, OSError):  # a manifest may say 1e300
        return "?"


def counted(count: int, what: str) -> str:
    """`1 file`, `2 files`."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def plain(text: object, most: int = 200) -> str:
    """One line, without control characters, of `most` characters at most."""
    shown = str(text)
    shown = shown if shown.isprintable() else ascii(shown)[1:-1]
    return shown if len(shown) <= most else f"{shown[: most - 1]}…"


def some(names: Iterable[str], most: int = 3) -> str:
    """The first few of them, and how many more there are."""
    listed = list(names)
    shown = ", ".join(plain(name) for name in listed[:most])
    return f"{shown} and {len(listed) - most:,} more" if len(listed) > most else shown


def table(rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> list[str]:
    """Columns as wide as they must be; those in `right` are flush right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.rjust(width) if at in right else cell.ljust(width)
                  for at, (cell, width) in enumerate(zip(row, widths, strict=True))).rstrip()
        for row in rows
    ]  # fmt: skip
