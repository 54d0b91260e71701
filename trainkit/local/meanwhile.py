"""What is done beside the hosts while they run, again and again, in a thread: the logs are not to wait for it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from trainkit.errors import StorageError

_PAUSE = 0.5  # seconds between two looks


class Meanwhile:
    """Calls each of `passes`, in turn, from `begin` to `stop`."""

    def __init__(self, passes: Iterable[Callable[[], object]], *, name: str) -> None:
        self._passes = tuple(passes)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def begin(self) -> None:
        if self._passes:
            self._thread.start()

    def stop(self) -> None:
        """None is called any more when this returns. May be called again, and where nothing was begun."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(_PAUSE):
            for one in self._passes:
                try:
                    one()
                except (OSError, StorageError):
                    continue  # the file is gone, or the next look has more luck; the last one says what is wrong
