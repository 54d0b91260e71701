"""This host's part in the clusters of a job: one in each generation of a job that names an engine. Most name none."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from trainkit.contract.outcome import Outcome
from trainkit.launch.course import Course
from trainkit.launch.engines.base import Setting
from trainkit.launch.peers import Hub, Spoke
from trainkit.launch.processes import Ended
from trainkit.plan.launch import LaunchPlan

if TYPE_CHECKING:
    from trainkit.launch.cluster import Cluster


class Membership:
    """No part in anything until it joins, and again when it is closed."""

    def __init__(
        self, setting: Setting, *, command: Callable[[Mapping[str, str]], None], failed: Callable[[], None]
    ) -> None:
        """`command` starts the one command, on the first host, with what its environment gets. `failed`: we have."""
        self._setting = setting
        self._command = command
        self._failed = failed
        self._cluster: Cluster | None = None
        self._generation: int | None = None
        self._head_up: int | None = None
        """The generation whose head answers: that is told together with the meeting, before a host has joined."""
        self._blamed = ""
        """Why the engine does not count this host. It may hear of it late, likewise; there is no generation after."""

    @property
    def verdict(self) -> Outcome | None:
        """What the job failed with, where it was this host's part of the cluster."""
        return self._cluster.verdict if self._cluster else None

    @property
    def failed_at(self) -> float | None:
        """When, seconds since the epoch."""
        return self._cluster.failed_at if self._cluster else None

    @property
    def pids(self) -> frozenset[int]:
        """Its processes here, of which each has a family."""
        return self._cluster.pids if self._cluster else frozenset()

    @property
    def next_look(self) -> float:
        """The monotonic time at which `tick` wants to be called."""
        return self._cluster.next_look if self._cluster else math.inf

    def join(self, plan: LaunchPlan, link: Hub | Spoke | None) -> None:
        """Start this host's daemons; the one command follows, on the first host, when the engine counts all hosts.

        Raises TrainkitError where they cannot be started.
        """
        from trainkit.launch.cluster import Cluster, Hooks

        def up() -> None:
            if isinstance(link, Hub):
                link.up()

        def ready() -> None:
            assert self._cluster
            self._command(self._cluster.driver)

        def absent(hosts: list[str], why: str) -> None:
            assert isinstance(link, Hub)
            link.absent(hosts, why)

        self._generation = plan.meeting.generation
        self._cluster = Cluster(plan, self._setting, Hooks(up, ready, self._failed, absent), link=link)
        self._cluster.start()
        self.up(self._head_up)
        if self._blamed:
            self._cluster.blame(self._blamed)

    def up(self, generation: int | None) -> None:
        """The head of this generation answers."""
        self._head_up = generation
        if self._cluster and generation == self._generation:
            self._cluster.up()

    def released(self) -> None:
        """On the other hosts: the one command has ended well."""
        if self._cluster:
            self._cluster.released = True

    def blame(self, why: str) -> None:
        """The engine does not count this host."""
        self._blamed = why
        if self._cluster:
            self._cluster.blame(why)

    def wanted(self, course: Course, *, leads: bool) -> bool:
        """Whether this host's daemons are, though no process of the script runs here."""
        if not self._cluster or self._cluster.verdict or course.others_failed:
            return False
        return (not self._cluster.ready and course.stop_signal is None) if leads else not self._cluster.released

    def tick(self) -> None:
        """Time has passed."""
        if self._cluster:
            self._cluster.tick()

    def reap(self, ended: Ended) -> bool:
        """Hear of a process that has ended. Returns whether it was one of the cluster's."""
        return self._cluster is not None and self._cluster.reap(ended)

    def leave(self, course: Course, link: Hub | Spoke | None, *, leads: bool) -> None:
        """The command has ended, here or on the first host, or all are to end."""
        if not self._cluster:
            return
        if isinstance(link, Hub) and not course.has_failed and not self._cluster.verdict:
            link.release()
        # What the first host runs ends last: the others' daemons would fail, or complain, without it.
        if leads:
            self._cluster.leave()
        else:
            self._cluster.close()

    def close(self) -> None:
        """End what runs here."""
        if self._cluster:
            self._cluster.close()

    def forget(self) -> None:
        """Another generation begins."""
        self.close()
        self._cluster = None
