"""How many steps an epoch has, agreed while nobody knows it yet: by hosts that are each sent another stream of data.

    each host       tells how many steps it has read, one more than it has given to its ranks
                    gives a step when all hosts have it, ends when one of them has ended before it

All of it goes through the process group's store, by the thread that reads the pipe: no collective of ours is in the way
of the training's own, nobody waits in one for a host that has left, and the loop waits for a store only where data
comes no faster than answers.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from trainkit.errors import DataError, StorageError

if TYPE_CHECKING:
    from torch.distributed import Store  # type: ignore[attr-defined]

_PATIENCE = 10.0  # seconds for the store to answer; it does in less than a millisecond
_FIRST_PAUSE, _LONGEST_PAUSE = 0.001, 0.05
Look = Callable[[], None]
"""Called while we wait; raises where nobody wants to any longer."""


class Said(NamedTuple):
    """What a host says: steps that it has read; once it has ended, how many records it had, or why it ended."""

    steps: int = 0
    over: bool = False
    total: int | None = None
    """None where it did not read to the end."""
    problem: str = ""
    of_data: bool = False
    """Whether the problem is the data's, a DataError."""


class Steps(Protocol):
    """Who says whether there is a further step."""

    def all_have(self, steps: int, *, look: Look) -> bool:
        """Whether every host has so many. Waits until that is known. Raises where another host failed."""

    def ended(self, said: Said, *, look: Look) -> None:
        """This host has no more. Raises DataError where hosts were to have the same data, and have not."""


class Alone:
    """One host: what it has, all have."""

    def all_have(self, steps: int, *, look: Look) -> bool:
        return True

    def ended(self, said: Said, *, look: Look) -> None:
        """Nobody is to know."""


class Together:
    """Several hosts, in one epoch of one channel. `alike`: they are all sent the same records."""

    def __init__(self, store: Store, *, host: int, hosts: int, alike: bool, channel: str) -> None:
        self._store, self._host, self._hosts = store, host, hosts
        self._alike, self._channel = alike, channel
        self._others: dict[int, Said] = {}

    def all_have(self, steps: int, *, look: Look) -> bool:
        self._tell(Said(steps))
        if self._least() < steps:  # what was heard last may be enough
            self._until(lambda: self._least() >= steps or self._over_before(steps), look)
        if self._least() >= steps:
            return True
        for host, said in self._others.items():
            _raise(said)
            if self._alike and said.total is not None:
                raise self._differ(host)
        return False

    def ended(self, said: Said, *, look: Look) -> None:
        self._tell(said)
        if said.total is None or not self._alike:
            return
        # A writer that died between two records looks like the end; that others go on shows it.
        self._until(lambda: all(one.over or one.steps > said.steps for one in self._others.values()), look)
        for host, other in self._others.items():
            _raise(other)
            if other.steps > said.steps or (other.total is not None and other.total != said.total):
                raise self._differ(host)

    def _least(self) -> int:
        return min((said.steps for said in self._others.values()), default=0)

    def _over_before(self, steps: int) -> bool:
        return any(said.over and said.steps < steps for said in self._others.values())

    def _differ(self, host: int) -> DataError:
        return DataError(
            f"the Pipe channel {self._channel} brought host {self._host} and host {host} different numbers of records, "
            f"and is FullyReplicated. One of them was cut off: look at its log, and start again"
        )

    def _tell(self, said: Said) -> None:
        self._store.set(str(self._host), json.dumps(said))

    def _until(self, enough: Callable[[], bool], look: Look) -> None:
        pause = _FIRST_PAUSE
        while True:
            self._hear()
            if len(self._others) == self._hosts - 1 and enough():
                return
            look()
            time.sleep(pause)
            pause = min(_LONGEST_PAUSE, 1.5 * pause)

    def _hear(self) -> None:
        others = [host for host in range(self._hosts) if host != self._host]
        if self._others or self._store.check([str(host) for host in others]):  # an answer for all, or none
            told = self._store.multi_get([str(host) for host in others])
            self._others = {host: Said(*json.loads(text)) for host, text in zip(others, told, strict=True)}


def _raise(said: Said) -> None:
    if said.problem:
        raise (DataError if said.of_data else StorageError)(said.problem)


def together(name: str, *, host: int, hosts: int, alike: bool, channel: str) -> Together:
    """The hosts of the default process group; `name` is that of an epoch, the same on all hosts and never used again.

    Raises DataError where the group has no store that is reached by TCP.
    """
    import torch.distributed as dist
    from torch.distributed import PrefixStore, TCPStore, distributed_c10d  # type: ignore[attr-defined]

    store: Any = getattr(distributed_c10d, "_get_default_store", lambda: None)() if dist.is_initialized() else None
    while isinstance(store, PrefixStore):  # there is no public way to it
        store = store.underlying_store
    if not isinstance(store, TCPStore):
        raise DataError(
            f"the Pipe channel {channel} goes to several hosts, which agree on the number of steps in the process "
            f"group's store: call torch.distributed.init_process_group() with env:// before you open the stream"
        )
    # A connection of our own: one that is shared is taken while another thread waits in it.
    server = TCPStore(store.host, store.port, timeout=timedelta(seconds=_PATIENCE), wait_for_workers=False)
    # torchrun's store outlives a restart of the ranks, and what the last ones wrote.
    prefix = f"trainkit.pipe/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}/{channel}/{name}"
    return Together(PrefixStore(prefix, server), host=host, hosts=hosts, alike=alike, channel=channel)
