"""A manifest says what was written, and whatever is changed in one is an error of its own kind and nothing else."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from checkpoint_made import Made, made

from trainkit.checkpoint import manifest
from trainkit.checkpoint.manifest import File
from trainkit.errors import CheckpointError

Document = dict[str, Any]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return made(tmp_path_factory.mktemp("made"), random.Random(5), ranks=4, hosts=2, count=10)


def document(whole: Made) -> Document:
    return dict(json.loads(whole.manifest.text().splitlines()[0]))


def signed(body: Any) -> str:
    """With a checksum that is right: a hostile one has it, too."""
    line = (body if isinstance(body, str) else json.dumps(body)) + "\n"
    return f"{line}sha256:{hashlib.sha256(line.encode()).hexdigest()}\n"


@pytest.mark.parametrize("seed", range(10))
def test_what_was_written_is_what_is_read(tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    one = made(tmp_path, dice, ranks=dice.randint(1, 5), hosts=dice.randint(1, 2), count=6).manifest
    assert manifest.parse(one.text()) == one
    assert manifest.parse(one.text().encode()).text() == one.text()


def test_directories_sort_by_step_and_other_names_are_none() -> None:
    names = [manifest.directory(step, "ab" * 12) for step in (9, 10, 999_999_999)]
    assert sorted(names) == names
    assert [manifest.step_of(name) for name in names] == [9, 10, 999_999_999]
    for name in ("step-1.ab", "step-000000001." + "g" * 24, "../step-000000001." + "a" * 24, "MANIFEST.json", ""):
        assert manifest.step_of(name) is None


def test_any_bit_that_is_flipped_and_any_end_that_is_cut_off_is_an_error(whole: Made) -> None:
    text, dice = whole.manifest.text().encode(), random.Random(1)
    for _ in range(300):
        at, bit = dice.randrange(len(text)), 1 << dice.randrange(8)
        with pytest.raises(CheckpointError):
            manifest.parse(text[:at] + bytes([text[at] ^ bit]) + text[at + 1 :])
    for length in [0, 1, len(text) - 1, *(dice.randrange(len(text)) for _ in range(100))]:
        with pytest.raises(CheckpointError):
            manifest.parse(text[:length])
    for more in (b"\n", b" ", b"{}", text):
        with pytest.raises(CheckpointError):
            manifest.parse(text + more)


def _set(*path: Any, to: Any) -> Callable[[Document], None]:
    def change(body: Document) -> None:
        place: Any = body
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = to

    return change


def _twice(*path: Any) -> Callable[[Document], None]:
    def change(body: Document) -> None:
        place: Any = body
        for key in path:
            place = place[key]
        place.append(copy.deepcopy(place[0]))

    return change


HUGE, DEEP = 1 << 4000, "[" * 100_000 + "]" * 100_000
HOSTILE: dict[str, Callable[[Document], None]] = {
    "another format": _set("format", to="torch"),
    "another version": _set("version", to=2),
    "a version that is a list": _set("version", to=[1]),
    "a negative step": _set("step", to=-1),
    "a step that is true": _set("step", to=True),
    "a huge step": _set("step", to=HUGE),
    "a step that is a fraction": _set("step", to=1.5),
    "an attempt that leads elsewhere": _set("attempt", to="../../../../etc/passwd.."),
    "an attempt that is none": _set("attempt", to=None),
    "a time that is too large": _set("at", to=HUGE),
    "a time that is a list": _set("at", to=[]),
    "a job that is a number": _set("job", to=5),
    "no ranks": _set("host_of", to=[]),
    "a host that is not there": _set("host_of", 0, to=99),
    "a negative host": _set("host_of", 0, to=-1),
    "hosts that are numbers": _set("hosts", 0, to=7),
    "metrics that are a list": _set("metrics", to=[1]),
    "a metric that is a list": _set("metrics", "loss", to=[]),
    "alike that is a number": _set("alike", to=3),
    "alike of numbers": _set("alike", to=[3]),
    "no files": _set("files", to=[]),
    "files that are text": _set("files", to="abc"),
    "a file twice": _twice("files"),
    "a file that leads elsewhere": _set("files", 0, "name", to="../../r00000.safetensors"),
    "a file with a path": _set("files", 0, "name", to="/etc/passwd"),
    "a file with a newline": _set("files", 0, "name", to="r00000.safetensors\n"),
    "a file with a NUL": _set("files", 0, "name", to="r00000.safetensors\0"),
    "a file of no rank": _set("files", 0, "name", to="r99999.safetensors"),
    "a file of an Arabic rank": _set("files", 0, "name", to="r٠٠٠٠٠.safetensors"),
    "a negative size": _set("files", 0, "size", to=-1),
    "a huge size": _set("files", 0, "size", to=HUGE),
    "a larger size": _set("files", 0, "size", to=1 << 40),
    "a start behind the end": _set("files", 0, "start", to=1 << 40),
    "a start elsewhere": _set("files", 0, "start", to=1),
    "blocks that are no base64": _set("files", 0, "blocks", to="ä"),
    "blocks that are missing": _set("files", 0, "blocks", to=""),
    "blocks that are a list": _set("files", 0, "blocks", to=[1]),
    "a checksum that is none": _set("files", 0, "crc32", to="xyz"),
    "a checksum that is a number": _set("files", 0, "crc32", to=3),
    "no layouts": _set("layouts", to=[]),
    "layouts that are a number": _set("layouts", to=7),
    "a piece twice": _twice("layouts", 0, "pieces"),
    "no pieces": _set("layouts", 0, "pieces", to=[]),
    "a piece of a strange rank": _set("layouts", 0, "pieces", 0, 2, to=1 << 30),
    "a piece beyond the shape": _set("layouts", 0, "pieces", 0, 0, to=[HUGE]),
    "a piece with a negative offset": _set("layouts", 0, "pieces", 0, 0, to=[-1, -1, -1]),
    "a shape with a negative length": _set("layouts", 0, "shape", to=[-1]),
    "a shape with a huge length": _set("layouts", 0, "shape", to=[HUGE]),
    "a shape of many dimensions": _set("layouts", 0, "shape", to=[1 << 59] * 100_000),
    "a shape that is text": _set("layouts", 0, "shape", to="12"),
    "a strange dtype": _set("tensors", 0, 1, to="pickle"),
    "a dtype that is a list": _set("tensors", 0, 1, to=["F32"]),
    "a layout that is not there": _set("tensors", 0, 2, to=1 << 30),
    "a negative layout": _set("tensors", 0, 2, to=-1),
    "a name that is a number": _set("tensors", 0, 0, to=3),
    "a tensor twice": _twice("tensors"),
    "a tensor with too much": _set("tensors", 0, to=["a", "F32", 0, 0]),
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_manifest_is_an_error(whole: Made, change: Callable[[Document], None]) -> None:
    body = document(whole)
    manifest.parse(signed(body))
    change(body)
    with pytest.raises(CheckpointError, match=r"^is no manifest: "):
        manifest.parse(signed(body))


NO_MANIFEST = ["", "\n", "null", "[]", "7", '"text"', "{}", "{", DEEP, '{"a":' * 50_000, "1" * 100_000, "\x00", "\xff"]


@pytest.mark.parametrize("text", NO_MANIFEST, ids=lambda text: repr(text[:8]))
def test_text_that_is_no_manifest_at_all_is_an_error_too(text: str) -> None:
    for one in (text, signed(text)):
        with pytest.raises(CheckpointError):
            manifest.parse(one)


@pytest.mark.parametrize("seed", range(6))
def test_random_changes_give_another_manifest_or_an_error(whole: Made, seed: int) -> None:
    dice = random.Random(seed)
    values = [None, True, -1, 0, 1, 1.5, HUGE, "", "..", "r00000.safetensors", [], [[]], {}, {"a": 1}, math.inf]
    for _ in range(150):
        body = document(whole)
        place: Any = body
        while True:
            key = dice.choice(list(place) if isinstance(place, dict) else range(len(place)))
            if not (isinstance(place[key], dict | list) and place[key] and dice.random() < 0.8):
                break
            place = place[key]
        if dice.random() < 0.2:
            del place[key]
        else:
            place[key] = dice.choice(values)
        try:
            read = manifest.parse(signed(body))
        except CheckpointError:
            continue
        assert manifest.parse(read.text()) == read


def test_a_file_that_a_peer_tells_of_is_read_like_one_of_a_manifest(whole: Made) -> None:
    for file in whole.manifest.files:
        assert File.read(file.document()) == file
    with pytest.raises(CheckpointError, match="is no name of a checkpoint's file"):
        File.read({**whole.manifest.files[0].document(), "name": "../x"})
