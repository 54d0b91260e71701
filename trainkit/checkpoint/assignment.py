"""What a rank tells its writer at the start: everything that the writer has to know."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from trainkit.checkpoint.retain import Retention
from trainkit.checkpoint.schedule import Schedule


@dataclass(frozen=True, slots=True)
class Place:
    """A tier: a path or URL. `apart`: every host has its own there, needs copies in it, and sweeps it itself.

    `agent`: the platform's agent copies what is there to a bucket, and deletes there what is deleted.
    """

    where: str
    apart: bool = False
    agent: bool = False


@dataclass(frozen=True, slots=True)
class Assignment:
    """One rank's writer. `host_of[r]` is the index in `hosts` of rank r's host."""

    rank: int
    job: str
    hosts: tuple[str, ...]
    host_of: tuple[int, ...]
    places: tuple[Place, ...]
    schedule: Schedule
    retention: Retention

    @property
    def leads(self) -> bool:
        """Whether this writer is the coordinator."""
        return self.rank == 0

    @property
    def sweeps(self) -> bool:
        """Whether this writer deletes for its host, which is not the coordinator's."""
        return self.host_of[self.rank] != self.host_of[0] and self.host_of.index(self.host_of[self.rank]) == self.rank

    def document(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def read(cls, document: dict[str, Any]) -> Assignment:
        return cls(
            rank=document["rank"], job=document["job"], hosts=tuple(document["hosts"]),
            host_of=tuple(document["host_of"]), places=tuple(Place(**place) for place in document["places"]),
            schedule=Schedule(**document["schedule"]), retention=Retention(**document["retention"]),
        )  # fmt: skip
