"""Reading the kernel's count of out-of-memory kills, in both versions of control groups."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainkit.launch.memory import oom_kills


@pytest.mark.parametrize(
    ("groups", "file", "count"),
    [
        ("0::/job\n", "job/memory.events", 3),
        ("0::/docker/abc\n", "memory.events", 3),
        ("4:cpu,cpuacct:/\n2:memory:/job\n0::/\n", "memory/job/memory.oom_control", 3),
        ("2:memory:/docker/abc\n", "memory/memory.oom_control", 3),
        ("1:cpu:/\n", "memory.events", 0),
    ],
)
def test_the_count_is_found_in_our_own_group(tmp_path: Path, groups: str, file: str, count: int) -> None:
    (tmp_path / "self").write_text(groups)
    (tmp_path / "fs" / file).parent.mkdir(parents=True)
    (tmp_path / "fs" / file).write_text("oom_kill_disable 0\nunder_oom 0\noom 9\noom_kill 3\n")
    assert oom_kills(tmp_path / "fs", tmp_path / "self") == count


def test_a_system_that_does_not_tell_counts_none(tmp_path: Path) -> None:
    assert oom_kills(tmp_path, tmp_path / "nothing") == 0
    assert oom_kills() >= 0
