"""The attempts at a place, and what each of them is: a checkpoint, a damaged one, or one that was never finished."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trainkit.checkpoint import choose, manifest, tiers
from trainkit.checkpoint.manifest import File, Manifest
from trainkit.checkpoint.people.words import plain
from trainkit.checkpoint.tiers import Found, LocalTier, Tier
from trainkit.errors import CheckpointError, StorageError

State = Literal["committed", "damaged", "unfinished"]
_AT_ONCE = 16
_MOST_REASON = 4096


@dataclass(frozen=True, slots=True)
class Attempt:
    """One directory. `manifest` is there where it can be read, `problem` where the directory is no checkpoint."""

    tier: Tier
    found: Found
    manifest: Manifest | None
    problem: str | None = None

    @property
    def name(self) -> str:
        return f"{self.tier.name.rstrip('/')}/{self.found.directory}"

    @property
    def state(self) -> State:
        if not self.found.committed:
            return "damaged" if self.found.aside else "unfinished"
        return "damaged" if self.problem else "committed"

    @property
    def present(self) -> frozenset[str]:
        """Its files that are here."""
        return frozenset(self.found.sizes)

    @property
    def elsewhere(self) -> tuple[File, ...]:
        """Needed files that are not here, and may be on another host's disk."""
        whole = self.manifest
        return tuple(file for file in whole.needed if file.name not in self.found.sizes) if whole else ()


def attempts(place: str) -> list[Attempt]:
    """All attempts there, the newest first; of an attempt's own directory, that one.

    Raises StorageError where the place cannot be listed, or is a folder that does not exist.
    """
    tier, directory = _split(place)
    if isinstance(tier, LocalTier) and not tier.root.is_dir():
        raise StorageError(f"{tier.name}: there is no such folder. Compare the name, letter by letter")
    found = [one for one in tier.list() if directory in (None, one.directory)]
    found.sort(key=lambda one: (one.step, one.directory), reverse=True)
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="look") as pool:  # a bucket answers slowly, but to many
        return list(pool.map(lambda one: _look(tier, one), found))


def chosen(place: str, *, step: int | None = None) -> tuple[Attempt, tuple[str, ...]]:
    """The attempt that a command is about, and why newer ones are not.

    That is the newest checkpoint, or that of `step`; of an attempt's own directory, that one, whatever it is, if it
    has a manifest. Raises CheckpointError where there is none.
    """
    all_of_them = attempts(place)
    named = _split(place)[1] is not None
    wanted = [one for one in all_of_them if step is None or one.found.step == step]
    passed: list[str] = []
    for one in wanted:
        if one.manifest and (named or one.state == "committed"):
            return one, tuple(passed)
        passed.append(f"{one.found.directory} is {one.state}" + (f": {one.problem}" if one.problem else ""))
    raise CheckpointError(_none(place, all_of_them, step, passed))


def _none(place: str, there: list[Attempt], step: int | None, passed: list[str]) -> str:
    if passed:
        return f"{place} holds no checkpoint that can be read: {'; '.join(passed[:3])}"
    if not there:
        return f"{place} holds no checkpoint. Compare the name, letter by letter"
    steps = sorted({one.found.step for one in there if one.state == "committed"}, reverse=True)
    shown = ", ".join(map(str, steps[:8])) + (", …" if len(steps) > 8 else "")
    return f"{place} holds none of step {step}. Its checkpoints are of {f'steps {shown}' if steps else 'no step'}"


def _split(place: str) -> tuple[Tier, str | None]:
    """The place of an attempt's own directory, and its name."""
    head, slash, last = place.rstrip("/").rpartition("/")
    if manifest.step_of(last) is None:
        return tiers.of(place), None
    return tiers.of((head or slash) if slash else str(Path())), last


def _look(tier: Tier, found: Found) -> Attempt:
    whole, problem = None, None
    if found.committed:
        try:
            whole = manifest.parse(tier.manifest(found.directory))
            apart = len(whole.hosts) > 1 and tier.names(found.directory) is not None
            choose.check(whole, found.directory, found.sizes, apart=apart)
        except (CheckpointError, StorageError) as error:
            problem = str(error) if whole or isinstance(error, StorageError) else f"{manifest.FILE} {error}"
    if found.aside:
        problem = "set aside: " + (_reason(tier, found) or "it does not say why")
    return Attempt(tier, found, whole, plain(problem, 400) if problem else None)


def _reason(tier: Tier, found: Found) -> str:
    """What was written when it was set aside."""
    content = bytearray(min(found.sizes[tiers.SET_ASIDE], _MOST_REASON))
    with suppress(StorageError):
        tier.read_into(found.directory, tiers.SET_ASIDE, 0, memoryview(content))
    return content.decode(errors="replace").strip().partition("\n")[0].strip("\0")
