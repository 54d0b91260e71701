"""Hosts wait for each other, and each for its own engine, before any rank starts."""

from __future__ import annotations

import time
from collections.abc import Callable

from trainkit.errors import PeerLost
from trainkit.launch.loop import Loop
from trainkit.launch.peers import Hub, Spoke
from trainkit.plan.launch import LaunchPlan

_FIRST_TELLS = 15.0
"""Seconds beyond `peer_wait` in which the first host, which waits as long, may say who was missing."""


def wait(
    plan: LaunchPlan,
    *,
    loop: Loop,
    link: Hub | Spoke | None,
    ready: Callable[[], bool],
    called_off: Callable[[], bool],
) -> bool:
    """Until every host is here and the engine is `ready`. False where it was called off before.

    Raises PeerLost with the hosts that have not come in time.
    """
    patience = plan.job.settings.peer_wait
    deadline = time.monotonic() + patience
    while not (ready() and (link is None or link.complete)):
        if called_off():
            return False
        told_by_first = isinstance(link, Spoke) and link.connected
        if link and not link.complete and time.monotonic() > deadline + _FIRST_TELLS * told_by_first:
            raise PeerLost(f"{link.missing()} (TRAINKIT_PEER_WAIT={patience:g} s)")
        moments = [max(deadline, time.monotonic() + 0.1)] if link and not link.complete else []
        if link:
            link.tick()
            moments.append(link.next_tick)
        if isinstance(link, Spoke):
            link.attempt()
            moments += [link.next_try] if link.next_try is not None else []
        loop.turn(until=min(moments, default=None))
    return True
