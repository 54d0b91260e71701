"""Hosts wait for each other, and each for its own engine, before any rank starts."""

from __future__ import annotations

import time
from collections.abc import Callable

from trainkit.errors import PeerLost
from trainkit.launch.loop import Loop
from trainkit.launch.peers import Hub, Spoke
from trainkit.plan.launch import LaunchPlan

_TO_TELL = 30.0
"""Seconds that a host which cannot go on waits for those that are to hear of it."""
_FIRST_TELLS = 15.0
"""Seconds beyond `peer_wait` in which the first host, which waits as long, may say who was missing."""


def wait(
    plan: LaunchPlan,
    *,
    loop: Loop,
    link: Hub | Spoke | None,
    ready: Callable[[], bool],
    called_off: Callable[[], bool],
    patient: bool = False,
) -> bool:
    """Until every host is here and the engine is `ready`. False where it was called off before.

    `patient`: those that have come are waited for as long as they are busy with their code.
    Raises PeerLost with the hosts that have not come in time.
    """
    patience = plan.job.settings.peer_wait
    deadline = time.monotonic() + patience
    while not (ready() and (link is None or link.complete)):
        if called_off():
            return False
        told_by_first = isinstance(link, Spoke) and link.connected
        missed = link and not link.complete and not (patient and link.met)
        if link and missed and time.monotonic() > deadline + _FIRST_TELLS * told_by_first:
            raise PeerLost(f"{link.missing()} (TRAINKIT_PEER_WAIT={patience:g} s)")
        _turn(loop, link, until=max(deadline, time.monotonic() + 0.1) if missed else None)
    return True


def linger(*, loop: Loop, link: Hub | Spoke, called_off: Callable[[], bool]) -> None:
    """This host cannot go on, and the others, which may come later than it found out, are to hear why."""
    deadline = time.monotonic() + _TO_TELL
    while not link.met and not called_off() and time.monotonic() < deadline:
        _turn(loop, link, until=deadline)


def busy(*, loop: Loop, link: Hub | Spoke | None, done: Callable[[], bool], called_off: Callable[[], bool]) -> bool:
    """Until `done`, while the other hosts come and go. False where it was called off before."""
    while not done():
        if called_off():
            return False
        _turn(loop, link, until=None)
    return True


def _turn(loop: Loop, link: Hub | Spoke | None, *, until: float | None) -> None:
    moments = [until] if until is not None else []
    if link:
        link.tick()
        moments.append(link.next_tick)
    if isinstance(link, Spoke):
        link.attempt()
        moments += [link.next_try] if link.next_try is not None else []
    loop.turn(until=min(moments, default=None))
