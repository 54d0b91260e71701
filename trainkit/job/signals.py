"""A stop as a request: the training loop ends at a step boundary, at the same one on all ranks."""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType

from trainkit.contract.board import NO_STEP, Board, Row
from trainkit.job.agreement import Agreement

_PATIENCE = 20.0
"""Seconds that a rank waits at a boundary for the hosts to agree; the agreement itself takes a message each way."""


class Stop:
    """Whether this rank is to stop, and by which signal it was asked to."""

    def __init__(self, board: Board | None = None, *, local_rank: int = 0) -> None:
        self.signal: signal.Signals | None = None
        self._heard: float | None = None
        self._board = board
        self._agreement = Agreement()
        self._local_rank = local_rank
        self._passed = 0
        self._row = Row()
        self._over = False
        self._asked = False
        self._pid = os.getpid()

    def at_boundary(self, *, step: int | None = None, waited: float = 0.0) -> bool:
        """Whether to stop here. Each call is a boundary between two steps, and all ranks must count the same ones.

        All ranks answer yes at the same one, the first that none of them had passed when the stop came: under the
        harness see contract.board, without it job.agreement. Without a process group each answers for itself, and so
        it does under the harness for a signal sent to this rank alone. `step` begins here, and `waited` seconds of all
        steps so far went by until there was an item: whoever watches the ranks wants to know.
        """
        self.listen()
        if not self._over and os.getpid() == self._pid:
            self._passed += 1
            beyond = None
            if self._board:
                row = self._row if step is None else Row(step=step, waited=int(waited * 1e9))  # steps' own facts stand
                self._row = row._replace(passed=self._passed, looping=1)
                if self._board.tell(self._local_rank, self._row):
                    beyond = self._board.beyond(self._passed, patience=_PATIENCE)
            else:
                beyond = self._agreement.beyond(self._passed, wanted=self.signal is not None)
            self._over = self.signal is not None if beyond is None else beyond
            if self._over and self.signal is None:
                self.signal = signal.SIGTERM  # another rank got it
                self._heard = time.monotonic()
        return self._over

    @property
    def age(self) -> float:
        """Seconds since this rank was asked to stop."""
        return time.monotonic() - self._heard if self._heard is not None else 0.0

    def leave(self, *, complete: bool) -> None:
        """The loop is over: no boundary is to be expected until the next begins.

        Not `complete`, the script left it in the middle of a step, which is where an error is to be placed.
        """
        if self._board and os.getpid() == self._pid:
            step = NO_STEP if complete else self._row.step
            self._board.tell(self._local_rank, self._row._replace(looping=0, step=step))

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
        self._heard = self._heard or time.monotonic()
