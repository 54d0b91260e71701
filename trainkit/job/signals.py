"""SIGTERM as a request: note it, and let the training loop end at a step boundary."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType


class Stop:
    """Whether this process was asked to stop, and by which signal."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._asked = False
        self._pid = os.getpid()

    def __bool__(self) -> bool:
        return self.signal is not None

    def listen(self) -> bool:
        """Take SIGTERM, unless the script has its own handler or we are no main thread. Returns whether we took it.

        Only the first call does anything: a handler that the script sets later is its own choice.
        """
        if self._asked:
            return False
        self._asked = True
        if threading.current_thread() is not threading.main_thread():
            return False
        if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
            return False
        signal.signal(signal.SIGTERM, self._note)
        return True

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:
            # A process forked from us (a pool's worker) has no loop that looks here; whoever ends it means it.
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        self.signal = signal.Signals(number)
