"""Where ranks agree on the step to stop at when no supervisor does it for them: in their process group's store.

    training loop, at each boundary             a thread beside it, every half second
    ───────────────────────────────             ─────────────────────────────────────
    count = n                                   is "asked" in the store?  no → sleep on
    heard?  no  → go on                         heard = True; count → the store
            yes → wait for the agreed count     the last rank to tell its count writes the highest: agreed
    count > agreed → stop; else go on

Each side writes before it looks, as on contract.board, whose supervisor the thread stands in for: it answers while the
loop sits in a collective. So the promise hangs on no clock: ranks may be steps apart (kernels queued ahead, gradients
accumulated apart), and steps may take microseconds or minutes. There is no collective of ours that a rank could miss.
And the loop itself never talks to the store, which may be gone, or silent; then each rank stops at its next boundary.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
import weakref
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.distributed import Store  # type: ignore[attr-defined]

_PAUSE = 0.5
"""Seconds between two looks at the store: one short message of each rank, also of a thousand, to one server."""
_PATIENCE = 10.0
"""Seconds for all ranks to tell their counts. torchrun kills 30 s after SIGTERM, and a checkpoint needs the rest."""
_NOBODY = -1  # every count is beyond it: each rank stops where it is


class Agreement:
    """The talk of this rank's process group, from the first boundary that finds a group of several ranks."""

    def __init__(self) -> None:
        self._group: weakref.ref[object] | None = None  # weak: who destroys the group wants it gone
        self._talk: Talk | None = None

    def beyond(self, count: int, *, wanted: bool) -> bool | None:
        """Whether boundary `count` is beyond the agreed one. None if no rank wants to stop, or there is no group."""
        group = getattr(getattr(sys.modules.get("torch.distributed"), "group", None), "WORLD", None)
        if group is not None and (self._group is None or self._group() is not group):
            self._follow(group)
        return self._talk.beyond(count, wanted=wanted) if self._talk else None

    def _follow(self, group: object) -> None:
        self._group = weakref.ref(group)
        if self._talk and not self._talk.leave():
            return  # it is at it already: whose counts went into the first group's store cannot begin anew
        place = find()
        self._talk = Talk(place) if place else None


@dataclass(frozen=True, slots=True)
class Place:
    """Where a group's ranks meet, and which of them we are."""

    host: str
    port: int
    prefix: str
    rank: int
    ranks: int


def find() -> Place | None:
    """The default group's place; None for a single rank, and for a store that is not reached by TCP."""
    import torch.distributed as dist
    from torch.distributed import PrefixStore, TCPStore, distributed_c10d  # type: ignore[attr-defined]

    store = getattr(distributed_c10d, "_get_default_store", lambda: None)()  # there is no public way to it
    while isinstance(store, PrefixStore):
        store = store.underlying_store
    if not isinstance(store, TCPStore) or dist.get_world_size() < 2:
        return None
    # torchrun's store outlives a restart of the ranks, and what the last ones wrote.
    prefix = f"trainkit.stop/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}"
    return Place(store.host, store.port, prefix, dist.get_rank(), dist.get_world_size())


class Talk:
    """One rank's part: `beyond` is the loop's side, `_run` the thread's."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._count = 0
        self._wanted = self._heard = self._leaving = False
        self._woken, self._settled = threading.Event(), threading.Event()
        self._agreed = _NOBODY
        self._pid = os.getpid()
        self._thread = threading.Thread(target=self._run, name="trainkit.stop", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # no more threads, or the interpreter is on its way out
            self._settled.set()
        else:
            # A daemon that comes back from C++ into an interpreter that is gone would abort the process.
            atexit.register(self._end)

    def beyond(self, count: int, *, wanted: bool) -> bool | None:
        self._count = count  # before the look: what the thread tells is then never too low
        if wanted and not self._wanted:
            self._wanted = True
            self._woken.set()
        if not (wanted or self._heard):
            return None
        self._settled.wait(1.2 * _PATIENCE)  # the thread's own patience, and some for a store that does not answer
        return count > self._agreed

    def leave(self) -> bool:
        """End the thread, unless a stop is under way. Returns whether it did."""
        if (self._wanted or self._heard) and not self._settled.is_set():
            return False
        self._leaving = True
        self._woken.set()
        return True

    def _end(self) -> None:
        if os.getpid() == self._pid:  # a forked child has no such thread, and perhaps its locks
            self._leaving = True
            self._woken.set()
            self._thread.join(_PATIENCE)  # longer than it takes to give up a server that is not there

    def _run(self) -> None:
        from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

        place = self._place
        try:
            # A connection of our own: one that is shared is taken while the loop waits in it for another rank.
            patience = timedelta(seconds=_PATIENCE / 4)
            server = TCPStore(place.host, place.port, timeout=patience, wait_for_workers=False)
            store = PrefixStore(place.prefix, server)
            while not self._leaving:
                if wanted := self._wanted:
                    store.set("asked", "yes")
                if wanted or store.check(["asked"]):
                    self._heard = True  # before the count is read
                    self._agreed = self._settle(store)
                    return
                self._woken.wait(_PAUSE)
        except RuntimeError:  # all of torch's network errors are; the store is gone, and nobody agrees
            pass
        finally:
            self._settled.set()

    def _settle(self, store: Store) -> int:
        """Tell our count. Returns the highest of all; _NOBODY, on every rank, where one did not tell in time."""
        place = self._place
        store.set(str(place.rank), str(self._count))
        if store.add("told", 1) == place.ranks:
            highest = max(int(count) for count in store.multi_get([str(rank) for rank in range(place.ranks)]))
            return int(store.compare_set("agreed", "", str(highest)))
        deadline = time.monotonic() + _PATIENCE
        while not store.check(["agreed"]) and time.monotonic() < deadline and not self._leaving:
            time.sleep(_PAUSE / 20)
        # The first to write decides for all. Who leaves has told, and must not decide that nobody agrees.
        return _NOBODY if self._leaving else int(store.compare_set("agreed", "", str(_NOBODY)))
