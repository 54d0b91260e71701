"""Ranks and writers are killed at any moment of their saves: what is resumed from is whole, and the newest there is.

The short form kills 40 times. With TRAINKIT_TEST_FAULTS=all it is more than 2,000 times, in about half an hour.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import pytest
from servers.s3 import S3Server

from faults.agent import ORDERS
from faults.killer import Kill, Series

ALL = os.environ.get("TRAINKIT_TEST_FAULTS") == "all"
AT_ONCE = 2
OF_A_SERIES = 50


def kills_in(where: str, folder: Path, *, short: int, long: int, order: str | None = None) -> list[Kill]:
    """Series of kills, each in a place of its own."""
    kills = long if ALL else short
    sizes = [min(OF_A_SERIES, kills - done) for done in range(0, kills, OF_A_SERIES)]
    series = [
        Series(f"{where}/{at}", str(folder / f"scratch-{at}"), size, seed=at, order=order)
        for at, size in enumerate(sizes)
    ]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return [kill for some in pool.map(run, series) for kill in some]


def run(series: Series) -> list[Kill]:
    command = [sys.executable, "-m", "faults.killer", json.dumps(asdict(series))]
    path = os.pathsep.join(filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")]))
    ran = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=1800, env={**os.environ, "PYTHONPATH": path}
    )
    assert ran.returncode == 0, ran.stderr
    return [Kill(**json.loads(line)) for line in ran.stdout.splitlines()]


def show(name: str, kills: list[Kill], capsys: pytest.CaptureFixture[str]) -> None:
    """A table for people who run all of them."""
    newest = sum(kill.found >= kill.newest for kill in kills)
    torn = sum(bool(kill.torn) for kill in kills)
    by_phase = Counter((kill.victim, kill.phase) for kill in kills)
    victims = sorted({kill.victim for kill in kills})
    phases = sorted({kill.phase for kill in kills})
    lines = [f"\n{name}: {len(kills)} kills, {torn} torn accepted, {newest / len(kills):.2%} from the newest committed"]
    lines.append(f"{'killed during':20}" + "".join(f"{victim:>14}" for victim in victims))
    lines += [f"{phase:20}" + "".join(f"{by_phase[victim, phase]:14}" for victim in victims) for phase in phases]
    if ALL:
        with capsys.disabled():
            print("\n".join(lines))
    else:
        print("\n".join(lines))


def assert_nothing_is_lost(kills: list[Kill]) -> None:
    assert [kill for kill in kills if kill.torn] == []
    assert [kill for kill in kills if kill.odd] == []
    assert [kill for kill in kills if kill.found < kill.newest] == []


def test_whoever_is_killed_a_local_folder_has_the_newest_checkpoint_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kills = kills_in(str(tmp_path / "checkpoints"), tmp_path, short=20, long=1000)
    show("a local folder", kills, capsys)
    assert_nothing_is_lost(kills)


@pytest.mark.parametrize("order", ORDERS)
def test_a_bucket_that_the_platform_copies_the_folder_to_has_a_whole_checkpoint_at_any_moment(
    tmp_path: Path, order: str, capsys: pytest.CaptureFixture[str]
) -> None:
    kills = kills_in(str(tmp_path / "checkpoints"), tmp_path, short=5, long=300, order=order)
    show(f"behind the platform's agent, {order}", kills, capsys)
    assert_nothing_is_lost(kills)


def test_a_bucket_has_the_newest_checkpoint_whole_however_badly_requests_fare(
    s3: S3Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    s3.faults.refuse(next=None, every=13, status=500, code="InternalError")
    s3.faults.reset(next=None, every=31, kind="PUT")
    s3.faults.lose(next=None, every=29, kind="PUT")
    s3.faults.cut(next=None, every=37, keep=1000)
    s3.faults.delay(0.2, every=17)
    kills = kills_in(s3.bucket, tmp_path, short=3, long=250)
    s3.faults.clear()
    show("S3 with errors, resets, lost answers, cut bodies and delays", kills, capsys)
    assert_nothing_is_lost(kills)
    assert s3.open_uploads() == []
