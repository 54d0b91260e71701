"""What every fetcher promises, whoever reads for it: all bytes or an error, tries again, patience that ends.

get(item, start, length) ─▶ a buffer ─▶ the reader fills it ─ cut? throttled? ─▶ wait, go on at the byte ─▶ …
                                                            └ refused, changed, too short ─▶ StorageError at once
"""

from __future__ import annotations

import os
import random
import threading
import time
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np

from trainkit.data.items import Item
from trainkit.storage.store import failure

DEADLINE = 120.0
"""Seconds without a single byte after which a read is given up."""
Name = Literal["local", "http", "boto3", "fsspec"]
_FIRST_WAIT = 0.025  # doubled for each failure in a row; four times as long costs half the speed at 5 % refused
_LONGEST_WAIT = 5.0
_SILENCE = 30.0  # seconds for which one connection may say nothing


class Passing(Exception):
    """What may be over at the next try. `at_once`: there is nothing to wait for."""

    def __init__(self, said: str, *, at_once: bool = False) -> None:
        super().__init__(said)
        self.at_once = at_once


class Reader(Protocol):
    """One way to bytes. Used by many threads, and by children of the process that made it."""

    name: Name

    def fill(self, item: Item, start: int, view: memoryview, *, timeout: float) -> int:
        """Bytes from `start` into `view`; how many came. Fewer than it takes means: the line was cut, ask again.

        Raises Passing where none came, and StorageError for what trying again will not change.
        """

    def close(self) -> None: ...


@dataclass(slots=True)
class Counters:
    """What a fetcher has done so far. `waited`: seconds between tries, of all threads together."""

    bytes: int = 0
    requests: int = 0
    retries: int = 0
    waited: float = 0.0


class Fetcher:
    """Exact reads through one reader. `get` is for any number of threads."""

    def __init__(self, reader: Reader, *, deadline: float = DEADLINE) -> None:
        self.name = reader.name
        self._reader = reader
        self._deadline = deadline
        self._counters = Counters()
        self._closed = threading.Event()
        self._renew_lock()

    @property
    def counters(self) -> Counters:
        """A copy, taken now."""
        with self._lock_of_this_process():
            return replace(self._counters)

    def get(self, item: Item, start: int, length: int) -> memoryview:
        """Exactly these bytes. Raises StorageError naming the item, the range, the tries and the last answer."""
        if start < 0 or length < 0:
            raise ValueError(f"a range starts at {start} and is {length} long; neither can be negative")
        view = np.empty(length, np.uint8).data  # a bytearray would be filled with zeros first
        filled = requests = failures = 0
        waited, last = 0.0, time.monotonic()
        try:
            while filled < length:
                left = last + self._deadline - time.monotonic()
                requests += 1
                try:
                    timeout = max(0.1, min(_SILENCE, left))
                    came = self._reader.fill(item, start + filled, view[filled:], timeout=timeout)
                    trouble = Passing("the connection ended in the middle of the body", at_once=came > 0)
                except Passing as passing:
                    came, trouble = 0, passing
                filled += came
                if came:
                    failures, last = 0, time.monotonic()
                if filled < length:
                    failures += 1
                    waited += self._wait(item, start, length, trouble, failures, requests, last)
        finally:
            self._count(filled, requests, waited, done=filled == length)
        return view

    def close(self) -> None:
        """Ends connections; threads that wait for a next try get an error."""
        self._closed.set()
        self._reader.close()

    def _wait(
        self, item: Item, start: int, length: int, trouble: Passing, failures: int, requests: int, last: float
    ) -> float:
        """Between two tries, as long as chance says (full jitter): readers that failed together do not return so."""
        pause = 0.0 if trouble.at_once else random.uniform(0, min(_LONGEST_WAIT, _FIRST_WAIT * 2 ** min(failures, 10)))
        left = last + self._deadline - time.monotonic()
        if pause >= left or self._closed.wait(pause):
            doing = f"read {length} bytes from {start}"
            if self._closed.is_set():
                raise failure(item.url, doing, "the stream was closed meanwhile", "Read before closing it") from trouble
            silent = (
                f"no byte came for {time.monotonic() - last:.1f} s, {requests} requests; the last one said: {trouble}"
            )
            remedy = "Look at the network, and at the service's health; the job can be started again and goes on"
            raise failure(item.url, doing, silent, remedy) from trouble
        return pause

    def _count(self, came: int, requests: int, waited: float, *, done: bool) -> None:
        with self._lock_of_this_process():
            self._counters.bytes += came
            self._counters.requests += requests
            self._counters.retries += max(0, requests - done)
            self._counters.waited += waited

    def _lock_of_this_process(self) -> threading.Lock:
        """A fork copies a lock that another thread holds, and nobody is there to release it."""
        if self._process != os.getpid():
            self._renew_lock()
        return self._lock

    def _renew_lock(self) -> None:
        self._lock, self._process = threading.Lock(), os.getpid()
