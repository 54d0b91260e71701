"""Faults planted in a real training on two hosts: every host ends in time, with the cause and the right exit code.

`make faults` runs them all, `make test` those that need no waiting; benchmarks/faults.py has our peers on them.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from faults.case import Result, run
from faults.catalogue import FAULTS, STEP, Fault
from faults.cluster import can_limit_memory, trainkit
from trainkit.errors import IsolationUnavailable

QUICK = ("exception", "sigkill", "import-error", "exit-3", "full-disk", "bus-error", "host-killed")
ALL = os.environ.get("TRAINKIT_TEST_FAULTS") == "all"

pytestmark = pytest.mark.torch


def planted(fault: Fault, folder: Path) -> Result:
    """What came of it under `train`. Skips where this machine cannot have it."""
    if fault.needs_root and not can_limit_memory():
        pytest.skip(f"{fault.title}: a control group needs root, and version 1 mounted at /sys/fs/cgroup/memory")
    try:
        return run(fault, trainkit(**{"peer_wait": "90", **fault.settings}), folder, within=fault.within)
    except IsolationUnavailable as reason:
        pytest.skip(f"{fault.title}: hosts with links of their own cannot be made here: {reason}")


def place_of(fault: Fault) -> str:
    """The line below the cause, as a regular expression: rank, host, and as much more as the rank could say."""
    step = f", step {STEP}" if fault.at_step else ""
    frame = f", {fault.frame}" if fault.frame else ""
    return f"{fault.place}{step}{frame}, exit code {fault.code}$"


@pytest.mark.parametrize("name", FAULTS if ALL else QUICK)
def test_every_host_knows_the_cause_and_ends_with_its_code(tmp_path: Path, name: str) -> None:
    fault = FAULTS[name]
    result = planted(fault, tmp_path)
    said = {host: end.failure or end.log[-2000:] for host, end in result.hosts.items()}
    assert result.ended, said
    assert result.seconds < fault.within
    for host, end in result.hosts.items():
        first, _, rest = end.failure.partition("\n")
        assert re.match(fault.said(host), first), said
        assert bool(end.failure) == (fault.code != 0), said
        assert end.code == fault.code, said
        if fault.frame:
            assert re.match(place_of(fault), rest.partition("\n")[0]), said
        elif fault.place:
            assert re.search(fault.place, first), said
        assert len(end.failure) <= 900
    assert result.left == []
