"""A host's part in a cluster, where what the first host says comes before that part has begun."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from test_launch_peers import plan

from trainkit.launch.course import Course
from trainkit.launch.engines.base import Setting
from trainkit.launch.loop import Loop
from trainkit.launch.membership import Membership
from trainkit.plan.clusters.base import Parts, Place


class Bare:
    """An engine without daemons."""

    title = "Bare"
    has_sockets = False

    def parts(self, place: Place, environ: Mapping[str, str]) -> Parts:
        return Parts((), {}, {}, ())


def test_a_host_that_hears_of_its_absence_together_with_the_meeting_fails_with_it(tmp_path: Path) -> None:
    failed: list[str] = []
    mine = replace(plan("algo-2", 4242), cluster=Bare())
    with Loop(on_signal=lambda number: None) as loop:
        setting = Setting({}, tmp_path, None, loop, lambda text: None)
        setting.folder(mine).mkdir()
        part = Membership(setting, command=lambda driver: None, failed=lambda: failed.append("failed"))
        part.blame("has not joined Bare's cluster within 2 s")
        assert not failed
        part.join(mine, None)
        assert failed == ["failed"]
        assert part.verdict
        assert part.verdict.cause == "algo-2 has not joined Bare's cluster within 2 s"
        assert not part.wanted(Course("algo-2", 1.0), leads=False), "the first host waits for this one"
        part.close()
