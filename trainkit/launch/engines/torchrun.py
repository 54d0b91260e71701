"""The stock agent: for those who want it, and to compare our semantics with."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Iterator

from trainkit.contract.environ import RUN_DIR
from trainkit.contract.outcome import RankEnd, Record, read_record
from trainkit.launch.engines.base import Setting, Started, execute, meeting_port
from trainkit.launch.processes import Ended
from trainkit.plan.launch import BOOTSTRAP, LaunchPlan


class Torchrun:
    """torch's own agent, with our bootstrap in its workers: one process here, which stands for all ranks."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting

    def prepare(self, plan: LaunchPlan, on_ready: Callable[[], None]) -> None:
        on_ready()

    def meeting_point(self, plan: LaunchPlan) -> tuple[int, bool]:
        return meeting_port(plan), True

    def start(self, plan: LaunchPlan) -> Iterator[Started]:
        relay, run_dir = self._setting.relay, self._setting.folder(plan)
        world = plan.world
        command = (
            *(sys.executable, "-m", "torch.distributed.run"),
            *(f"--nnodes={len(world.hosts)}", f"--nproc-per-node={len(plan.ranks)}"),
            *(f"--node-rank={world.hosts.index(plan.host)}", "--max-restarts=0"),
            *(f"--master-addr={plan.master}", f"--master-port={plan.meeting.port}"),
            *(str(BOOTSTRAP / "rank.py"), *plan.entry, *plan.args),
        )
        environ = {**self._setting.environ, **plan.environment, RUN_DIR: str(run_dir)}
        if relay:
            for rank in plan.ranks:
                relay.fifo(str(rank), run_dir / f"{rank}.out")
        output = relay.pipe("torchrun") if relay else None
        try:
            yield Started(execute(command, environ, plan, output), tuple(plan.ranks))
        finally:
            if output is not None:
                os.close(output)

    def ends(self, plan: LaunchPlan, started: Started, ended: Ended) -> list[RankEnd]:
        """The agent exits with 1 whatever happened; the ranks' records, and then its own report, say more."""
        relay = self._setting.relay
        report = relay.tail("torchrun") if relay else ()
        ends = []
        for rank in started.ranks:
            record = read_record(self._setting.folder(plan) / f"{rank}.error.json") if ended.status else None
            tail = relay.tail(str(rank)) if relay else ()
            if record:
                ends.append(RankEnd(rank, plan.host, record.exit_code, time.time(), record, tail))
        if ended.status and not ends:
            ends.append(_from_report(report, plan, started, ended))
        return ends or [RankEnd(rank, plan.host, 0, time.time()) for rank in started.ranks]

    @property
    def helpers(self) -> frozenset[int]:
        return frozenset()

    def close(self) -> None:
        pass


def _from_report(report: tuple[str, ...], plan: LaunchPlan, started: Started, ended: Ended) -> RankEnd:
    """The end of a rank that died without a word, or of the agent itself, out of the agent's last lines."""
    text = "\n".join(report)
    now = time.time()
    ranks, codes = re.findall(r"rank\s*:\s*(\d+)", text), re.findall(r"exitcode\s*:\s*(-?\d+)", text)
    if ranks and codes:
        return RankEnd(int(ranks[-1]), plan.host, int(codes[-1]), now, None, report)
    record = Record(cause=report[-1], frame="torchrun's agent", trace="", time=now) if report else None
    return RankEnd(started.ranks[0], plan.host, ended.status, now, record, report)
