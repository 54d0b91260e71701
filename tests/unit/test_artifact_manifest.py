"""A model directory that is not what its manifest says is never taken for whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trainkit.artifact import manifest
from trainkit.artifact.manifest import Manifest, measure, verify


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "model.safetensors").write_bytes(b"weights" * 100)
    (tmp_path / "config.json").write_text("{}")
    entries = {name: measure(tmp_path / name) for name in ("model.safetensors", "config.json")}
    text = Manifest(entries, trainkit="0.1.0", torch="2.13.0", job="flights", step=120).text()
    (tmp_path / manifest.FILE).write_text(text)
    return tmp_path


def test_a_whole_model_has_no_problems_and_its_manifest_reads_well(model):
    assert verify(model) == []
    assert json.loads((model / "trainkit.json").read_text()) == {
        "version": 1,
        "trainkit": "0.1.0",
        "torch": "2.13.0",
        "job": "flights",
        "step": 120,
        "files": {
            "config.json": {
                "size": 2,
                "sha256": "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
            },
            "model.safetensors": {
                "size": 700,
                "sha256": measure(model / "model.safetensors").sha256,
            },
        },
    }


def test_other_files_are_no_matter(model):
    (model / "notes.txt").write_text("mine")
    assert verify(model) == []


def test_a_missing_file_is_named(model):
    (model / "config.json").unlink()
    assert verify(model) == ["config.json: No such file or directory"]


def test_a_short_file_is_named(model):
    (model / "model.safetensors").write_bytes(b"weights" * 99)
    assert verify(model) == ["model.safetensors: has 693 bytes instead of 700"]


def test_one_changed_byte_is_found(model):
    (model / "config.json").write_text("[]")
    (problem,) = verify(model)
    assert problem.startswith(
        "config.json: has SHA-256 4f53cda18c2baa0c0354bb5f9a3ecbe5ed12ab4d8e11ba873c2f11161202b945"
    )


def test_scratch_of_an_interrupted_writer_is_named(model):
    (model / ".trainkit-model.part").mkdir()
    assert verify(model) == [".trainkit-model.part: left by a writer that was interrupted"]


def test_without_a_manifest_there_is_no_model(model):
    (model / "trainkit.json").unlink()
    assert verify(model) == ["trainkit.json: No such file or directory; the model was not written to its end"]


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"files": 3}', '{"files": {"a": {}}}']
    + [json.dumps({"files": {name: {"size": 1, "sha256": ""}}}) for name in ("../a", "..", "", "a\0")],
)
def test_nonsense_is_no_manifest(model, text):
    (model / "trainkit.json").write_text(text)
    (problem,) = verify(model)
    assert problem.startswith("trainkit.json: is no manifest")
