"""Which checkpoint to resume from: the newest whole one, from wherever it is.

A fresh start is for a job that has no checkpoint at all. Where there are some and none can be used, that is an error:
nobody wants to lose a week silently.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from trainkit.checkpoint import manifest
from trainkit.checkpoint.manifest import Manifest
from trainkit.checkpoint.tiers import SET_ASIDE, Found, Tier
from trainkit.errors import CheckpointError, StorageError
from trainkit.storage.store import ObjectMissing

_LOOKS = 10


@dataclass(frozen=True, slots=True)
class Candidate:
    """A committed attempt, and the tiers (numbers) that have committed it, those to read from first."""

    directory: str
    step: int
    tiers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """What to load, or why each candidate was passed over."""

    manifest: Manifest | None
    tiers: tuple[int, ...]
    passed_over: tuple[str, ...]
    damaged: tuple[tuple[str, int, str], ...] = ()
    """Directory, tier and reason, of those that are damaged for sure."""


def candidates(listed: Sequence[Sequence[Found]]) -> list[Candidate]:
    """The committed attempts of all tiers, the newest first. `listed[t]` is what tier t shows."""
    found: dict[str, Candidate] = {}
    for tier, shown in enumerate(listed):
        for one in shown:
            if one.committed and not one.aside:
                known = found.get(one.directory, Candidate(one.directory, one.step, ()))
                found[one.directory] = Candidate(one.directory, one.step, (*known.tiers, tier))
    return sorted(found.values(), key=lambda one: (one.step, one.directory), reverse=True)


def choose(places: Sequence[Tier], *, without: Collection[str] = ()) -> Choice:
    """Look into all tiers, and read manifests from the newest on until one is whole.

    `without`: directories that turned out to be unusable. Raises StorageError where a tier cannot be listed: what
    cannot be seen may be newer than all that can.
    """
    for _ in range(_LOOKS):
        choice, vanished = _look(places, without)
        if choice.manifest or not vanished:
            break
    return choice


def _look(places: Sequence[Tier], without: Collection[str]) -> tuple[Choice, bool]:
    """What one look shows, and whether candidates vanished meanwhile: the writers of killed ranks still commit newer
    ones and delete these, so that there may be nothing left of what was listed.
    """
    vanished = False
    listed = [place.list() for place in places]
    passed_over: list[str] = []
    damaged: list[tuple[str, int, str]] = []
    for candidate in candidates(listed):
        if candidate.directory in without:
            continue
        usable: list[int] = []
        whole: Manifest | None = None
        for tier in candidate.tiers:
            sizes = next(one.sizes for one in listed[tier] if one.directory == candidate.directory)
            try:
                if sizes[manifest.FILE] > manifest.MOST_BYTES:
                    raise CheckpointError(f"its manifest has {sizes[manifest.FILE]} bytes, which none ever has")
                read = manifest.parse(places[tier].manifest(candidate.directory))
                check(read, candidate.directory, sizes, apart=places[tier].names(candidate.directory) is not None)
            except StorageError as error:
                vanished |= isinstance(error, ObjectMissing)
                passed_over.append(str(error))
            except CheckpointError as error:
                where = f"{places[tier].name}/{candidate.directory}"
                passed_over.append(f"{where}: {error}")
                if _is_there(places[tier], candidate.directory):
                    damaged.append((candidate.directory, tier, str(error)))
            else:
                whole = whole or read
                usable.append(tier)
        if whole:
            return Choice(whole, tuple(usable), tuple(passed_over), tuple(damaged)), vanished
    # Those of earlier starts count too: a job that is started again must not begin anew just because of that.
    aside = [f"{places[tier].name}/{one.directory} was set aside: see {SET_ASIDE} there"
             for tier, shown in enumerate(listed) for one in shown if one.committed and one.aside]  # fmt: skip
    return Choice(None, (), (*passed_over, *aside), tuple(damaged)), vanished


def _is_there(place: Tier, directory: str) -> bool:
    """Whether it has a manifest still: a writer of the ranks before may be about to delete it."""
    try:
        place.manifest(directory)
    except ObjectMissing:
        return False
    return True


def check(whole: Manifest, directory: str, sizes: Mapping[str, int], *, apart: bool) -> None:
    """Whether a directory is what its manifest says, as far as a listing shows. Raises CheckpointError.

    Where hosts have disks `apart`, a file that is missing may be on another one; one of another size is nobody's.
    """
    if whole.directory != directory:
        raise CheckpointError(f"its manifest is that of {whole.directory}")
    if missing := [file.name for file in whole.needed if not apart and file.name not in sizes]:
        raise CheckpointError(f"{missing[0]} is gone")
    for file in whole.files:
        if sizes.get(file.name, file.size) != file.size:
            raise CheckpointError(f"{file.name} has {sizes[file.name]} bytes, and {file.size} were written")
