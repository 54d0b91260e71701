"""Inputs at URLs: the same features as from a folder, fetched once, and clear words where that cannot be."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from features_tables import lay
from harness import lay_tree

from trainkit.contract import features as contract
from trainkit.errors import DataError, StorageError
from trainkit.job import fitted
from trainkit.processing import Features, HashSplit, Standardize, Vocabulary
from trainkit.processing.features import around, command, embedded, remote
from trainkit.processing.features.run import Choices, run
from trainkit.storage import files

FEATURES = Features(
    tables={"raw": "raw"}, table="FROM raw", key="row", numeric=[Standardize("x")], categorical=[Vocabulary("w")],
    split=HashSplit("row", train=0.8, test=0.2),
)  # fmt: skip
SCRIPT = """
from trainkit.job import fitted
from trainkit.processing import Features, HashSplit, Standardize, Vocabulary
features = Features(
    tables={"raw": "raw"}, table="FROM raw", key="row", numeric=[Standardize("x")], categorical=[Vocabulary("w")],
    split=HashSplit("row", train=0.8, test=0.2),
)
"""


@pytest.fixture
def there(s3: Any, tmp_path: Path) -> tuple[str, Path]:
    """(a URL, the folder whose files lie there), and what nobody should read beside them."""
    folder = lay(tmp_path / "raw", 600, seed=5, files=3)
    for file in folder.rglob("*.parquet"):
        files.put_new(f"{s3.bucket}/raw/{file.relative_to(folder).as_posix()}", file.read_bytes())
    files.put_new(f"{s3.bucket}/raw/_SUCCESS", b"not a table")
    files.put_new(f"{s3.bucket}/raw-other/a.parquet", b"not a table")
    s3.forget_counts()
    return f"{s3.bucket}/raw", folder


def test_a_url_gives_the_features_of_the_folder_and_leaves_nothing_behind(
    there: tuple[str, Path], tmp_path: Path, s3: Any
) -> None:
    url, folder = there
    (tmp_path / "features.py").write_text(SCRIPT)
    (tmp_path / "spill").mkdir()
    one = run(FEATURES, {"raw": folder}, tmp_path / "a", choices=Choices(threads=1))

    told = ["--input", f"raw={url}", "--spill", str(tmp_path / "spill"), "--threads", "1"]
    command.make([str(tmp_path / "features.py"), *told, "--output", str(tmp_path / "b")])

    assert (tmp_path / "b/features" / one.hash).is_dir()
    for name in ("train/part-00000.parquet", "test/part-00000.parquet", "MANIFEST.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert not list((tmp_path / "spill").iterdir())


def test_a_url_that_is_one_object_is_the_file(there: tuple[str, Path], tmp_path: Path) -> None:
    url, folder = there
    file = sorted(folder.rglob("*.parquet"))[0]
    one = run(FEATURES, {"raw": file}, tmp_path / "a", choices=Choices(report=False, threads=1))
    two = run(FEATURES, {"raw": f"{url}/{file.name}"}, tmp_path / "b", choices=Choices(report=False, threads=1))
    assert one.hash == two.hash


def test_what_cannot_be_fetched_is_said(
    there: tuple[str, Path], tmp_path: Path, s3: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, _ = there
    with pytest.raises(StorageError, match=r"the input raw: there is no object at s3://bucket-[0-9]+/nothing"):
        run(FEATURES, {"raw": f"{s3.bucket}/nothing"}, tmp_path / "out")
    files.put_new(f"{s3.bucket}/mixed/a.csv", b"x\n1\n")
    files.put_new(f"{s3.bucket}/mixed/b.parquet", b"PAR1")
    with pytest.raises(DataError, match="files of one format"):
        run(FEATURES, {"raw": f"{s3.bucket}/mixed"}, tmp_path / "out")
    monkeypatch.setattr(remote, "SPARE", shutil.disk_usage(tmp_path).total)
    with pytest.raises(StorageError, match=r"bytes at their URLs, and .* has room for 0: .*--spill DIR"):
        run(FEATURES, {"raw": url}, tmp_path / "out", choices=Choices(spill=tmp_path))


def test_an_input_that_is_replaced_while_it_is_fetched_is_refused(there: tuple[str, Path], tmp_path: Path) -> None:
    url, folder = there
    names = sorted(one.name for one in folder.rglob("*.parquet"))

    def tell(line: str) -> None:
        pass

    look = remote.look(name="raw", url=url)
    other = lay(tmp_path / "other", 600, seed=6, files=3)
    entry = look[names[0]]
    files.put_stream(entry.url, [(other / names[0]).read_bytes() + b"more"], replace=True)

    with pytest.raises(DataError, match="it was replaced"), remote.fetched({"raw": look}, spill=tmp_path, tell=tell):
        raise AssertionError("never reached")
    assert not list(tmp_path.glob("trainkit-inputs-*"))


def test_a_model_finds_its_artifact_in_a_channel_that_is_a_url(
    there: tuple[str, Path], tmp_path: Path, s3: Any
) -> None:
    _, folder = there
    applied = run(FEATURES, {"raw": folder}, tmp_path / "out", choices=Choices(report=False))
    for file in sorted(one for one in (tmp_path / "out").rglob("*") if one.is_file()):
        files.put_new(f"{s3.bucket}/out/{file.relative_to(tmp_path / 'out').as_posix()}", file.read_bytes())
    said: list[str] = []
    s3.forget_counts()

    for number, url in enumerate((f"{s3.bucket}/out/train", f"{s3.bucket}/out/")):
        found = fitted.carried([tmp_path / "raw", url], tmp_path / f"got-{number}", say=said.append)
        assert found is not None
        assert contract.digest(found) == applied.hash
        assert not list((tmp_path / f"got-{number}").rglob("*.parquet"))
    by_name = fitted.named(f"{s3.bucket}/out/features/{applied.hash}", tmp_path / "named")
    assert by_name is not None
    assert contract.digest(by_name) == applied.hash
    assert said == []
    assert fitted.carried(["s3://no-such-bucket/train"], tmp_path / "none", say=said.append) is None
    assert "name it, features=" in said[0]
    with pytest.raises(DataError, match="carries no artifact"):
        fitted.named(f"{s3.bucket}/raw", tmp_path / "no")


def test_a_training_job_makes_its_features_of_a_channel_that_is_a_url(there: tuple[str, Path], tmp_path: Path) -> None:
    url, _ = there
    lay_tree(tmp_path / "ml", "")
    environ = {"SAGEMAKER_BASE_DIR": str(tmp_path / "ml"), "TRAINKIT_CHANNEL_RAW": url}
    job, _ = around.of_training(environ)
    assert job.chosen(FEATURES, {}) == {"raw": url}

    embedded.make(FEATURES, environ, step="make")

    assert (tmp_path / "ml/features/train/part-00000.parquet").is_file()
