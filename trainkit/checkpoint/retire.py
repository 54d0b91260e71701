"""Deletes checkpoints that need not stay, and what others began and never finished; each manifest before its files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress

from trainkit.checkpoint import choose, manifest, retain
from trainkit.checkpoint.retain import Committed, Retention
from trainkit.checkpoint.tiers import Found, Tier
from trainkit.errors import CheckpointError, StorageError


class Retirement:
    """One tier's. It looks there once; what is new after that is this job's own.

    `agent`: the platform copies what is there. It has what the job found there, and what it has marked.
    `apart`: hosts have disks of their own there.
    """

    def __init__(self, tier: Tier, retention: Retention, *, agent: bool = False, apart: bool = False) -> None:
        """Raises StorageError."""
        self._tier = tier
        self._retention = retention
        self._apart = apart
        self._arrived = tier.arrived() if agent else None
        listed = tier.list()
        found = [one for one in listed if not one.aside]
        # A platform that copies file by file may have brought a manifest without all that it names.
        partial = [one for one in found if agent and one.committed and not self._is_whole(one)]
        found = [one for one in found if one not in partial]
        self._aside = [one.directory for one in listed if one.aside or one in partial]
        self._whole = [
            Committed(one.directory, one.step, self._metrics(one.directory)) for one in found if one.committed
        ]
        self._torsos = [one for one in found if not one.committed]
        with suppress(StorageError):  # a role that may not list uploads: a lifecycle rule of the bucket frees them
            self._torsos += [Found(name) for name in tier.begun() - {one.directory for one in found}]

    def committed(self, checkpoint: Committed) -> None:
        """A new one is there."""
        self._whole.append(checkpoint)
        self._torsos = [torso for torso in self._torsos if torso.directory != checkpoint.directory]

    def failed(self, directories: Iterable[str]) -> None:
        """These attempts will never be committed."""
        self._torsos += [Found(directory) for directory in directories]

    def apply(self) -> tuple[list[str], int]:
        """Delete. Returns the directories that stay, and the newest one's step. Raises StorageError."""
        # An agent that is slow has not copied the newest ones yet: those that it has stay until then.
        copied = [one for one in self._whole if self._copied(one.directory)]
        stay = retain.kept(self._whole, self._retention) | retain.kept(copied, self._retention)
        newest = max(one.step for one in self._whole)
        for one in [one for one in self._whole if one.directory not in stay]:
            if _delete(self._tier, one.directory):
                self._whole.remove(one)
        # A torso of a step that is behind us is nobody's work in progress any more.
        for torso in [torso for torso in self._torsos if torso.step < newest]:
            if _delete(self._tier, torso.directory):
                with suppress(StorageError):
                    self._tier.abandon(torso.directory)
                self._torsos.remove(torso)
        return sorted([*(one.directory for one in self._whole), *self._aside]), newest

    def _copied(self, directory: str) -> bool:
        if self._arrived is None:
            return self._tier.copied(directory)
        marked = self._tier.marked(directory)
        return directory in self._arrived if marked is None else marked

    def _is_whole(self, one: Found) -> bool:
        try:
            whole = manifest.parse(self._tier.manifest(one.directory))
            choose.check(whole, one.directory, one.sizes, apart=self._apart)
        except CheckpointError:
            return False
        return True

    def _metrics(self, directory: str) -> Mapping[str, float]:
        if self._retention.best:  # nobody else asks
            with suppress(CheckpointError, StorageError):
                return manifest.parse(self._tier.manifest(directory)).metrics
        return {}


def sweep(tier: Tier, *, kept: Sequence[str], below: int) -> None:
    """The same on the disk of a host that has no manifests: what the first host keeps stays, older ones go."""
    for one in tier.list():
        if one.directory not in kept and one.step < below and not one.aside:
            _delete(tier, one.directory)


def _delete(tier: Tier, directory: str) -> bool:
    if not tier.delete_manifest(directory):
        return False
    tier.delete(directory)
    return True
