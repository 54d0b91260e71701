"""What carries an artifact of features, and what of it is believed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from trainkit.artifact import manifest as model_manifest
from trainkit.contract.features import MODEL_MANIFEST, carried, carried_by, contents
from trainkit.errors import DataError


def artifact(parent: Path, words: str = "[]", *, name: str = "vocabulary/0.json") -> Path:
    """A folder named by its hash."""
    sha256 = hashlib.sha256(words.encode()).hexdigest()
    raw = json.dumps({"fitted": [{"mean": "0x0p0"}, {"file": name, "sha256": sha256}]}).encode()
    folder = parent / hashlib.sha256(raw).hexdigest()
    (folder / "vocabulary").mkdir(parents=True)
    (folder / "features.json").write_bytes(raw)
    (folder / "vocabulary/0.json").write_text(words)
    return folder


@pytest.mark.parametrize("place", ["", "features", "_features"])
def test_an_output_a_split_and_the_folder_itself_carry_it(tmp_path: Path, place: str) -> None:
    folder = artifact(tmp_path / place)

    assert carried(tmp_path) == {folder.name: folder} == carried(folder)
    assert carried_by([tmp_path, folder]) == folder
    assert carried_by([tmp_path / "elsewhere"]) is None
    assert contents(folder)["vocabulary/0.json"] == b"[]"
    with pytest.raises(DataError, match="carries no artifact"):
        carried_by([tmp_path / "elsewhere"], required=True)


@pytest.mark.parametrize("name", ["MANIFEST.json", "MANIFEST.algo-1.json", MODEL_MANIFEST])
def test_of_several_it_is_the_one_that_the_manifest_names(tmp_path: Path, name: str) -> None:
    one, _ = artifact(tmp_path / "features"), artifact(tmp_path / "features", '["a"]')
    key = "features" if name == MODEL_MANIFEST else "artifact"
    with pytest.raises(DataError, match="the channels carry 2 artifacts"):
        carried_by([tmp_path])

    (tmp_path / name).write_text(json.dumps({key: one.name}))
    assert carried(tmp_path) == {one.name: one}
    (tmp_path / name).write_text(json.dumps({key: "0" * 64}))
    with pytest.raises(DataError, match=f"{name} names the artifact 0000"):
        carried(tmp_path)
    (tmp_path / name).write_text("[")
    with pytest.raises(DataError, match="cannot be read"):
        carried(tmp_path)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/../../b", ".hidden", "a//b", ""])
def test_no_name_leads_out_of_its_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="no place inside"):
        contents(artifact(tmp_path, name=name))


def test_a_byte_that_differs_is_found(tmp_path: Path) -> None:
    folder = artifact(tmp_path)
    (folder / "vocabulary/0.json").write_text("[ ]")
    with pytest.raises(DataError, match="SHA-256 differs"):
        contents(folder)


def test_a_models_manifest_names_files_in_folders_and_none_outside(tmp_path: Path) -> None:
    folder = artifact(tmp_path / "features")
    entries = {
        one.relative_to(tmp_path).as_posix(): model_manifest.measure(one) for one in folder.rglob("*") if one.is_file()
    }
    about: dict[str, Any] = {"trainkit": "0", "torch": "2", "job": "j", "features": folder.name}
    (tmp_path / MODEL_MANIFEST).write_text(model_manifest.Manifest(entries, **about).text())

    assert model_manifest.verify(tmp_path) == [] and carried(tmp_path) == {folder.name: folder}
    (folder / "vocabulary/0.json").unlink()
    assert model_manifest.verify(tmp_path) == [f"features/{folder.name}/vocabulary/0.json: No such file or directory"]
    for name in ("features/../../x", "/x", "features//x", "features/./x"):
        assert not model_manifest.is_inside(name)
