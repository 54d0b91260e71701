"""Laying input data and code into a host, and collecting what it leaves."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import pytest

from trainkit.errors import UsageError
from trainkit.local import archive, layout, stage


def lay(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return root


def seen(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def test_a_channel_is_a_directory_of_links(tmp_path: Path) -> None:
    source = lay(tmp_path / "data", "a", "deep/b c", "deep/er/ü")
    amount = stage.link(source, into=tmp_path / "in")
    assert seen(tmp_path / "in") == ["a", "deep/b c", "deep/er/ü"]
    assert amount.files == 3
    (tmp_path / "in/deep/b c").unlink()
    (tmp_path / "in/new").touch()
    assert seen(source) == ["a", "deep/b c", "deep/er/ü"]


def test_a_single_file_is_a_channel_too(tmp_path: Path) -> None:
    lay(tmp_path, "one.csv", "other.csv")
    stage.link(tmp_path / "one.csv", into=tmp_path / "in")
    assert seen(tmp_path / "in") == ["one.csv"]


def test_linked_folders_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    source = lay(tmp_path / "data", "a/x")
    (source / "b").symlink_to("a")
    (source / "a/up").symlink_to("..")
    os.mkfifo(source / "pipe")
    stage.link(source, into=tmp_path / "in")
    assert seen(tmp_path / "in") == ["a/x", "b/x"]


def test_code_comes_without_what_is_no_code(tmp_path: Path) -> None:
    folder = lay(
        tmp_path / "project", "train.py", "pkg/m.py", "conf/.hidden", ".git/config", "pkg/__pycache__/m.pyc",
        "env/pyvenv.cfg", "env/lib/x.py", "data/rows", "runs/describe.json", "runs/hosts/algo-1/x", "trainkit-output/y",
    )  # fmt: skip
    stage.link_code(folder, into=tmp_path / "in", without=[folder / "data", folder])
    assert seen(tmp_path / "in") == ["conf/.hidden", "pkg/m.py", "train.py"]


def test_a_home_directory_is_not_taken_for_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "_MOST_CODE", 3)
    folder = lay(tmp_path / "home", "1", "2", "3", "4")
    with pytest.raises(UsageError, match="holds over 3 files"):
        stage.link_code(folder, into=tmp_path / "in", without=[])


def test_an_output_directory_of_someone_else_is_not_touched(tmp_path: Path) -> None:
    for content in (None, "{", '{"model": "mine"}', "[]"):
        output = lay(tmp_path / f"out-{content}", "model/mine")
        if content:
            (output / "describe.json").write_text(content)
        with pytest.raises(UsageError, match="no earlier job of ours"):
            layout.clear(output)
        assert (output / "model/mine").exists()


def test_an_earlier_jobs_output_is_cleared_but_for_its_checkpoints(tmp_path: Path) -> None:
    output = lay(tmp_path / "out", "model/old", "channels/train/old", "hosts/algo-1/x", "checkpoints/step-1", "failure")
    (output / "describe.json").write_text("{}")
    layout.clear(output)
    assert seen(output) == ["checkpoints/step-1", "describe.json"]


def test_hosts_models_are_merged_whole_and_clashes_are_named(tmp_path: Path) -> None:
    first = lay(tmp_path / "1", "model.bin", "same", "clash", ".trainkit-model.part/half", ".x.part")
    second = lay(tmp_path / "2", "other.bin", "same")
    (second / "clash").write_text("else")
    (first / "link").symlink_to("model.bin")
    packed, clashes = archive.collect([first, second], into=tmp_path / "model", compress=True)
    assert packed == tmp_path / "model.tar.gz"
    assert clashes == ["clash"]
    with tarfile.open(packed) as tar:
        assert sorted(tar.getnames()) == ["clash", "link", "model.bin", "other.bin", "same"]
        assert all(member.isreg() for member in tar.getmembers())
        assert tar.extractfile("clash").read() == b"clash"  # type: ignore[union-attr]
    plain, _ = archive.collect([first, second], into=tmp_path / "model", compress=False)
    assert plain == tmp_path / "model"
    assert seen(tmp_path / "model") == ["clash", "link", "model.bin", "other.bin", "same"]


def test_no_files_make_no_archive(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert archive.collect([tmp_path / "empty"], into=tmp_path / "model", compress=True) == (None, [])
    assert not (tmp_path / "model.tar.gz").exists()
