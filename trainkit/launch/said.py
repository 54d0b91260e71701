"""What a script has left in writing of its end: that says more than an exit code."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from trainkit.contract.outcome import LIMIT, Outcome
from trainkit.launch import words
from trainkit.plan.launch import LaunchPlan


def in_its_words(plan: LaunchPlan, own: Outcome) -> Outcome:
    """A failed `own`, as the script itself put it. A processing script that just exits may have left a message."""
    if own.exit_code == 0:
        return own
    paths, says_nothing = plan.job.paths, (own.failure or "").startswith("exit code ")
    if text := _read(paths.failure):
        return replace(own, failure=text)
    said = _read(paths.message) if plan.processes and says_nothing else None
    if said and said.strip():
        return replace(own, failure=f"{said.strip()}\n{words.head(own)}"[:LIMIT])
    return own


def alike(plan: LaunchPlan, folder: Path) -> str:
    """What a processing script's host has come to, in words that the others' must equal. Ranks say nothing."""
    if not plan.processes:
        return ""
    from trainkit.contract.features import SAID

    return _read(folder / SAID) or ""


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")[:LIMIT] or None
    except OSError:
        return None
