"""`trainkit checkpoint ls | verify | show`: what lies there is what is told, and nothing of it is taken on trust."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoint_laid import arrays, call, flip, lay, lines, resealed
from harness import DEADLINE, environment
from servers.s3 import S3Server

from trainkit.checkpoint import crc, manifest, tiers, tree
from trainkit.checkpoint.people import place

Captured = pytest.CaptureFixture[str]
OF_TORCH = tree.Packed(
    {"dict": ["at", {"tensor": ["at", "float32", [4]]}, "dtype", {"dtype": "bfloat16"}, "draws", list(range(625))]},
    {"at": np.arange(4, dtype=np.float32)},
)
"""As torch would have been packed."""


def test_attempts_are_listed_the_newest_first_with_what_became_of_them(tmp_path: Path, capsys: Captured) -> None:
    lay(tmp_path, step=9, tensors=arrays(), metrics={"loss": 0.25, "f1": 0.5})
    aside = lay(tmp_path, step=70, tensors=arrays())
    tiers.of(str(tmp_path)).set_aside(aside.directory, "r00000.state is gone\nmore")
    cut = lay(tmp_path, step=800, tensors=arrays())
    path = tmp_path / cut.directory / manifest.FILE
    path.write_bytes(path.read_bytes()[:-3])
    short = lay(tmp_path, step=801, tensors=arrays())
    (tmp_path / short.directory / "r00000.safetensors").write_bytes(b"short")
    unfinished = lay(tmp_path, step=10_000, tensors=arrays())
    (tmp_path / unfinished.directory / manifest.FILE).unlink()
    (tmp_path / "step-7").mkdir()  # none of ours

    code, out, _ = call(capsys, "ls", tmp_path)

    rows = out.splitlines()
    assert code == 0
    assert rows[0] == f"{tmp_path}:"
    assert [row.split()[0] for row in rows[1:]] == ["STEP", "10000", "801", "800", "70", "9"]
    assert rows[2].endswith("unfinished")
    assert "damaged (r00000.safetensors has 5 bytes" in rows[3]
    assert "damaged (MANIFEST.json is no manifest" in rows[4]
    assert rows[5].endswith("damaged (set aside: r00000.state is gone)")
    assert rows[6].split()[2:] == [
        "2026-05-28", "20:26:40Z", "0.993", "MiB", "1", "on", "1", "host", "loss", "0.25,", "f1", "0.5", "committed",
    ]  # fmt: skip


def test_the_same_can_be_had_as_json_from_several_places(tmp_path: Path, capsys: Captured) -> None:
    lay(tmp_path / "a", step=1, tensors=arrays(), ranks=2, metrics={"loss": 1.5})
    lay(tmp_path / "b", step=2, tensors=arrays())

    code, out, _ = call(capsys, "ls", "--json", tmp_path / "a", tmp_path / "b")

    one, other = json.loads(out)
    assert code == 0
    assert (one["step"], one["state"], one["ranks"], one["metrics"]) == (1, "committed", 2, {"loss": 1.5})
    assert (other["step"], other["place"]) == (2, str(tmp_path / "b"))


def test_of_disks_that_lie_apart_each_tells_what_it_has(tmp_path: Path, capsys: Captured) -> None:
    lay(tmp_path / "a", tmp_path / "b", step=3, tensors=arrays(), ranks=4)

    _, out, _ = call(capsys, "ls", tmp_path / "b")
    assert out.splitlines()[2].endswith("committed; 4 of 8 files here")
    code, out, _ = call(capsys, "verify", tmp_path / "b")
    assert code == 65  # all that is here is right, and it is not all
    assert "not all here (6 files" in out
    assert "on other hosts' disks, and not looked at: r00000.safetensors, r00000.state" in out


def test_a_place_that_is_not_there_is_no_empty_one(tmp_path: Path, capsys: Captured) -> None:
    assert call(capsys, "ls", tmp_path)[1] == f"{tmp_path}: no checkpoints\n"
    code, _, err = call(capsys, "ls", tmp_path / "nowhere")
    assert (code, "there is no such folder" in err) == (74, True)
    assert call(capsys, "verify", tmp_path)[0] == 65
    assert call(capsys, "show", tmp_path)[0] == 65


def test_what_is_whole_is_verified_to_the_last_byte(tmp_path: Path, capsys: Captured) -> None:
    whole = lay(tmp_path, step=1, tensors=arrays(), ranks=3, sharded=["model.embed"], trees={"stream": OF_TORCH})
    lay(tmp_path, step=2, tensors=arrays(1))

    for argv in (["--step", 1], ["--all"], []):
        code, out, err = call(capsys, "verify", tmp_path, *argv)
        assert (code, err) == (0, "")
        assert "GB/s" in out
    assert len(out.splitlines()) == 1
    code, out, _ = call(capsys, "verify", tmp_path / whole.directory)
    assert code == 0
    assert f"{tmp_path / whole.directory}: whole (6 files, " in out


def test_every_flipped_bit_is_found_and_its_place_named(tmp_path: Path, capsys: Captured) -> None:
    tensors = arrays() | {"model.large": np.arange(900_000, dtype=np.float32)}
    whole = lay(tmp_path, step=1, tensors=tensors, ranks=2)
    chance = random.Random(3)
    for _ in range(40):
        file = chance.choice(whole.files)
        at = chance.randrange(file.size)
        flip(tmp_path / whole.directory / file.name, at)
        code, out, err = call(capsys, "verify", tmp_path)
        flip(tmp_path / whole.directory / file.name, at)
        assert (code, len(lines(out, "are not what was written"))) == (65, 1)
        words = lines(out, file.name)[0].split()
        assert int(words[2]) == at // crc.BLOCK * crc.BLOCK <= at <= int(words[4]) < file.size
        assert "1 of 1 checkpoint is not whole" in err
    (last,) = [file for file in whole.files if file.name == "r00000.safetensors"]
    flip(tmp_path / whole.directory / last.name, last.size - 1)
    named = re.findall(r"not what was written \((.*)\)", call(capsys, "verify", tmp_path)[1])
    assert len(named) == 1 and "model.mask" in named[0].split(", ") and ", " in named[0], "of all that lie in the block"


def test_all_damages_are_told_at_once(tmp_path: Path, capsys: Captured) -> None:
    whole = lay(tmp_path, step=1, tensors=arrays(), ranks=4, sharded=["model.embed"])
    other = lay(tmp_path / "other", step=1, tensors=arrays(1), ranks=4, sharded=["model.embed"])
    folder = tmp_path / whole.directory
    (folder / "r00000.state").unlink()
    with (folder / "r00001.safetensors").open("r+b") as file:
        file.truncate(1000)
    theirs = tmp_path / "other" / other.directory / "r00002.safetensors"
    assert theirs.stat().st_size == (folder / "r00002.safetensors").stat().st_size
    (folder / "r00002.safetensors").write_bytes(theirs.read_bytes())  # of another generation, and of the same size

    code, out, _ = call(capsys, "verify", folder)

    assert code == 65
    assert "  r00000.state is gone" in out
    assert "  r00001.safetensors ends at byte 1000, and " in out
    assert "  r00002.safetensors: bytes 0 to " in out
    assert "r00003" not in out
    assert "damaged (r00000.state is gone)" in call(capsys, "ls", tmp_path)[1]


def test_a_file_that_was_never_right_is_found_though_its_checksums_are(tmp_path: Path, capsys: Captured) -> None:
    def other_header(name: str, content: bytearray) -> bytearray:
        return content.replace(b'"model.layer.bias"', b'"model.layer.bios"') if "safetensors" in name else content

    def no_state(name: str, content: bytearray) -> bytearray:
        return content.replace(b"dict", b"dirt") if name.endswith(".state") else content

    lay(tmp_path / "a", step=1, tensors=arrays(), changed=other_header)
    lay(tmp_path / "b", step=1, tensors=arrays(), changed=no_state)
    whole = lay(tmp_path / "c", step=1, tensors=arrays())
    resealed(tmp_path / "c", whole, files=tuple(_crc(file) for file in whole.files))

    assert "r00000.safetensors: its header says other things" in call(capsys, "verify", tmp_path / "a")[1]
    assert "r00000.state: the state of model" in call(capsys, "verify", tmp_path / "b")[1]
    assert "the manifest contradicts itself" in call(capsys, "verify", tmp_path / "c")[1]


def _crc(file: manifest.File) -> manifest.File:
    return manifest.File(file.name, file.size, file.crc32 ^ 1, file.blocks, file.start)


def test_one_that_was_set_aside_is_verified_all_the_same(tmp_path: Path, capsys: Captured) -> None:
    older = lay(tmp_path, step=1, tensors=arrays())
    whole = lay(tmp_path, step=2, tensors=arrays())
    tiers.of(str(tmp_path)).set_aside(whole.directory, "a disk that was out of order\n")

    code, out, err = call(capsys, "verify", tmp_path)
    assert (code, older.directory in out) == (0, True)
    assert "passed over: " + whole.directory + " is damaged: set aside: a disk that was out of order" in err
    code, out, _ = call(capsys, "verify", tmp_path / whole.directory)
    assert code == 0
    assert "delete SET-ASIDE.txt there" in out


def test_a_checkpoint_is_shown_with_its_tensors_and_its_states(tmp_path: Path, capsys: Captured) -> None:
    trees = {"model": {"aliases": {"head": "embed"}, "others": {}}, "scheduler": {"last_epoch": 3}, "stream": OF_TORCH}
    lay(tmp_path, step=1, tensors=arrays(), ranks=2, sharded=["model.layer.weight"], trees=trees, metrics={"loss": 0.5})

    code, out, _ = call(capsys, "show", tmp_path, "--rank", 1)

    assert code == 0
    assert "  step 1 of a-job, 2026-05-28 20:26:40Z, 0.99" in out
    assert lines(out, "model.layer.weight")[0].split() == [
        "model.layer.weight", "f32", "7", "×", "5", "140", "B", "2", "pieces:", "ranks", "0-1",
    ]  # fmt: skip
    assert lines(out, "model.count")[0].split()[:3] == ["model.count", "i64", "scalar"]
    assert lines(out, "model.none")[0].endswith("nowhere: empty")
    assert lines(out, "optimizer  ")[0].split()[:4] == ["optimizer", "1", "508", "KiB"]
    assert "    head: 'embed'" in out
    assert "  last_epoch: 3" in out
    assert "  at: tensor float32 [4], 16 B" in out
    assert "… 625 items" in out
    assert "624" not in out
    document = json.loads(call(capsys, "show", tmp_path, "--json")[1])
    assert document["trees"]["scheduler"] == {"dict": ["last_epoch", 3]}
    assert sum(len(one["pieces"]) for one in document["tensors"] if one["name"] == "model.layer.weight") == 2
    code, _, err = call(capsys, "show", tmp_path, "--rank", 2)
    assert (code, "there is no rank 2" in err) == (65, True)
    code, _, err = call(capsys, "show", tmp_path, "--step", 5)
    assert (code, "holds none of step 5. Its checkpoints are of steps 1" in err) == (65, True)


def test_no_name_of_a_hostile_checkpoint_reaches_the_terminal_as_it_is(tmp_path: Path, capsys: Captured) -> None:
    clear = "\x1b[2J"
    tensors = {f"model.{clear}": np.zeros(3)}
    trees = {f"m{clear}": {"aliases": {clear: clear}, clear: [clear], "bytes": clear.encode()}, "r": clear}
    whole = lay(tmp_path, step=1, tensors=tensors, trees=trees, metrics={clear: 1.0})
    resealed(tmp_path, whole, job=clear, hosts=(clear,), at=1e300)
    tiers.of(str(tmp_path)).set_aside(whole.directory, clear)
    flip(tmp_path / whole.directory / "r00000.safetensors", 0)

    for argv in (["ls", tmp_path], ["verify", tmp_path / whole.directory], ["show", tmp_path / whole.directory]):
        _, out, err = call(capsys, *argv)
        assert out
        assert "\x1b" not in out + err


@pytest.mark.parametrize(
    "argv", [[], ["ls"], ["tidy"], ["verify", ".", "--step", "x"], ["verify", ".", "--step", "1", "--all"],
             ["export", ".", "out"], ["export", ".", "--to", "npz", "out"], ["import", "in", "."],
             ["export", ".", "--to", "safetensors", "out", "--max-size", "0"],
             ["export", ".", "--to", "dcp", "out", "--max-size", "5GB"],
             ["import", "in", "--from", "dcp", "."], ["import", "in", "--from", "safetensors", ".", "--trust"],
             ["import", "in", "--from", "safetensors", ".", "--name", "random"]],
)  # fmt: skip
def test_a_command_line_that_makes_no_sense_is_told_so(argv: list[str], capsys: Captured) -> None:
    code, _, err = call(capsys, *argv)
    assert code == 64
    assert err.startswith(("usage: trainkit checkpoint", "trainkit checkpoint "))


def test_the_command_is_found_among_the_others_and_needs_no_torch(tmp_path: Path) -> None:
    lay(tmp_path, step=1, tensors=arrays(), trees={"stream": OF_TORCH})
    (tmp_path / "random.py").write_text("raise SystemExit('the folder we are in was asked for modules')")
    program = """
import sys
from trainkit.checkpoint.__main__ import main
for command in ("ls", "verify", "show"):
    main([command, "."])
sys.exit("torch is imported" if "torch" in sys.modules else 0)
"""
    argv: list[Any] = [sys.executable, "-P", "-c", program]
    ended = subprocess.run(argv, cwd=tmp_path, env=environment(), timeout=DEADLINE, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")
    argv = [sys.executable, "-P", "-m", "trainkit.cli.main", "checkpoint", "ls", "."]
    ended = subprocess.run(argv, cwd=tmp_path, env=environment(), timeout=DEADLINE, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "committed" in ended.stdout


def test_a_bucket_is_looked_at_as_a_folder_is(s3: S3Server, capsys: Captured) -> None:
    where = f"{s3.bucket}/job-1"
    whole = lay(where, step=4, tensors=arrays(), ranks=2)

    assert "committed" in call(capsys, "ls", where)[1]
    assert call(capsys, "verify", where + "/")[0] == 0
    assert call(capsys, "show", f"{where}/{whole.directory}")[0] == 0
    assert [one.state for one in place.attempts(where)] == ["committed"]
