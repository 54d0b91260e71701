"""What the ranks tell each other about checkpoints, on the main thread: at the start, and when one is restored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch.distributed as dist

from trainkit.errors import CheckpointError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class World:
    """This rank among all. `host_of[r]` is the index in `hosts` of rank r's host."""

    rank: int
    hosts: tuple[str, ...]
    host_of: tuple[int, ...]

    @property
    def ranks(self) -> int:
        return len(self.host_of)

    @property
    def local(self) -> bool:
        """Whether all ranks are on one host."""
        return len(set(self.host_of)) == 1

    @classmethod
    def meet(cls, *, rank: int, ranks: int, hosts: tuple[str, ...], host_rank: int) -> World:
        """Collective. Raises CheckpointError where several ranks cannot talk."""
        if ranks > 1 and not (dist.is_available() and dist.is_initialized()):
            raise CheckpointError(
                "a checkpointer of several ranks needs their process group: "
                "call torch.distributed.init_process_group first, on all ranks"
            )
        alone = cls(rank, hosts, (host_rank,) * ranks)
        return cls(rank, hosts, tuple(alone.gather(host_rank)))

    def from_first(self, value: T) -> T:
        """Rank 0's value, on all ranks."""
        if self.ranks == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]

    def gather(self, value: T) -> Sequence[T]:
        """Every rank's value, in their order, on all ranks."""
        if self.ranks == 1:
            return [value]
        values: list[Any] = [None] * self.ranks
        dist.all_gather_object(values, value)
        return values
