"""docs/api.md names everything that scripts are offered, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import trainkit
from trainkit.job.context import Context

DOC = (Path(__file__).parents[2] / "docs/api.md").read_text(encoding="utf-8")
OFFERED = {name for name in vars(Context) if not name.startswith("_")}


def in_tables(owner: str) -> set[str]:
    """The names in the first cells of the tables."""
    cells = [line.split(" | ")[0] for line in DOC.splitlines() if line.startswith("| `")]
    return {name for cell in cells for name in re.findall(rf"`{owner}\.(\w+)`", cell)}


def test_each_name_that_scripts_are_offered_stands_in_a_table() -> None:
    assert in_tables("job") == OFFERED
    assert in_tables("trainkit") == set(trainkit.__all__)


def test_no_name_is_mentioned_that_does_not_exist() -> None:
    assert set(re.findall(r"\bjob\.(\w+)", DOC)) <= OFFERED
    assert set(re.findall(r"\btrainkit\.(\w+)", DOC)) <= {*trainkit.__all__, "json"}, "trainkit.json is the manifest"
