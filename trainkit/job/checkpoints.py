"""A job's checkpointers: made from its facts, saved at its stop, waited for at its end."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from trainkit.errors import CheckpointError
from trainkit.job.facts import Facts

if TYPE_CHECKING:
    from trainkit.checkpoint.checkpointer import Checkpointer
    from trainkit.checkpoint.retain import Retention
    from trainkit.checkpoint.schedule import Schedule

MARGIN = 10.0
"""Seconds of a stop's time that are left for ranks to end, the model to be written and the hosts to agree."""
_ACCUMULATED = 64
"""Items over which gradients are added up: more are hardly ever, and a stop does not wait for them."""


class Checkpoints:
    """Those that a script has made."""

    def __init__(self, facts: Facts, *, say: Callable[[str], None]) -> None:
        self._facts, self._say = facts, say
        self._made: Checkpointer | None = None

    def make(self, objects: Mapping[str, Any], *, schedule: Schedule, retention: Retention) -> Checkpointer:
        """Collective. Raises CheckpointError."""
        if self._made:
            raise CheckpointError("this job has a checkpointer already; give one all the objects")
        from trainkit.checkpoint.checkpointer import Checkpointer, Setup
        from trainkit.checkpoint.world import World

        facts, settings = self._facts, self._facts.settings
        places = [str(facts.checkpoints)]
        if settings.checkpoint_url:
            places.append(prefix(settings.checkpoint_url, job=facts.name))
        setup = Setup(
            job=facts.name, places=tuple(places), schedule=schedule, retention=retention,
            resume_from=settings.resume_from, stop_grace=settings.stop_grace,
            coordinator=os.environ.get("MASTER_ADDR", "127.0.0.1"), agent=facts.checkpoint_agent,
        )  # fmt: skip
        world = facts.world
        ranks = World.meet(rank=world.rank, ranks=world.world_size, hosts=world.hosts, host_rank=world.host_rank)
        self._made = Checkpointer(objects, setup, ranks, say=self._say)
        return self._made

    @property
    def calls(self) -> int:
        """How often the checkpointer was told of a step so far."""
        return self._made.calls if self._made else 0

    def within_step(self, done: int, *, since: int, age: float) -> bool:
        """Whether, after `done` items of a loop that began at so many `calls`, a step of the optimizer is not over.

        The checkpointer was called in this loop a few items ago, and will be in a few: until then gradients add up, and
        there is nothing to save.
        """
        if age > self._facts.settings.stop_grace / 2:
            return False
        behind = self._behind(done, since=since)
        return 0 < behind < _ACCUMULATED

    def stop(self, done: int, *, since: int, age: float) -> None:
        """All ranks have stopped after `done` items, `age` seconds after they were asked to: save what is there."""
        if self._made is None:
            return
        if self._behind(done, since=since) <= 0:
            self._made.stop(left=max(0.0, self._facts.settings.stop_grace - age - MARGIN))
        elif self._facts.world.rank == 0:
            self._say(
                f"checkpoint: none is made at this stop: step {done - 1} was not the checkpointer's; "
                "call its step after each step of the optimizer"
            )

    def close(self, *, failed: bool) -> None:
        """The script is over. What it saved is waited for, unless it `failed`: its error is not to be held up."""
        if self._made and not failed:
            self._made.close()

    def _behind(self, done: int, *, since: int) -> int:
        """Items since the checkpointer's last step; none in a loop that does not call it, as one that evaluates."""
        made = self._made
        return done - made.done if made and made.done is not None and made.calls > since else 0


def prefix(url: str, *, job: str) -> str:
    """The job's own place: what restarts it finds it there, and no other job does."""
    url = url.rstrip("/")
    return url if url.endswith(f"/{job}") else f"{url}/{job}"
