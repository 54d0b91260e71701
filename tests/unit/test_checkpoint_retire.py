"""Deletions: never below the promise, at any instant, and never under the hands of the platform's agent."""

from __future__ import annotations

import random
import zlib
from collections.abc import Sequence
from pathlib import Path

import pytest
from checkpoint_made import made, restored
from servers.s3 import S3Server

from trainkit.checkpoint import choose, crc, manifest, retire, tiers
from trainkit.checkpoint.retain import Committed, Retention
from trainkit.checkpoint.retire import Retirement
from trainkit.checkpoint.tiers import IGNORED, UPLOADED, UPLOADING, Found, LocalTier, Tier
from trainkit.errors import StorageError
from trainkit.storage import files


class Recording:
    """A tier in memory that counts its whole checkpoints after each deletion, and fails now and then."""

    name = "memory"

    def __init__(self, dice: random.Random) -> None:
        self.files: dict[str, set[str]] = {}
        self.dice = dice
        self.fewest = 10**9
        self.fails = 0.0

    @property
    def whole(self) -> int:
        return sum(manifest.FILE in names and len(names) == 3 for names in self.files.values())

    def add(self, step: int, *, committed: bool = True) -> Committed:
        directory = manifest.directory(step, f"{self.dice.getrandbits(96):024x}")
        self.files[directory] = {"r00000.safetensors", "r00000.state", *([manifest.FILE] if committed else [])}
        return Committed(directory, step)

    def list(self) -> list[Found]:
        return [Found(directory, dict.fromkeys(names, 1)) for directory, names in self.files.items()]

    def copied(self, directory: str) -> bool:
        return True

    def begun(self) -> frozenset[str]:
        return frozenset()

    def abandon(self, directory: str) -> None:
        pass

    def delete_manifest(self, directory: str) -> bool:
        self._may_fail()
        self.files.get(directory, set()).discard(manifest.FILE)
        self._note()
        return True

    def delete(self, directory: str) -> None:
        for name in sorted(self.files.get(directory, ())):
            self._may_fail()
            assert manifest.FILE not in self.files[directory], "its files go before its manifest"
            self.files[directory].discard(name)
            self._note()
        self.files.pop(directory, None)

    def _may_fail(self) -> None:
        if self.dice.random() < self.fails:
            raise StorageError("no answer")

    def _note(self) -> None:
        self.fewest = min(self.fewest, self.whole)


@pytest.mark.parametrize("seed", range(30))
def test_the_number_of_whole_checkpoints_never_falls_below_the_promise(seed: int) -> None:
    dice = random.Random(seed)
    tier: Tier = Recording(dice)  # type: ignore[assignment]
    assert isinstance(tier, Recording)
    last = dice.randint(1, 4)
    for step in range(dice.randint(0, 6)):
        tier.add(step, committed=dice.random() < 0.7)
    tier.fails = dice.choice((0.0, 0.2))
    retirement = Retirement(tier, Retention(last=last))  # type: ignore[arg-type]
    for step in range(10, 40):
        if dice.random() < 0.2:
            retirement.failed([tier.add(step, committed=False).directory])
        before = tier.whole
        tier.fewest = before + 1
        retirement.committed(tier.add(step))
        try:
            stay, newest = retirement.apply()
        except StorageError:
            continue
        finally:
            assert tier.fewest >= min(last, before + 1)
        assert newest == step
        assert {one for one, names in tier.files.items() if manifest.FILE in names} == set(stay)
    tier.fails = 0.0
    retirement.committed(tier.add(50))
    retirement.apply()
    assert tier.whole == last
    assert len(tier.files) == last, "torsos are left"


def test_a_torso_that_may_still_be_written_and_what_is_marked_as_corrupt_stay(tmp_path: Path) -> None:
    dice = random.Random(1)
    tier = LocalTier(tmp_path)
    for step in (1, 2, 3):
        made(tmp_path, dice, step=step)
    for step in (2, 9):
        torso = made(tmp_path, dice, step=step)
        (torso.folder / manifest.FILE).unlink()
    corrupt = made(tmp_path, dice, step=1).manifest.directory
    tier.set_aside(corrupt, "a flip")
    retirement = Retirement(tier, Retention(last=2))
    newest = made(tmp_path, dice, step=4).manifest
    retirement.committed(Committed(newest.directory, 4))
    kept, below = retirement.apply()
    assert sorted(found.step for found in tier.list() if not found.aside) == [3, 4, 9]
    assert [found.directory for found in tier.list() if found.aside] == [corrupt]

    # On another host's disk there is no mark that says so.
    other = LocalTier(tmp_path / "other")
    for name in (corrupt, manifest.directory(1, "0" * 24)):
        other.put(name, "r00001.state", [memoryview(b"state")])
    retire.sweep(other, kept=kept, below=below)
    assert [found.directory for found in other.list()] == [corrupt]


def mark(folder: Path, marker: str, names: Sequence[str] = ()) -> None:
    for path in list(folder.iterdir()):
        if not path.name.endswith((UPLOADED, UPLOADING)) and (not names or path.name in names):
            path.with_name(path.name + marker).touch()


def test_what_the_platform_uploads_at_the_moment_is_deleted_later(tmp_path: Path) -> None:
    dice, tier = random.Random(1), LocalTier(tmp_path)
    folders = [made(tmp_path, dice, step=step).folder for step in (1, 2)]
    for folder in folders:
        mark(folder, UPLOADED)
    (folders[0] / f"r00000.state{UPLOADED}").unlink()
    mark(folders[0], UPLOADING, ["r00000.state"])
    assert tier.delete_manifest(folders[0].name) is False
    assert (folders[0] / manifest.FILE).exists()
    mark(folders[0], UPLOADED)
    assert tier.delete_manifest(folders[0].name)
    tier.delete(folders[0].name)
    assert not folders[0].exists()
    assert restored([tier]) is not None
    shown = set(tier.list()[0].sizes)
    assert {path.name.removesuffix(UPLOADED) for path in folders[1].iterdir()} == shown


def test_what_a_slow_agent_has_copied_stays_until_it_has_copied_something_newer(tmp_path: Path) -> None:
    dice, tier = random.Random(1), LocalTier(tmp_path)
    first = made(tmp_path, dice, step=1)
    mark(first.folder, UPLOADED)
    retirement = Retirement(tier, Retention(last=2))
    for step in range(2, 8):
        one = made(tmp_path, dice, step=step)
        mark(one.folder, UPLOADED, ["r00000.state"])  # the agent has come so far, and no further
        retirement.committed(Committed(one.manifest.directory, step))
        retirement.apply()
    assert sorted(found.step for found in tier.list()) == [1, 6, 7]
    for found in tier.list():
        mark(tmp_path / found.directory, UPLOADED)
    one = made(tmp_path, dice, step=8)
    retirement.committed(Committed(one.manifest.directory, 8))
    retirement.apply()
    assert sorted(found.step for found in tier.list()) == [6, 7, 8]


def test_a_host_s_own_disk_keeps_what_the_first_host_keeps(tmp_path: Path) -> None:
    dice, tier = random.Random(1), LocalTier(tmp_path)
    made_here = [made(tmp_path, dice, step=step, ranks=4, hosts=2, host=1).manifest for step in (1, 2, 3, 4)]
    assert all(manifest.FILE not in found.sizes for found in tier.list())
    retire.sweep(tier, kept=[made_here[1].directory], below=4)
    assert sorted(found.step for found in tier.list()) == [2, 4]


def test_a_folder_shows_neither_scratch_nor_markers_and_what_is_written_once_is_never_written_again(
    tmp_path: Path,
) -> None:
    tier = LocalTier(tmp_path)
    directory = manifest.directory(1, "a" * 24)
    tier.put(directory, "r00000.state", [memoryview(b"one")])
    (tmp_path / directory / f"r00001.state{IGNORED}").touch()
    mark(tmp_path / directory, UPLOADED, ["r00000.state"])
    (tmp_path / "other").mkdir()
    assert tier.list() == [Found(directory, {"r00000.state": 3})]
    with pytest.raises(StorageError, match="it exists already"):
        tier.put(directory, "r00000.state", [memoryview(b"two")])
    assert (tmp_path / directory / "r00000.state").read_bytes() == b"one"
    assert LocalTier(tmp_path / "nowhere").list() == []


@pytest.mark.parametrize("kind", ["folder", "bucket"])
def test_checksums_that_are_known_are_not_taken_again_and_the_file_is_the_same(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    tier = tiers.of(str(tmp_path) if kind == "folder" else f"{s3.bucket}/known")
    directory, content = manifest.directory(1, "a" * 24), random.Random(1).randbytes(2 * crc.BLOCK + 5)
    parts = [memoryview(content)[:1000], memoryview(content)[1000:]]
    sums = tier.put(directory, "one", parts)
    assert sums == tuple(zlib.crc32(content[at : at + crc.BLOCK]) for at in range(0, len(content), crc.BLOCK))
    monkeypatch.setattr(crc, "of_block", None)
    assert tier.put(directory, "other", parts, sums=sums) == sums
    there = bytearray(len(content))
    tier.read_into(directory, "other", 0, memoryview(there))
    assert there == content


def test_a_manifest_is_not_put_where_the_directory_was_taken_away(tmp_path: Path) -> None:
    tier = LocalTier(tmp_path)
    with pytest.raises(StorageError):
        tier.put_manifest(manifest.directory(1, "a" * 24), "text")
    assert list(tmp_path.iterdir()) == []


def test_a_commit_in_a_bucket_is_one_put_and_finding_the_newest_one_list_and_one_get(
    s3: S3Server, tmp_path: Path
) -> None:
    one = made(tmp_path, random.Random(1))
    tier = tiers.of(f"{s3.bucket}/run")
    for file in one.manifest.files:
        tier.put(one.manifest.directory, file.name, [memoryview((one.folder / file.name).read_bytes())])
    s3.forget_counts()
    s3.faults.lose(next=1, kind="PutObject")  # the answer to the commit
    tier.put_manifest(one.manifest.directory, one.manifest.text())
    assert s3.counts["PutObject"] == 2
    assert s3.counts["GET"] == 0
    s3.forget_counts()
    assert choose.choose([tier]).manifest == one.manifest
    assert (s3.counts["ListObjects"], s3.counts["GetObject"]) == (1, 1)
    whole = restored([tier])
    assert whole is not None
    assert whole[0] == one.manifest
    tier.delete_manifest(one.manifest.directory)
    tier.delete(one.manifest.directory)
    assert tier.list() == []


def test_what_a_killed_writer_began_to_upload_is_freed_when_a_later_step_is_whole(s3: S3Server) -> None:
    place = f"{s3.bucket}/uploads"
    tier = tiers.of(place)
    killed, running = (manifest.directory(step, f"{step:024x}") for step in (3, 9))
    bucket, _, prefix = place.removeprefix("s3://").partition("/")
    for directory in (killed, running):
        s3.behind("POST", f"/{bucket}/{prefix}/{directory}/r00000.safetensors?uploads")
    whole = manifest.directory(5, f"{5:024x}")
    tier.put(whole, "r00000.state", [memoryview(b"state")])
    retirement = Retirement(tier, Retention(last=1))
    retirement.committed(Committed(whole, 5))

    retirement.apply()

    assert files.unfinished(place) == (f"{place}/{running}/r00000.safetensors",)


def test_until_the_platform_has_marked_a_new_one_what_came_from_its_bucket_stays(tmp_path: Path) -> None:
    """Its agent may begin after our second save, and would then first see what we have deleted."""
    dice = random.Random(2)
    tier = LocalTier(tmp_path)
    made(tmp_path, dice, step=1)
    for step in (2, 3, 4):
        retirement = Retirement(tier, Retention(last=1), agent=True)  # the coordinator is a new one each time
        newer = made(tmp_path, dice, step=step)
        retirement.committed(Committed(newer.manifest.directory, step))
        retirement.apply()
    assert sorted(found.step for found in tier.list()) == [1, 4]
    mark(newer.folder, UPLOADED)
    retirement.apply()
    assert [found.step for found in tier.list()] == [4]


def test_what_the_platform_has_brought_in_part_is_none_of_those_that_stay_in_another_s_place(tmp_path: Path) -> None:
    dice = random.Random(3)
    tier = LocalTier(tmp_path)
    made(tmp_path, dice, step=1)
    partial = made(tmp_path, dice, step=2).folder
    next(path for path in partial.iterdir() if path.name != manifest.FILE).unlink()
    retirement = Retirement(tier, Retention(last=1), agent=True)
    newer = made(tmp_path, dice, step=3)
    retirement.committed(Committed(newer.manifest.directory, 3))
    retirement.apply()
    assert sorted(found.step for found in tier.list()) == [1, 2, 3], "the bucket has one whole: the first"
    mark(newer.folder, UPLOADED)
    retirement.apply()
    assert sorted(found.step for found in tier.list()) == [2, 3], "and what is not whole is left to people"
