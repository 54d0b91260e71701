"""What the door promises on every protocol alike, and what only local paths and fsspec's others can get wrong."""

from __future__ import annotations

import sys
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from servers.s3 import S3Server

from trainkit.errors import StorageError
from trainkit.storage import files
from trainkit.storage.store import Data

ODD = ["a b", "a+b", "a%20b", "a%2Fb", "ü/ñ😀", "q?x=1&y#z", 'it\'s "so"', "~!@$^*(){}[]|;:,<>", "x=y/part-0"]


@pytest.fixture(params=["local", "file", "memory", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty folder's URL, on each kind of storage."""
    if request.param == "s3":
        server: S3Server = request.getfixturevalue("s3")
        return f"{server.bucket}/folder"
    unique = f"memory://{uuid.uuid4().hex}"
    return {"local": str(tmp_path), "file": f"file://{tmp_path}", "memory": unique}[request.param]


def test_what_is_put_can_be_read_listed_seen_and_deleted(place: str) -> None:
    for index, name in enumerate(ODD):
        assert files.put_new(f"{place}/{name}", b"0123456789"[: index + 1]).size == index + 1

    assert [(entry.url, entry.size) for entry in files.list(place)] == sorted(
        (f"{place}/{name}", index + 1) for index, name in enumerate(ODD)
    )
    for index, name in enumerate(ODD):
        url = f"{place}/{name}"
        assert files.get(url) == b"0123456789"[: index + 1]
        assert files.get_range(url, index, 1) == b"0123456789"[index : index + 1]
        seen = files.head(url)
        assert seen is not None and (seen.url, seen.size) == (url, index + 1)
        files.delete(url)
        files.delete(url)
        assert files.head(url) is None
    assert files.list(place) == ()


def test_a_short_object_is_an_error_and_never_less_bytes(place: str) -> None:
    files.put_new(f"{place}/short", b"abc")
    assert files.get_range(f"{place}/short", 3, 0) == b""
    for start, length in ((0, 4), (2, 2), (3, 1), (9, 1)):
        with pytest.raises(StorageError, match="short"):
            files.get_range(f"{place}/short", start, length)


def test_an_empty_object_is_an_object(place: str) -> None:
    files.put_new(f"{place}/empty", b"")
    assert files.put_stream(f"{place}/stream", [], replace=False).size == 0
    assert files.get(f"{place}/empty") == files.get(f"{place}/stream") == b""
    assert [entry.size for entry in files.list(place)] == [0, 0]


def test_what_is_missing_is_named(place: str) -> None:
    for read in (files.get, lambda url: files.get_range(url, 0, 1)):
        with pytest.raises(files.ObjectMissing, match="/nothing: cannot read it"):
            read(f"{place}/nothing")
    assert files.head(f"{place}/nothing") is None


@pytest.mark.parametrize("slash", ["", "/"])
def test_a_folder_is_neither_its_siblings_nor_the_object_of_its_name(place: str, slash: str) -> None:
    for name in ("train/x", "train2/y", "train-3", "validation/train/z"):
        files.put_new(f"{place}/{name}", b"")
    assert [entry.url for entry in files.list(f"{place}/train{slash}")] == [f"{place}/train/x"]
    assert files.list(f"{place}/train-3{slash}") == ()


@pytest.fixture
def eager_threads() -> Iterator[None]:
    """Threads that give way to each other at any point, so that a race is met and not only possible."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual)


def test_of_several_writers_at_once_exactly_one_creates_the_object(place: str, eager_threads: None) -> None:
    writers, rounds = 6, 3 if place.startswith("s3:") else 50
    ready = threading.Barrier(writers, timeout=60)
    results: list[tuple[int, type[BaseException] | None]] = []

    def write(me: int) -> None:
        for turn in range(rounds):
            ready.wait()
            try:
                files.put_new(f"{place}/{turn}", str(me).encode())
                results.append((turn, None))
            except StorageError as error:
                results.append((turn, type(error)))

    threads = [threading.Thread(target=write, args=(index,)) for index in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert Counter(results) == {
        **{(turn, None): 1 for turn in range(rounds)},
        **{(turn, files.ObjectExists): writers - 1 for turn in range(rounds)},
    }
    assert [entry.size for entry in files.list(place)] == [1] * rounds


def test_a_stream_replaces_only_where_it_may(place: str) -> None:
    url = f"{place}/state"
    reused = bytearray(b"ab")

    def chunks() -> Iterator[Data]:
        yield reused
        reused[:] = b"cd"
        yield memoryview(reused)

    assert files.put_stream(url, chunks(), replace=False).size == 4
    assert files.get(url) == b"abcd"
    with pytest.raises(files.ObjectExists, match="state: cannot create it"):
        files.put_stream(url, [b"other"], replace=False)
    assert files.get(url) == b"abcd"
    files.put_stream(url, [b"other"], replace=True)
    assert files.get(url) == b"other"


@pytest.mark.parametrize("error", [OSError("the source's own"), KeyboardInterrupt()])
def test_a_source_that_fails_gets_its_own_error_back_and_leaves_nothing(place: str, error: BaseException) -> None:
    def chunks() -> Iterator[Data]:
        yield b"half"
        raise error

    with pytest.raises(type(error)) as raised:
        files.put_stream(f"{place}/state", chunks(), replace=True)
    assert raised.value is error
    assert files.list(place) == ()


def test_a_download_keeps_the_tree_and_finds_nothing_more(place: str, tmp_path: Path) -> None:
    for name in ("train/b/1", "train/b/2", "train/a", "train2/c"):
        files.put_new(f"{place}/{name}", name.encode())
    into = tmp_path / "into"
    assert files.download(f"{place}/train", into) == tuple(into / name for name in ("a", "b/1", "b/2"))
    assert {path.relative_to(into).as_posix(): path.read_text() for path in into.rglob("*") if path.is_file()} == {
        name: f"train/{name}" for name in ("a", "b/1", "b/2")
    }
    with pytest.raises(StorageError, match="no object in that folder"):
        files.download(f"{place}/trainn", into)


def test_a_local_folder_that_cannot_be_read_whole_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    for folder in (tmp_path, tmp_path / "loop"):
        with pytest.raises(StorageError, match="cannot list it"):
            files.list(folder)


def test_links_to_folders_are_followed_and_circles_are_walked_once(tmp_path: Path) -> None:
    root = tmp_path / "root"
    for folder in (root / "a", root / "b", tmp_path / "elsewhere/deep"):
        folder.mkdir(parents=True)
        (folder / "x").write_bytes(b"12")
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (root / "a/to-b").symlink_to(root / "b")
    (root / "b/to-a").symlink_to(root / "a")
    (root / "a/up").symlink_to("..")
    (root / "out").symlink_to(tmp_path)

    listed = [Path(entry.url).relative_to(root).as_posix() for entry in files.list(root)]
    assert listed == ["a/to-b/x", "a/x", "b/to-a/x", "b/x", "linked/deep/x"]
    assert [entry.url for entry in files.list(root / "linked")] == [str(root / "linked/deep/x")]


def test_a_link_that_leads_nowhere_is_named(tmp_path: Path) -> None:
    (tmp_path / "part-0").symlink_to("gone")
    with pytest.raises(StorageError, match=r"part-0: cannot list it: it is a link to gone, which does not exist"):
        files.list(tmp_path)


def test_local_urls_are_read_as_other_tools_write_them(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"1")
    assert files.get(f"file://localhost{tmp_path}/x") == files.get(f"FILE://{tmp_path}/x") == b"1"
    with pytest.raises(StorageError, match="it contains a NUL character"):
        files.get(f"{tmp_path}/x\0")


def test_the_case_of_a_protocol_is_no_matter(s3: S3Server) -> None:
    files.put_new(f"{s3.bucket}/x", b"1")
    assert files.get(f"{s3.bucket}/x".replace("s3://", "S3://")) == b"1"


def test_a_download_of_one_object_says_what_to_do(place: str, tmp_path: Path) -> None:
    files.put_new(f"{place}/one", b"1")
    with pytest.raises(StorageError, match="one: cannot download it: it is one object, and no folder"):
        files.download(f"{place}/one", tmp_path / "into")


@pytest.mark.parametrize("write", [files.put_new, lambda url, data: files.put_stream(url, [data], replace=False)])
def test_a_protocol_that_cannot_promise_one_winner_is_refused_before_anything_is_sent(
    write: Callable[[str, bytes], object],
) -> None:
    with pytest.raises(StorageError, match="of two writers only one wins"):
        write("ftp://127.0.0.1:1/x", b"")


def test_errors_of_other_clients_name_the_url_without_its_password() -> None:
    with pytest.raises(StorageError) as raised:
        files.get("ftp://someone:swordfish@127.0.0.1:1/x")
    assert "cannot read it" in str(raised.value)
    assert "swordfish" not in str(raised.value)


def test_an_unknown_protocol_says_that_a_package_is_missing() -> None:
    with pytest.raises(StorageError, match="Install the package that brings nosuch:// to fsspec"):
        files.get("nosuch://x/y")
