"""Which checkpoint a restart takes: the newest whole one, from wherever it is, and why it is not a newer one."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest
from checkpoint_made import made, restored

from trainkit.checkpoint import image, manifest
from trainkit.checkpoint.choose import choose
from trainkit.checkpoint.tiers import Found, LocalTier, UrlTier
from trainkit.errors import StorageError


def test_the_newest_of_all_places_is_taken_from_those_that_have_it(tmp_path: Path) -> None:
    dice = random.Random(1)
    places = [LocalTier(tmp_path / "local"), UrlTier(f"file://{tmp_path}/remote")]
    old = made(tmp_path / "local", dice, step=3)
    new = made(tmp_path / "remote", dice, step=7)
    choice = choose(places)
    assert (choice.manifest, choice.tiers) == (new.manifest, (1,))
    shutil.copytree(new.folder, tmp_path / "local" / new.manifest.directory)
    assert choose(places).tiers == (0, 1)
    assert choose(places, without=[new.manifest.directory]).manifest == old.manifest
    got = restored(places)
    assert got is not None
    assert got[2] == new.states


def test_nothing_at_all_is_a_fresh_start_and_says_so_by_passing_over_nothing(tmp_path: Path) -> None:
    (tmp_path / "step-000000001.notes").mkdir()
    (tmp_path / "step-000000001.txt").touch()
    made(tmp_path / "other", random.Random(1), step=1)
    choice = choose([LocalTier(tmp_path), LocalTier(tmp_path / "nowhere")])
    assert (choice.manifest, choice.passed_over) == (None, ())


def test_what_cannot_be_used_is_named_with_the_reason(tmp_path: Path) -> None:
    dice, tier = random.Random(1), LocalTier(tmp_path)
    steps = {step: made(tmp_path, dice, step=step) for step in (1, 2, 3, 4, 5)}
    (steps[5].folder / manifest.FILE).write_text("{}")
    (steps[4].folder / image.state_name(1)).write_bytes(b"short")
    shutil.copy(steps[1].folder / manifest.FILE, steps[3].folder / manifest.FILE)
    tier.set_aside(steps[2].manifest.directory, "a flip")
    choice = choose([tier])
    assert choice.manifest == steps[1].manifest
    reasons = [reason.partition(": ")[2] for reason in choice.passed_over]
    assert reasons == [
        "is no manifest: its last line is not the checksum of what is before it; it was cut off, or changed",
        f"r00001.state has 5 bytes, and {len(steps[4].states[1])} were written",
        f"its manifest is that of {steps[1].manifest.directory}",
    ]
    assert [directory for directory, _, _ in choice.damaged] == [steps[step].manifest.directory for step in (5, 4, 3)]


def test_a_torso_is_no_candidate(tmp_path: Path) -> None:
    dice = random.Random(1)
    whole, torso = made(tmp_path, dice, step=1), made(tmp_path, dice, step=2)
    (torso.folder / manifest.FILE).unlink()
    choice = choose([LocalTier(tmp_path)])
    assert (choice.manifest, choice.passed_over) == (whole.manifest, ())


class Overtaken(LocalTier):
    """After it was listed for the first time, a newer one is committed, and the one before it deleted."""

    def list(self) -> list[Found]:
        found = super().list()
        if len(found) == 1 and found[0].step == 1:
            made(self.root, random.Random(2), step=2)
            self.delete(found[0].directory)
        return found


def test_what_is_deleted_while_it_is_looked_at_was_replaced_by_something_newer(tmp_path: Path) -> None:
    made(tmp_path, random.Random(1), step=1)
    choice = choose([Overtaken(tmp_path)])
    assert choice.manifest is not None
    assert choice.manifest.step == 2


def test_a_place_that_cannot_be_looked_into_is_an_error_since_it_may_have_the_newest(tmp_path: Path) -> None:
    made(tmp_path / "local", random.Random(1), step=1)
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="file: cannot list it"):
        choose([LocalTier(tmp_path / "local"), LocalTier(tmp_path / "file")])


def test_a_manifest_that_is_larger_than_any_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = made(tmp_path, random.Random(1))
    monkeypatch.setattr(manifest, "MOST_BYTES", 10)

    choice = choose([LocalTier(tmp_path)])

    assert choice.manifest is None
    assert "which none ever has" in choice.passed_over[0]
    assert whole.folder.is_dir()
