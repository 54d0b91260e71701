"""Who is which rank. Every host computes the same table from the same facts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate


@dataclass(frozen=True, slots=True)
class World:
    """The hosts in rank order and how many ranks each runs; ranks are dealt host by host."""

    hosts: tuple[str, ...]
    procs: tuple[int, ...]

    @classmethod
    def even(cls, hosts: tuple[str, ...], procs: int) -> World:
        return cls(hosts, (procs,) * len(hosts))

    @classmethod
    def of(cls, hosts: tuple[str, ...], procs: Mapping[str, int]) -> World:
        return cls(hosts, tuple(procs[host] for host in hosts))

    @property
    def size(self) -> int:
        return sum(self.procs)

    @property
    def first(self) -> str:
        return self.hosts[0]

    def ranks(self, host: str) -> range:
        """The global ranks of `host`; the position in it is the local rank."""
        index = self.hosts.index(host)
        ends = list(accumulate(self.procs))
        return range(ends[index] - self.procs[index], ends[index])
