"""`trainkit checkpoint export --to safetensors` and `import --from safetensors`: models go out and come in whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoint_laid import Arrays, arrays, call, flip, lay
from safetensors.numpy import load_file, save_file
from servers.s3 import S3Server

from trainkit.checkpoint import own, statefile
from trainkit.checkpoint.people import importing, place, whole
from trainkit.checkpoint.read import Reader

Captured = pytest.CaptureFixture[str]
TIED = {"model": {"aliases": {"head": "embed"}, "others": {}}}


def model(tensors: Arrays) -> dict[str, np.ndarray[Any, Any]]:
    return {name.removeprefix("model."): one for name, one in tensors.items() if name.startswith("model.")}


def same(one: Arrays, other: Arrays) -> bool:
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and np.array_equal(one[name], other[name]) for name in one
    )


def imported(where: Path | str, name: str = "model") -> tuple[dict[str, np.ndarray[Any, Any]], Any]:
    """The tensors of the newest checkpoint there, under all their names, and their object's state."""
    export = whole.of(place.chosen(str(where))[0], only=name)
    found = {}
    for key, tensor in export.tensors:
        dtype = {"F32": "f4", "F64": "f8", "I64": "i8", "U8": "u1", "BOOL": "?"}[tensor.dtype]
        content = b"".join(export.stream([tensor]))
        found[key] = np.frombuffer(content, dtype=dtype).reshape(export.shape(tensor))
    tree = statefile.decode(export.images[name])
    return found | {alias: found[kept] for alias, kept in tree["aliases"].items()}, tree


@pytest.mark.parametrize("most", [whole.MOST, 1000, 77])
def test_whole_tensors_come_out_of_pieces_whatever_fits_into_memory(
    most: int, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whole, "MOST", most)
    assert all(box.volume * 8 <= most for box in whole.ranges((2, 3, 50), 8))
    tensors = arrays() | {"model.deep": np.arange(2 * 3 * 50, dtype=np.float64).reshape(2, 3, 50)}
    if most < 1000:
        tensors = {name: one for name, one in tensors.items() if one.size < 1000}
    sharded = {"model.deep", "model.layer.weight"} | {name for name in tensors if "embed" in name}
    lay(tmp_path / "ck", step=1, tensors=tensors, ranks=2, sharded=sharded, trees=TIED)

    code, out, err = call(capsys, "export", tmp_path / "ck", "--to", "safetensors", tmp_path / "out", "--only", "model")

    assert (code, err) == (0, "")
    assert f"{tmp_path / 'out'}: {len(model(tensors))} tensors, " in out
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model.safetensors"]
    assert same(load_file(tmp_path / "out/model.safetensors"), model(tensors))
    code, out, _ = call(capsys, "export", tmp_path / "ck", "--to", "safetensors", tmp_path / "all.safetensors")
    assert (code, "left out, what is no tensor: model" in out) == (0, True)
    assert same(load_file(tmp_path / "all.safetensors"), tensors)


def test_large_models_are_cut_into_files_as_hugging_face_cuts_them(tmp_path: Path, capsys: Captured) -> None:
    tensors = {f"model.{at}.weight": np.full((100, 100), at, dtype=np.float32) for at in range(7)}
    lay(tmp_path / "ck", step=1, tensors=tensors)
    argv = ["export", tmp_path / "ck", "--to", "safetensors", tmp_path / "out", "--only", "model"]

    assert call(capsys, *argv, "--max-size", "100KB")[0] == 0

    index = json.loads((tmp_path / "out/model.safetensors.index.json").read_text())
    assert index["metadata"] == {"total_size": 280_000}
    assert sorted({*index["weight_map"].values()}) == [f"model-{n:05d}-of-00004.safetensors" for n in range(1, 5)]
    found = {key: load_file(tmp_path / "out" / name)[key] for key, name in index["weight_map"].items()}
    assert same(found, model(tensors))
    assert call(capsys, "import", tmp_path / "out", "--from", "safetensors", tmp_path / "in")[0] == 0
    assert same(imported(tmp_path / "in")[0], model(tensors))


def test_an_export_is_whole_or_not_there_and_touches_nothing(tmp_path: Path, capsys: Captured) -> None:
    laid = lay(tmp_path / "ck", step=1, tensors=arrays())
    (tmp_path / "there").mkdir()
    (tmp_path / "there.safetensors").write_text("mine")
    flip(tmp_path / "ck" / laid.directory / "r00000.safetensors", laid.files[0].size - 1)

    for out in ("there", "there.safetensors"):
        code, _, err = call(capsys, "export", tmp_path / "ck", "--to", "safetensors", tmp_path / out)
        assert (code, "exists already, and is not touched" in err) == (64, True)
    for out in ("new", "new.safetensors"):
        code, _, err = call(capsys, "export", tmp_path / "ck", "--to", "safetensors", tmp_path / out)
        assert (code, "r00000.safetensors: the MiB from byte 0 on is not what was written" in err) == (65, True)
    assert {path.name for path in tmp_path.iterdir()} == {"ck", "there", "there.safetensors"}
    assert (tmp_path / "there.safetensors").read_text() == "mine"


def test_what_cannot_be_exported_is_said_before_anything_is_written(tmp_path: Path, capsys: Captured) -> None:
    lay(tmp_path / "ck", step=1, tensors={"model.z": np.zeros(3, dtype=np.complex128)})
    code, _, err = call(capsys, "export", tmp_path / "ck", "--to", "safetensors", tmp_path / "out")
    assert (code, "no dtype for model.z" in err) == (65, True)
    code, _, err = call(capsys, "export", tmp_path / "ck", "--to", "safetensors", tmp_path / "out", "--only", "modell")
    assert (code, "It has those of: model" in err) == (64, True)
    assert not (tmp_path / "out").exists()


def test_a_model_comes_in_as_a_checkpoint_of_one_rank(tmp_path: Path, capsys: Captured) -> None:
    weights = model(arrays())
    save_file(
        {f"net.{name}": one for name, one in weights.items()} | {"other": np.zeros(2)}, tmp_path / "x.safetensors"
    )

    code, out, err = call(
        capsys, "import", tmp_path / "x.safetensors", "--from", "safetensors", tmp_path / "ck", "--prefix", "net.",
        "--step", 12, "--name", "ema",
    )  # fmt: skip

    assert (code, err) == (0, "")
    assert "ck/step-000000012." in out
    assert call(capsys, "verify", tmp_path / "ck")[0] == 0
    found, tree = imported(tmp_path / "ck", "ema")
    assert same(found, weights)
    assert tree == {"aliases": {}, "others": {}}
    assert place.chosen(str(tmp_path / "ck"))[0].manifest.alike == ("ema",)  # type: ignore[union-attr]
    code, _, err = call(capsys, "import", tmp_path / "x.safetensors", "--from", "safetensors", tmp_path / "ck")
    assert (code, "has a checkpoint of step 12, which would be restored instead" in err) == (64, True)


def test_tied_weights_are_stored_once_and_found_under_each_name(tmp_path: Path, capsys: Captured) -> None:
    embed = np.arange(2000, dtype=np.float32).reshape(50, 40)
    other = embed.copy()
    other[-1, -1] += 1  # alike but for its last element
    save_file({"embed": embed, "head": embed.copy(), "other": other}, tmp_path / "both.safetensors")
    save_file({"embed": embed, "other": other}, tmp_path / "one.safetensors", metadata={"head": "embed", "f": "pt"})

    for name in ("both", "one"):
        call(capsys, "import", tmp_path / f"{name}.safetensors", "--from", "safetensors", tmp_path / name)
        found, tree = imported(tmp_path / name)
        assert tree["aliases"] == {"head": "embed"}
        assert same(found, {"embed": embed, "head": embed, "other": other})


def _file(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def _one(**changes: object) -> dict[str, object]:
    return {"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | changes}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "of its 0 bytes, the header would be 0"),
        (b"\xff" * 8 + b"{}", "the header would be 18446744073709551615"),
        (b"\x80\x04\x95" + bytes(40), "is no safetensors file"),
        (_file(b"{" * 100_000), "is no safetensors file"),
        (_file(b'{"w": 1, "w": 2}'), "a key is there twice"),
        (_file([1]), "is no safetensors file"),
        (_file({"w": 3}), "what it says of w makes no sense"),
        (_file(_one(), bytes(7)), "it is not whole"),
        (_file(_one(), bytes(9)), "it is not whole"),
        (_file(_one(shape=[3]), bytes(8)), "w has 8 bytes, and needs 12"),
        (_file(_one(shape=[-1, -2]), bytes(8)), "what it says of w makes no sense"),
        (_file(_one(shape=[1 << 59, 1 << 59]), bytes(8)), "w has 8 bytes"),
        (_file(_one(dtype="F4"), bytes(8)), "w is of dtype F4"),
        (_file(_one(dtype=["F32"]), bytes(8)), "is no safetensors file"),
        (_file(_one(data_offsets=[8, 16]), bytes(16)), "w does not begin where the tensor before it ends"),
        (_file({**_one(), "v": _one()["w"]}, bytes(8)), "does not begin where"),
        (_file({}), "has no tensors"),
    ],
)  # fmt: skip
def test_a_file_that_lies_is_refused_and_nothing_is_left(
    content: bytes, told: str, tmp_path: Path, capsys: Captured
) -> None:
    (tmp_path / "x.safetensors").write_bytes(content)
    code, _, err = call(capsys, "import", tmp_path / "x.safetensors", "--from", "safetensors", tmp_path / "ck")
    assert code in (64, 65)
    assert told in err
    assert str(tmp_path / "x.safetensors") in err
    assert not (tmp_path / "ck").exists()


@pytest.mark.parametrize(
    ("index", "told"),
    [
        ("{", "is no index of safetensors"),
        ('{"weight_map": {"w": "../x.safetensors"}}', "w is in ../x.safetensors"),
        ('{"weight_map": {"w": "/etc/x.safetensors"}}', "which is no file beside it"),
        ('{"weight_map": {"w": "a.bin"}}', "which is no file beside it"),
        ('{"weight_map": {"w": 3}}', "which is no file beside it"),
        ('{"weight_map": {"w": "gone.safetensors"}}', "gone.safetensors: there is no such file"),
        ('{"weight_map": {"v": "a.safetensors"}}', "v is not in the file"),
        ('{"weight_map": []}', "is no index of safetensors"),
    ],
)
def test_an_index_leads_to_files_beside_it_only(index: str, told: str, tmp_path: Path, capsys: Captured) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (tmp_path / "x.safetensors").write_bytes(_file(_one(), bytes(8)))
    (folder / "a.safetensors").write_bytes(_file(_one(), bytes(8)))
    (folder / "model.safetensors.index.json").write_text(index)
    code, _, err = call(capsys, "import", folder, "--from", "safetensors", tmp_path / "ck")
    assert (code in (64, 65), told in err.replace("'", "")) == (True, True), err
    assert not (tmp_path / "ck").exists()


def test_an_import_that_breaks_off_leaves_nothing(tmp_path: Path, capsys: Captured) -> None:
    def gone(start: int, size: int) -> memoryview:
        if start:
            raise KeyboardInterrupt
        return memoryview(bytes(size))

    size = importing.CHUNK + 4
    given = importing.Given("w", "F32", (size // 4,), size, gone)
    with pytest.raises(KeyboardInterrupt):
        importing.write([given], {}, str(tmp_path / "ck"), step=0, name="model", job="")
    assert not list((tmp_path / "ck").iterdir())


def test_models_go_from_bucket_to_bucket(s3: S3Server, capsys: Captured) -> None:
    tensors = arrays()
    lay(f"{s3.bucket}/ck", step=1, tensors=tensors, ranks=2)
    argv = ["export", f"{s3.bucket}/ck", "--to", "safetensors", f"{s3.bucket}/out", "--only", "model"]

    assert call(capsys, *argv, "--max-size", "300KB")[0] == 0
    assert call(capsys, *argv)[0] == 64
    assert call(capsys, "import", f"{s3.bucket}/out", "--from", "safetensors", f"{s3.bucket}/in")[0] == 0
    assert same(imported(f"{s3.bucket}/in")[0], model(tensors))
    one = place.chosen(f"{s3.bucket}/in")[0]
    assert one.manifest
    assert own.parse(Reader(one.manifest, [one.tier], [one.present]).state(0)).keys() == {"model"}
