"""The plain engine: one `python train.py`, or one command, per rank."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator

from trainkit.contract.outcome import RankEnd, read_record
from trainkit.launch.engines.base import Setting, Started, execute, meeting_port
from trainkit.launch.processes import Ended
from trainkit.plan.launch import LaunchPlan


class Spawn:
    """One plain process per rank."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting

    def prepare(self, plan: LaunchPlan, on_ready: Callable[[], None]) -> None:
        on_ready()

    def meeting_point(self, plan: LaunchPlan) -> tuple[int, bool]:
        return meeting_port(plan), False

    def start(self, plan: LaunchPlan) -> Iterator[Started]:
        relay = self._setting.relay
        for rank in plan.ranks:
            output = relay.pipe(str(rank)) if relay else None
            try:
                yield Started(self._start_rank(plan, rank, output), (rank,))
            finally:
                if output is not None:
                    os.close(output)

    def ends(self, plan: LaunchPlan, started: Started, ended: Ended) -> list[RankEnd]:
        (rank,) = started.ranks
        return [
            RankEnd(
                rank=rank,
                host=plan.host,
                status=ended.status,
                time=time.time(),
                record=read_record(self._setting.folder(plan) / f"{rank}.error.json") if ended.status else None,
                tail=self._setting.relay.tail(str(rank)) if self._setting.relay else (),
                solo=plan.processes is not None,
            )
        ]

    @property
    def helpers(self) -> frozenset[int]:
        return frozenset()

    def close(self) -> None:
        pass

    def _start_rank(self, plan: LaunchPlan, rank: int, output: int | None) -> int:
        rank_environment = plan.rank_environment(rank, run_dir=self._setting.folder(plan))
        environ = {**self._setting.environ, **plan.environment, **rank_environment}
        return execute(plan.command, environ, plan, output)
