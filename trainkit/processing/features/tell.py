"""Lines about progress: each stage says how fast it is and how long it will take, and at its end what it took."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

EVERY = 10.0
"""Seconds between two lines of one stage."""

Tell = Callable[[str], None]
Done = Callable[[], float]
"""The share of a stage that is done, 0 to 1; below 0 where nobody knows."""


def on_stderr(line: str) -> None:
    print(f"features: {line}", file=sys.stderr, flush=True)


@contextmanager
def stage(name: str, *, rows: int, done: Done, tell: Tell) -> Iterator[None]:
    """Around a stage over `rows` rows (0: not known). Its thread ends with the block."""
    began, over = time.monotonic(), threading.Event()

    def watch() -> None:
        while not over.wait(EVERY):
            tell(f"{name}: {_on_its_way(done(), rows, time.monotonic() - began)}")

    watcher = threading.Thread(target=watch, name=f"progress of {name}", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
    took = max(time.monotonic() - began, 1e-9)
    tell(f"{name}: {f'{rows:,} rows in ' if rows else ''}{took:.1f} s{f', {rows / took:,.0f} rows/s' if rows else ''}")


def _on_its_way(share: float, rows: int, took: float) -> str:
    if not 0 < share <= 1:
        return f"{took:.0f} s so far"
    speed = f"{rows * share / took:,.0f} rows/s, " if rows else ""
    return f"{share:.0%}, {speed}{took / share - took:.0f} s left"
