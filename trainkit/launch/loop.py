"""The supervisor's event loop: descriptors, signals and one deadline, in one thread."""

from __future__ import annotations

import os
import selectors
import signal
import time
from collections.abc import Callable
from types import TracebackType

from trainkit.launch.processes import FORWARDED

Callback = Callable[[], None]
_HEARD = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, *FORWARDED)


class Loop:
    """Calls back when something can be read, and hands signals on one by one, outside signal context."""

    def __init__(self, *, on_signal: Callable[[int], None]) -> None:
        self._on_signal = on_signal
        self._selector = selectors.DefaultSelector()
        self._old_handlers: dict[int, object] = {}
        self._old_mask: set[int] = set()

    def __enter__(self) -> Loop:
        self._wake, self._waker = os.pipe()
        os.set_blocking(self._wake, False)
        os.set_blocking(self._waker, False)
        signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)
        for number in _HEARD:
            if number in FORWARDED and signal.getsignal(number) is signal.SIG_IGN:
                continue  # nohup's choice, and not ours to undo
            # The handler does nothing: its being there makes the kernel write the number to the pipe, and makes
            # SIGTERM reach PID 1 at all.
            self._old_handlers[number] = signal.signal(number, lambda *_: None)
        # Whoever started us may have held these back until someone listens.
        self._old_mask = signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGINT))
        self.watch(self._wake, self._woken)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        # Held back again, if they were: the job has ended as it has, and a late SIGTERM is not to change its exit code.
        signal.pthread_sigmask(signal.SIG_SETMASK, self._old_mask)
        signal.set_wakeup_fd(-1)
        for number, handler in self._old_handlers.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._selector.close()
        os.close(self._wake)
        os.close(self._waker)

    def watch(self, descriptor: int, callback: Callback, *, writing: bool = False) -> None:
        self._selector.register(descriptor, selectors.EVENT_WRITE if writing else selectors.EVENT_READ, callback)

    def unwatch(self, descriptor: int) -> None:
        self._selector.unregister(descriptor)

    def turn(self, *, until: float | None) -> None:
        """Wait for something to happen, or for the monotonic time `until`; call back for what did."""
        pause = None if until is None else max(0.0, until - time.monotonic())
        for key, _ in self._selector.select(pause):
            if self._selector.get_map().get(key.fd) is key:  # an earlier callback may have closed it
                key.data()

    def _woken(self) -> None:
        try:
            numbers = os.read(self._wake, 4096)
        except BlockingIOError:
            return
        for number in dict.fromkeys(numbers):
            self._on_signal(number)
