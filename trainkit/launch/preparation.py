"""This host's part before ranks can be planned: its code is made ready while the other hosts come."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from trainkit.errors import TrainkitError
from trainkit.launch import limits
from trainkit.launch.course import SIBLING_GRACE
from trainkit.launch.engines.base import Setting
from trainkit.launch.errand import Errand, Planner, Running
from trainkit.launch.peers import Hub, Spoke
from trainkit.launch.processes import Ended
from trainkit.launch.waiting import busy, linger
from trainkit.plan.launch import LaunchPlan


class Preparation:
    """An errand that is carried out once, before all generations."""

    def __init__(self, errand: Errand, setting: Setting, plan: LaunchPlan) -> None:
        """`plan` is what is known of this host's part before."""
        self._errand = errand
        self._setting = setting
        self._plan = plan
        self._running: Running | None = None

    def reap(self, ended: Ended) -> bool:
        """Hear of a process that has ended. Returns whether it was the errand's."""
        return self._running is not None and self._running.reap(ended)

    def carry_out(
        self, link: Hub | Spoke | None, *, called_off: Callable[[], bool], impatient: Callable[[], bool]
    ) -> tuple[Planner, LaunchPlan] | None:
        """Carry it out, and plan with what it brought. None where it was `called_off` before.

        Raises TrainkitError where the code cannot be made ready, or be planned with, once the other hosts are there to
        hear it.
        """
        loop, relay = self._setting.loop, self._setting.relay
        if isinstance(link, Spoke):
            link.prepare()
        running = self._running = self._start()
        if not busy(loop=loop, link=link, done=lambda: running.done, called_off=called_off):
            running.cancel()
            deadline = time.monotonic() + SIBLING_GRACE
            while not (running.done or impatient()) and time.monotonic() < deadline:
                loop.turn(until=deadline)
            return None
        if relay:
            relay.end("")
        try:
            planner = self._errand.then(running.prepared())
            return planner, planner(at_terminal=self._plan.keeps_terminal)
        except TrainkitError:
            if link:
                linger(loop=loop, link=link, called_off=called_off)
            raise

    def _start(self) -> Running:
        relay, run_dir = self._setting.relay, self._setting.run_dir
        output = relay.pipe("") if relay else None
        try:
            return Running(self._errand.order, environ=self._setting.environ, run_dir=run_dir, output=output)
        except OSError as error:
            raise limits.cannot_write(self._plan.host, run_dir, error) from None
        finally:
            if output is not None:
                os.close(output)
