"""A local file appears whole or not at all: kills, failures, and names that are too long."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from trainkit.storage import commit, files

KILL_AT = """
import os, signal, sys
from pathlib import Path
from trainkit.storage.commit import committed

step, path, replace = sys.argv[1], Path(sys.argv[2]), sys.argv[3] == "replace"
def kill(event, _):
    if event == step:
        os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(kill)
with committed(path, replace=replace) as scratch:
    scratch.write_bytes(b"new")
"""


@pytest.mark.parametrize("old", [None, b"old"])
def test_a_writer_killed_before_the_rename_leaves_the_name_as_it_was(tmp_path: Path, old: bytes | None) -> None:
    path = tmp_path / "model"
    if old is not None:
        path.write_bytes(old)

    ended = subprocess.run([sys.executable, "-c", KILL_AT, "os.rename", str(path), "replace"], check=False)

    assert ended.returncode == -signal.SIGKILL
    assert (path.read_bytes() if path.exists() else None) == old
    left = [entry.name for entry in tmp_path.iterdir() if entry != path]
    assert [commit.is_scratch(name) for name in left] == [True]
    assert [entry.url for entry in files.list(tmp_path)] == ([str(path)] if old else [])


def test_a_writer_killed_before_the_link_leaves_nothing_under_the_name(tmp_path: Path) -> None:
    path = tmp_path / "model"
    ended = subprocess.run([sys.executable, "-c", KILL_AT, "os.link", str(path), "create"], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert not path.exists()


def test_a_writer_that_fails_leaves_no_scratch_and_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "model"
    commit.write_whole(path, "ältest")
    with pytest.raises(KeyError), commit.committed(path) as scratch:
        scratch.write_bytes(b"torn")
        raise KeyError("lr")
    assert path.read_text(encoding="utf-8") == "ältest"
    assert list(tmp_path.iterdir()) == [path]


def test_threads_that_write_the_same_name_each_have_a_scratch_of_their_own(tmp_path: Path) -> None:
    path, both_wrote = tmp_path / "state", threading.Barrier(2, timeout=30)

    def write(letter: bytes) -> None:
        with commit.committed(path) as scratch:
            scratch.write_bytes(letter * 1000)
            both_wrote.wait()

    threads = [threading.Thread(target=write, args=(letter,)) for letter in (b"a", b"b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_bytes() in (b"a" * 1000, b"b" * 1000)
    assert list(tmp_path.iterdir()) == [path]


def test_a_name_as_long_as_the_file_system_allows_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("é" * 127)
    commit.write_whole(path, b"x")
    assert path.read_bytes() == b"x"


def test_a_file_where_a_folder_must_be_is_not_mistaken_for_the_target(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError), commit.committed(tmp_path / "file/model", replace=False):
        pass


def test_a_plain_path_needs_no_client_and_commit_needs_nothing_at_all(tmp_path: Path) -> None:
    script = f"""
import sys
import trainkit.storage.commit
outside = {{"fsspec", "s3fs", "boto3", "botocore", "aiohttp", "torch", "pyarrow"}}
assert not outside & set(sys.modules), outside & set(sys.modules)
assert not {{"trainkit.storage.files", "trainkit.storage.local"}} & set(sys.modules)
from trainkit.storage import files
files.put_new({str(tmp_path / "a")!r}, b"abc")
assert files.get_range({"file://" + str(tmp_path / "a")!r}, 1, 1) == b"b"
assert not outside & set(sys.modules), outside & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], check=True, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"})
