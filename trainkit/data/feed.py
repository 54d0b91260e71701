"""A thread that makes things ahead of whoever takes them, and hands on what it raises."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import closing
from typing import Any

from trainkit.errors import DataError

NAME = "trainkit."
"""How the names of all threads begin that work for a feed."""


class Feed:
    """Iterate it for what `source` yields; at most `ahead` are made before they are asked for. Close it at the end."""

    def __init__(self, source: Generator[Any, None, None], *, ahead: int) -> None:
        self._source = source
        self._ahead = ahead
        self._ready: deque[Any] = deque()
        self._error: BaseException | None = None
        self._over = self._closed = False
        self._changed = threading.Condition()
        self._pid = os.getpid()
        self.waited = 0.0
        """Seconds that the last one was waited for."""
        self._user = threading.current_thread()
        self._thread = threading.Thread(target=self._run, name=f"{NAME}feed", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Any]:
        while True:
            if os.getpid() != self._pid:
                raise DataError(
                    "this stream was being read when the process was forked, and its threads stayed behind. Iterate it "
                    "anew in this process"
                )
            began = time.perf_counter()
            with self._changed:
                self._changed.wait_for(lambda: self._ready or self._over)
                if not self._ready:
                    break
                one = self._ready.popleft()
                self._changed.notify_all()
            self.waited = time.perf_counter() - began
            yield one
        if self._error:
            raise self._error

    def close(self) -> None:
        """End the thread; what it is at, it finishes first."""
        if os.getpid() != self._pid:
            return
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        # An iterator lost in a cycle is closed by whatever thread the collector runs in: by one, too, that makes what
        # is to be finished. Whoever uses the stream again closes it himself, and waits then.
        current = threading.current_thread()
        if current is self._user or not current.name.startswith(NAME):
            self._thread.join()

    def _run(self) -> None:
        try:
            with closing(self._source):
                for one in self._source:
                    with self._changed:
                        self._changed.wait_for(lambda: len(self._ready) < self._ahead or self._closed)
                        if self._closed:
                            break
                        self._ready.append(one)
                        self._changed.notify_all()
        except BaseException as error:  # noqa: BLE001 (whoever waits is told, whatever it is)
            self._error = error
        finally:
            with self._changed:
                self._over = True
                self._changed.notify_all()
