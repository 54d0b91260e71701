"""`trainkit checkpoint ls`: what lies at a place, one line for each attempt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trainkit.checkpoint.manifest import Manifest
from trainkit.checkpoint.people.place import Attempt
from trainkit.checkpoint.people.words import counted, plain, size, table, when

_HEAD = ("STEP", "ATTEMPT", "WHEN", "SIZE", "RANKS", "METRICS", "STATE")


def as_text(place: str, there: Sequence[Attempt]) -> str:
    if not there:
        return f"{place}: no checkpoints"
    return "\n".join([f"{place}:", *table([_HEAD, *map(_row, there)], right=(0, 3))])


def document(one: Attempt) -> dict[str, Any]:
    """The same for programs."""
    whole = one.manifest
    told: dict[str, Any] = {
        "place": one.tier.name, "directory": one.found.directory, "step": one.found.step, "state": one.state,
        "problem": one.problem, "size": whole.size if whole else sum(one.found.sizes.values()),
        "files_here": sum(not one.problem and file.name in one.found.sizes for file in whole.needed) if whole else None,
    }  # fmt: skip
    if whole:
        told |= {
            "job": whole.job, "at": whole.at, "ranks": whole.ranks, "hosts": list(whole.hosts),
            "files": len(whole.needed), "metrics": dict(whole.metrics),
        }  # fmt: skip
    return told


def _row(one: Attempt) -> tuple[str, ...]:
    whole = one.manifest
    attempt = one.found.directory.partition(".")[2]
    if whole is None:
        here = size(sum(one.found.sizes.values()))
        return str(one.found.step), attempt, "-", here, "-", "-", _state(one)
    return (
        str(one.found.step), attempt, when(whole.at), size(whole.size), _ranks(whole), _metrics(whole), _state(one),
    )  # fmt: skip


def _ranks(whole: Manifest) -> str:
    """`8 on 2`: ranks, and hosts."""
    return f"{whole.ranks} on {counted(len(whole.hosts), 'host')}"


def _metrics(whole: Manifest) -> str:
    shown = [f"{plain(name, 24)} {value:.6g}" for name, value in whole.metrics.items()]
    return ", ".join(shown[:4]) + (", …" if len(shown) > 4 else "") or "-"


def _state(one: Attempt) -> str:
    if one.problem:
        return f"{one.state} ({one.problem})"
    if one.manifest and one.elsewhere:
        all_files = len(one.manifest.needed)
        return f"{one.state}; {all_files - len(one.elsewhere)} of {counted(all_files, 'file')} here"
    return one.state
