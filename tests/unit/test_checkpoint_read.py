"""What is read is what was written, cut as anyone wants it; and not one damaged bit is handed over."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from checkpoint_made import Made, made, present, restored, taker

from trainkit.checkpoint import crc, image, manifest
from trainkit.checkpoint.boxes import Box
from trainkit.checkpoint.plan import Held, Holdings
from trainkit.checkpoint.read import Damaged, Reader, Wanted
from trainkit.checkpoint.tiers import LocalTier
from trainkit.errors import CheckpointError, StorageError

ALL = os.environ.get("TRAINKIT_TEST_FAULTS") == "all"
DAMAGES = 1500 if ALL else 60


def random_part(dice: random.Random, shape: tuple[int, ...]) -> Box:
    offsets = tuple(dice.randrange(size) for size in shape)
    return Box(offsets, tuple(dice.randint(1, size - o) for o, size in zip(offsets, shape, strict=True)))


@pytest.mark.parametrize("seed", range(12))
def test_any_part_of_any_tensor_is_read_from_however_many_files(tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    one = made(tmp_path, dice, ranks=dice.randint(1, 4), hosts=dice.randint(1, 2))
    tier = LocalTier(tmp_path)
    wanted, expected = [], []
    for name, values in one.values.items():
        for _ in range(3):
            box = random_part(dice, values.shape[:-1])
            got = np.zeros((*box.lengths, values.shape[-1]), np.uint8)
            wanted.append(Wanted(name, box, taker(got, box)))
            expected.append((got, values[box.within(Box.whole(values.shape[:-1]))]))
    reader = Reader(one.manifest, [tier], [present(tier, one.manifest.directory)])
    reader.read(wanted)
    assert all(np.array_equal(got, want) for got, want in expected)
    assert tuple(reader.state(rank) for rank in range(one.manifest.ranks)) == one.states


def large(root: Path, dice: random.Random, *, ranks: int = 2) -> Made:
    """Files of several blocks."""
    shape = (1500, 640)
    rows = Holdings(tuple((box, (rank,)) for rank, box in enumerate(Box.whole(shape).split(ranks))))
    return made(root, dice, ranks=ranks, held=[Held("w", "F32", shape, rows), Held("v", "F32", shape, rows)])


def test_rows_cost_their_bytes_and_two_blocks_at_most(tmp_path: Path) -> None:
    one, tier = large(tmp_path, random.Random(2)), LocalTier(tmp_path)
    for rows in ((0, 1500), (0, 700), (749, 2), (100, 900)):
        box = Box((rows[0], 0), (rows[1], 640))
        got = np.zeros((*box.lengths, 4), np.uint8)
        reader = Reader(one.manifest, [tier], [present(tier, one.manifest.directory)])
        reader.read([Wanted("w", box, taker(got, box))])
        assert np.array_equal(got, one.values["w"][rows[0] : sum(rows)])
        assert reader.bytes_read <= box.volume * 4 + 2 * 2 * crc.BLOCK


def test_what_is_damaged_in_one_tier_is_read_in_the_other(tmp_path: Path) -> None:
    one = large(tmp_path / "a", random.Random(2))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    tensor_file = Path(one.manifest.directory, image.file_name(0))
    flip(tmp_path / "a" / tensor_file, at=2_500_000)
    flip(tmp_path / "b" / one.manifest.directory / image.file_name(1), at=2_500_000)
    (tmp_path / "b" / one.manifest.directory / image.state_name(1)).unlink()
    tiers = [LocalTier(tmp_path / "a"), LocalTier(tmp_path / "b")]
    box = Box.whole((1500, 640))
    got = np.zeros((*box.lengths, 4), np.uint8)
    reader = Reader(one.manifest, tiers, [present(tier, one.manifest.directory) for tier in tiers])
    reader.read([Wanted("w", box, taker(got, box))])
    assert np.array_equal(got, one.values["w"])
    assert (reader.state(0), reader.state(1)) == one.states
    (problem,) = set(reader.healed)
    assert "the MiB from byte 2097152 on is not what was written" in problem
    flip(tmp_path / "b" / tensor_file, at=2_500_001)
    with pytest.raises(Damaged):
        reader.read([Wanted("w", box, taker(got, box))])


def test_what_a_checkpoint_does_not_have_is_an_error_with_its_name(tmp_path: Path) -> None:
    one, tier = made(tmp_path, random.Random(1)), LocalTier(tmp_path)
    reader = Reader(one.manifest, [tier], [present(tier, one.manifest.directory)])
    with pytest.raises(CheckpointError, match=f"{one.manifest.directory} has no other and 1 more"):
        reader.read([Wanted(name, Box.whole(()), lambda box, content: None) for name in ("other", "another")])
    elsewhere = Reader(one.manifest, [tier], [set()])
    with pytest.raises(StorageError, match=r"r00000.state is in none of"):
        elsewhere.state(0)


def flip(path: Path, *, at: int, bit: int = 0) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 1 << bit]))


def _flip_anywhere(path: Path, dice: random.Random, _: Path) -> None:
    flip(path, at=dice.randrange(path.stat().st_size), bit=dice.randrange(8))


def _flip_in_the_header(path: Path, dice: random.Random, _: Path) -> None:
    flip(path, at=dice.randrange(min(200, path.stat().st_size)), bit=dice.randrange(8))


def _cut(path: Path, dice: random.Random, _: Path) -> None:
    os.truncate(path, dice.randrange(path.stat().st_size))


def _lengthen(path: Path, dice: random.Random, _: Path) -> None:
    with path.open("ab") as file:
        file.write(dice.randbytes(dice.randint(1, 5000)))


def _zero_the_tail(path: Path, dice: random.Random, _: Path) -> None:
    size = path.stat().st_size
    content = path.read_bytes()
    at = dice.randrange(len(content.rstrip(b"\0")))
    os.truncate(path, at)
    os.truncate(path, size)


def _lose(path: Path, dice: random.Random, _: Path) -> None:
    path.unlink()


def _of_another_attempt(path: Path, dice: random.Random, other: Path) -> None:
    shutil.copy(other / path.name, path)


def _another_rank_s(path: Path, dice: random.Random, _: Path) -> None:
    others = [each for each in path.parent.iterdir() if each != path and each.suffix == path.suffix]
    shutil.copy(dice.choice(others or [path.parent / image.file_name(0)]), path)


def _shift(path: Path, dice: random.Random, _: Path) -> None:
    path.write_bytes(b"\0" + path.read_bytes()[:-1])


HARMS: tuple[Callable[[Path, random.Random, Path], None], ...] = (
    _flip_anywhere, _flip_anywhere, _flip_anywhere, _flip_in_the_header, _cut, _lengthen, _zero_the_tail, _lose,
    _of_another_attempt, _another_rank_s, _shift,
)  # fmt: skip


def test_whatever_is_damaged_a_restart_finds_it_and_takes_the_one_before(tmp_path: Path) -> None:
    """Both attempts have the same tensors, and a third one of the same step lends its files: sizes tell nothing."""
    dice = random.Random(7)
    rows = {shape: Holdings(tuple((box, (rank,)) for rank, box in enumerate(Box.whole(shape).split(2))))
            for shape in ((64, 33), (700, 512))}  # fmt: skip
    held = [Held(f"t{n}", "F32", shape, kind) for n, (shape, kind) in enumerate(rows.items())]
    place, apart = tmp_path / "place", tmp_path / "apart"
    before = made(place, dice, step=4, held=held)
    newest = made(place, dice, step=5, held=held)
    other = made(apart, dice, step=5, held=held)
    tier = LocalTier(place)
    whole = restored([tier])
    assert whole is not None
    assert whole[0] == newest.manifest
    names = sorted(path.name for path in newest.folder.iterdir())
    found = 0
    for number in range(DAMAGES):
        name = names[number % len(names)]
        harm = HARMS[dice.randrange(len(HARMS))]
        path = newest.folder / name
        good = path.read_bytes()
        harm(path, dice, other.folder)
        changed = not path.exists() or path.read_bytes() != good
        again = restored([tier])
        assert again is not None
        if changed:
            assert again[0] == before.manifest, f"{harm.__name__} of {name} was not found"
            assert all(np.array_equal(again[1][name], before.values[name]) for name in before.values)
            assert again[2] == before.states
            found += 1
        path.write_bytes(good)
    assert found > 0.9 * DAMAGES
    if ALL:
        assert found >= 1000
    again = restored([tier])
    assert again is not None
    assert all(np.array_equal(again[1][name], newest.values[name]) for name in newest.values)


def test_a_flip_in_bytes_that_nobody_reads_is_found_with_the_block(tmp_path: Path) -> None:
    one, tier = large(tmp_path, random.Random(2)), LocalTier(tmp_path)
    header = one.manifest.files[0].start
    flip(one.folder / image.file_name(0), at=header - 1)  # padding
    box = Box((0, 0), (1, 1))
    reader = Reader(one.manifest, [tier], [present(tier, one.manifest.directory)])
    with pytest.raises(Damaged):
        reader.read([Wanted(one.manifest.plan.tensors[0].name, box, lambda part, content: None)])


def test_a_manifest_of_an_empty_state_is_read(tmp_path: Path) -> None:
    one, tier = made(tmp_path, random.Random(1), ranks=1), LocalTier(tmp_path)
    (one.folder / image.state_name(0)).write_bytes(b"")
    files = tuple(
        manifest.File(file.name, 0, 0, ()) if file.name == image.state_name(0) else file for file in one.manifest.files
    )
    empty = manifest.Manifest(5, one.manifest.attempt, "job", 1.0, ("h",), (0,), one.manifest.plan, files, {})
    assert Reader(manifest.parse(empty.text()), [tier], [present(tier, empty.directory)]).state(0) == b""


class Silent(LocalTier):
    """A place that shows what it has, and does not give it."""

    def read_into(self, directory: str, name: str, start: int, buffer: memoryview) -> None:
        raise StorageError(f"{self.root}: no answer")


def test_a_place_that_does_not_answer_is_not_damaged_because_another_one_is(tmp_path: Path) -> None:
    whole = made(tmp_path / "disk", random.Random(3), ranks=1)
    shutil.copytree(tmp_path / "disk", tmp_path / "bucket")
    state = whole.folder / image.state_name(0)
    state.write_bytes(bytes(len(state.read_bytes())))
    places = [LocalTier(tmp_path / "disk"), Silent(tmp_path / "bucket")]
    reader = Reader(whole.manifest, places, [present(place, whole.manifest.directory) for place in places])

    with pytest.raises(Damaged):
        reader.state(0)

    assert reader.damaged == {0}
