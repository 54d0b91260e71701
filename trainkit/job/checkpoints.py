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
        self._made: list[Checkpointer] = []

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
            coordinator=os.environ.get("MASTER_ADDR", "127.0.0.1"),
        )  # fmt: skip
        world = facts.world
        ranks = World.meet(rank=world.rank, ranks=world.world_size, hosts=world.hosts, host_rank=world.host_rank)
        made = Checkpointer(objects, setup, ranks, say=self._say)
        self._made.append(made)
        return made

    def within_step(self, done: int, *, age: float) -> bool:
        """Whether, after `done` items of a loop, a checkpointer's step is not over: gradients are still added up.

        It was called a few items ago, and will be called in a few: until then there is nothing to save.
        """
        if age > self._facts.settings.stop_grace / 2:
            return False
        return any(one.done is not None and 0 < done - one.done < _ACCUMULATED for one in self._made)

    def stop(self, done: int, *, age: float) -> None:
        """All ranks have stopped after `done` items, `age` seconds after they were asked to: save what is there."""
        for one in self._made:
            if one.done is not None and done > one.done:
                if self._facts.world.rank == 0:
                    self._say(
                        f"checkpoint: none is made at this stop: step {done - 1} was not the checkpointer's; "
                        "call its step after each step of the optimizer"
                    )
            else:
                one.stop(left=max(0.0, self._facts.settings.stop_grace - age - MARGIN))

    def close(self, *, failed: bool) -> None:
        """The script is over. What it saved is waited for, unless it `failed`: its error is not to be held up."""
        for one in self._made:
            if not failed:
                one.close()


def prefix(url: str, *, job: str) -> str:
    """The job's own place: what restarts it finds it there, and no other job does."""
    url = url.rstrip("/")
    return url if url.endswith(f"/{job}") else f"{url}/{job}"
