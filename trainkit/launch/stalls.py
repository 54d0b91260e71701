"""Ranks that do not get on: noticed, shown with their stacks, and ended where the settings say so.

every few seconds  each host's Report  ─▶  first host: stalled?  ─▶  all hosts: ask the ranks for their stacks
a second later     each host logs them, and tells where they stand  ─▶  first host: names whom the job waits for
"""

from __future__ import annotations

import time
from collections.abc import Callable

from trainkit.contract.outcome import Outcome
from trainkit.launch.generation import Generation
from trainkit.launch.peers import Hub, Spoke
from trainkit.launch.watch import Report, Stance, Watchman, blame
from trainkit.plan.launch import LaunchPlan

_LOOK = 2.0  # seconds between two looks at the ranks
_ANSWER = 1.0  # seconds that a rank gets to write down its stacks; it takes milliseconds
_OTHERS = 6.0  # seconds that the other hosts get to say where their ranks stand


class Stalls:
    """One host's part in it, and on the first host the judgement. `act` is called to end the ranks."""

    def __init__(self, plan: LaunchPlan, *, say: Callable[[str], None], act: Callable[[Outcome], None]) -> None:
        self._host = plan.host
        self._hosts = plan.world.hosts
        self._leads = plan.leads
        self._timeout = plan.job.settings.stall_timeout
        self._acts = plan.job.settings.stall_action == "act"
        self._say = say
        self._act = act
        self.reset()

    def reset(self) -> None:
        """Other ranks begin."""
        self._watchman = Watchman(self._hosts, self._timeout)
        self._next_look = time.monotonic() + self._pause
        self._show_at: float | None = None
        self._judge_at: float | None = None
        self._stances: dict[str, list[Stance]] = {}
        self.verdict: Outcome | None = None
        """On the first host: what the job failed with, where it was ended for standing still."""

    @property
    def next_look(self) -> float:
        """The monotonic time at which `tick` wants to be called."""
        return min(filter(None, (self._next_look, self._show_at, self._judge_at)))

    def tick(self, ranks: Generation | None, *, link: Hub | Spoke | None) -> None:
        """Time has passed. `ranks` where they are to get on, and are not ending."""
        now = time.monotonic()
        if ranks is None:  # none are to be looked at any more
            self._show_at = self._judge_at = None
            self._next_look = now + self._pause
            return
        if self._show_at and now >= self._show_at:
            self._show_at = None
            self._show(ranks, link)
        if self._judge_at and now >= self._judge_at:
            self._judge()
        if now >= self._next_look:
            self._next_look = now + self._pause
            if self._leads:
                self.reported(self._host, ranks.report())
                self._look(ranks, link, now=now)

    def reported(self, host: str, report: Report) -> None:
        """On the first host: how a host's ranks get on."""
        self._watchman.heard(host, report)

    def ask(self, ranks: Generation) -> None:
        """Ask this host's ranks for their stacks."""
        ranks.ask_for_stacks()
        self._show_at = time.monotonic() + _ANSWER

    def shown(self, host: str, stances: list[Stance]) -> None:
        """On the first host: where a host's ranks stand."""
        self._stances[host] = stances
        if self._judge_at and set(self._stances) >= set(self._hosts):
            self._judge()

    @property
    def _pause(self) -> float:
        return min(_LOOK, self._timeout / 4 or _LOOK)

    def _look(self, ranks: Generation, link: Hub | Spoke | None, *, now: float) -> None:
        if slow := self._watchman.straggler(now=now):
            self._say(slow)
        if self._watchman.stalled() is not None:
            self._stances = {}
            self._judge_at = now + _OTHERS
            if isinstance(link, Hub):
                link.show()
            self.ask(ranks)

    def _show(self, ranks: Generation, link: Hub | Spoke | None) -> None:
        stances = ranks.stances()
        for stance, text in stances:
            self._say(f"no sign of life for {stance.idle:.0f} s: {stance}\n{text}".rstrip())
        own = [stance for stance, _ in stances]
        if link:
            link.shown(own)
        else:
            self.shown(self._host, own)

    def _judge(self) -> None:
        self._judge_at = None
        everyone = [stance for stances in self._stances.values() for stance in stances]
        outcome = blame(everyone, idle=self._timeout)
        if self._acts:
            self.verdict = outcome
            self._act(outcome)
        else:
            self._say(outcome.failure or "")
