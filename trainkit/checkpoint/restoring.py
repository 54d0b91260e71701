"""Puts all ranks into the state of one checkpoint, or of none: they try one together, and go to the next together."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from trainkit.checkpoint import choose, own
from trainkit.checkpoint.holdings import Holders
from trainkit.checkpoint.manifest import Manifest
from trainkit.checkpoint.read import Damaged, Reader
from trainkit.checkpoint.subjects import Generators, Subject
from trainkit.checkpoint.tiers import Tier
from trainkit.checkpoint.world import World
from trainkit.errors import CheckpointError, StorageError


@dataclass(frozen=True, slots=True)
class _Try:
    """What one rank says about a candidate: it fits; or it cannot be read; or it is for something else."""

    unreadable: str | None = None
    damaged: tuple[int, ...] = ()
    """Tiers in which it is damaged for sure."""
    unfit: str | None = None


@dataclass(frozen=True, slots=True)
class Restored:
    """`passed_over`: why newer ones could not be used."""

    manifest: Manifest
    passed_over: tuple[str, ...]
    bytes_read: int


class Restorer:
    """Restores `subjects` from `tiers`, the ones to be read first being the first."""

    def __init__(
        self, world: World, subjects: Mapping[str, Subject], holders: Holders, say: Callable[[str], None]
    ) -> None:
        self._world, self._subjects, self._holders, self._say = world, subjects, holders, say
        self._ours = True

    def restore(self, tiers: Sequence[Tier], *, without: Collection[str] = (), ours: bool = True) -> Restored | None:
        """From the newest checkpoint that all ranks can read whole; None where there is none at all.

        `without`: names of subjects that stay as they are. `ours`: whether what is damaged may be marked there. Raises
        CheckpointError, on all ranks, where there are some and none can be used, or where it is one of something else.
        """
        self._ours = ours
        passed: list[str] = []
        tried: set[str] = set()
        while True:
            choice = self._world.from_first(self._choose(tiers, tried) if self._world.rank == 0 else None)
            assert choice is not None
            if isinstance(choice, str):
                raise CheckpointError(choice)
            passed += choice.passed_over
            if choice.manifest is None:
                break
            tried.add(choice.manifest.directory)
            restored = self._try(choice, tiers, without, passed)
            if restored:
                return restored
        if passed:
            raise CheckpointError(
                "there are checkpoints, and none can be used; a fresh start would lose them. "
                "Restore with fresh=True if that is meant. " + "; ".join(dict.fromkeys(passed))
            )
        return None

    def _choose(self, tiers: Sequence[Tier], tried: Collection[str]) -> choose.Choice | str:
        """On the first rank. Returns what is wrong where a tier cannot be seen."""
        try:
            choice = choose.choose(tiers, without=tried)
        except StorageError as error:
            return str(error)
        for directory, tier, why in choice.damaged:
            self._set_aside(tiers[tier], directory, why)
        return choice

    def _try(
        self, choice: choose.Choice, tiers: Sequence[Tier], without: Collection[str], passed: list[str]
    ) -> Restored | None:
        whole = choice.manifest
        assert whole
        reader = Reader(
            whole, [tiers[tier] for tier in choice.tiers], [_present(tiers[t], whole) for t in choice.tiers]
        )
        verdict, trees = self._read(reader, without)
        verdicts = self._world.gather(verdict)
        if unfit := next((f"{one.unfit} (rank {rank})" for rank, one in enumerate(verdicts) if one.unfit), None):
            raise CheckpointError(f"{whole.directory} does not fit: {unfit}")
        ranks = {one.unreadable: rank for rank, one in reversed([*enumerate(verdicts)]) if one.unreadable}
        problems = [f"{why} (rank {rank})" for why, rank in reversed(ranks.items())]
        if problems:
            passed += problems[:3]
            if self._world.rank == 0:
                for tier in {choice.tiers[at] for one in verdicts for at in one.damaged}:
                    self._set_aside(tiers[tier], whole.directory, problems[0])
            return None
        for name, subject in self._subjects.items():
            if name in trees:
                subject.apply(trees[name])
        for problem in reader.healed:
            self._say(f"checkpoint: {problem} It was read from another place")
        return Restored(whole, tuple(dict.fromkeys(passed)), reader.bytes_read)

    def _read(self, reader: Reader, without: Collection[str]) -> tuple[_Try, dict[str, Any]]:
        """Read all that this rank needs. Tensors are changed; the rest waits until all ranks have read theirs."""
        whole = reader.manifest
        try:
            trees = self._trees(reader, without)
            wanted = [
                wish
                for name, subject in self._subjects.items()
                if name in trees
                for wish in subject.wanted(whole, trees[name], self._holders)
            ]
            reader.read(wanted)
        except Damaged as error:
            return _Try(unreadable=str(error), damaged=tuple(sorted(reader.damaged))), {}
        except StorageError as error:
            return _Try(unreadable=str(error)), {}
        except CheckpointError as error:
            return _Try(unfit=str(error)), {}
        return _Try(), trees

    def _trees(self, reader: Reader, without: Collection[str]) -> dict[str, Any]:
        """The own states that this rank goes on with."""
        whole = reader.manifest
        same_world = whole.ranks == self._world.ranks
        images = own.parse(reader.state(self._world.rank if same_world else 0))
        missing = [name for name in self._subjects if name not in images and name not in without]
        if wanted := [name for name in missing if name != Generators.name]:  # an imported one was made by no training
            raise CheckpointError(
                f"it holds no {', no '.join(wanted)}; restore(without={[*without, *wanted]!r}) leaves "
                f"{'it as it is' if len(wanted) == 1 else 'them as they are'}"
            )
        trees = {}
        for name in self._subjects:
            if name in without or name in missing:
                continue
            if name == Generators.name and not same_world and whole.ranks == 1:
                continue  # one rank's random numbers, on several, would be the same on all
            if same_world or name in whole.alike:
                trees[name] = own.decode(images[name])
            elif name != Generators.name:  # random numbers of other ranks are no better than new ones
                raise CheckpointError(
                    f"each of its {whole.ranks} ranks had another state of {name}, and now there are "
                    f"{self._world.ranks}; restore(without=[{name!r}]) leaves it as it is"
                )
        return trees

    def _set_aside(self, tier: Tier, directory: str, why: str) -> None:
        if self._ours:
            with suppress(StorageError):  # a place that can only be read
                tier.set_aside(directory, why + "\n")
        self._say(f"checkpoint: {tier.name}/{directory} is damaged{', and set aside' if self._ours else ''}: {why}")


def _present(tier: Tier, whole: Manifest) -> frozenset[str]:
    """The files of a checkpoint that this rank can reach in a tier."""
    with suppress(StorageError):  # reading will say why it cannot
        if (names := tier.names(whole.directory)) is not None:
            return names
    return frozenset(file.name for file in whole.needed)
