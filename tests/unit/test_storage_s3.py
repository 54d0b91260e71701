"""s3:// against a real server, through everything that goes wrong on the way to it."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers.s3 import S3Server

from trainkit.errors import StorageError
from trainkit.storage import files

MIB = 1 << 20


def mebibytes(count: int) -> Iterator[bytes]:
    for index in range(count):
        yield bytes([index]) * MIB


@pytest.fixture
def three_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "3")


@pytest.fixture
def key(s3: S3Server) -> str:
    url = f"{s3.bucket}/run/key"
    files.put_new(url, b"0123456789")
    s3.forget_counts()
    return url


def test_throttling_is_waited_out(s3: S3Server, key: str) -> None:
    s3.faults.refuse(next=2, kind="GetObject")
    assert files.get(key) == b"0123456789"
    assert s3.counts["GetObject"] == 3


def test_throttling_without_end_is_an_error_after_a_bounded_number_of_tries(
    s3: S3Server, key: str, three_tries: None
) -> None:
    s3.faults.refuse(next=None)
    with pytest.raises(StorageError, match=r"/run/key: cannot read it: SlowDown after 3 tries: .*fewer readers"):
        files.get(key)
    assert s3.counts["GET"] == 3


@pytest.mark.parametrize("kind", ["reset", "lose"])
def test_a_connection_that_is_reset_is_made_again(s3: S3Server, key: str, kind: str) -> None:
    getattr(s3.faults, kind)(next=1, kind="GET")
    assert [entry.url for entry in files.list(f"{s3.bucket}/run")] == [key]
    getattr(s3.faults, kind)(next=1, kind="HEAD")
    assert files.head(key) is not None
    assert s3.counts["ListObjects"] == s3.counts["HeadObject"] == 2


def test_a_refusal_is_not_asked_again_and_says_what_to_do(s3: S3Server, key: str) -> None:
    s3.faults.refuse(status=403, code="AccessDenied")
    with pytest.raises(StorageError, match=r"cannot read it: AccessDenied: as the test wished\. Give the job's role"):
        files.get(key)
    assert s3.counts["GET"] == 1


def test_a_cut_body_goes_on_where_it_was_cut_and_asks_for_the_same_version(s3: S3Server, key: str) -> None:
    s3.faults.cut(next=2, keep=3)
    assert files.get(key) == b"0123456789"
    ranges = [request.headers.get("range") for request in s3.requests]
    assert ranges == [None, "bytes=3-9", "bytes=6-9"]
    assert [bool(request.headers.get("if-match")) for request in s3.requests] == [False, True, True]

    s3.faults.cut(next=1, keep=2)
    assert files.get_range(key, 4, 5) == b"45678"


def test_a_line_that_is_always_cut_is_an_error_and_not_a_part(s3: S3Server, key: str, three_tries: None) -> None:
    s3.faults.cut(next=None, keep=1)
    for read in (lambda: files.get(key), lambda: files.get_range(key, 0, 9)):
        with pytest.raises(StorageError, match="cannot read it beyond byte 3"):
            read()
    s3.faults.clear()
    s3.forget_counts()
    s3.faults.cut(next=None, keep=0)
    with pytest.raises(StorageError):
        files.get(key)
    assert s3.counts["GetObject"] == 3


def test_a_long_body_may_be_cut_more_often_than_one_request_is_tried(s3: S3Server, three_tries: None) -> None:
    url = f"{s3.bucket}/long"
    files.put_stream(url, mebibytes(40), replace=False)
    s3.forget_counts()
    s3.faults.cut(next=None, keep=9 * MIB)
    assert files.get(url) == b"".join(mebibytes(40))
    assert s3.counts["GetObject"] == 5


def test_bytes_that_changed_on_the_way_are_an_error(s3: S3Server, key: str) -> None:
    s3.faults.spoil()
    with pytest.raises(StorageError, match=r"cannot read it: FlexibleChecksumError"):
        files.get(key)


def test_an_object_replaced_while_it_is_read_is_an_error_and_not_a_mixture(s3: S3Server, key: str) -> None:
    from trainkit.storage.s3 import S3Store

    s3.faults.cut(keep=4)
    reading = S3Store.of(os.environ).read(key)
    assert next(reading) == b"0123"
    s3.behind("PUT", f"/{key.removeprefix('s3://')}", b"ABCDEFGHIJ")
    with pytest.raises(StorageError, match="replaced while it was read"):
        next(reading)


def test_a_large_stream_is_sent_in_parts_and_comes_back_the_same(s3: S3Server) -> None:
    url = f"{s3.bucket}/large"
    assert files.put_stream(url, mebibytes(43), replace=False).size == 43 * MIB
    assert s3.counts["UploadPart"] == 6
    assert files.get(url) == b"".join(mebibytes(43))
    with pytest.raises(files.ObjectExists):
        files.put_stream(url, mebibytes(9), replace=False)
    assert files.get_range(url, 42 * MIB, 2) == b"\x2a\x2a"
    files.put_stream(url, mebibytes(9), replace=True)
    assert files.get(url) == b"".join(mebibytes(9))
    assert s3.open_uploads() == []


def test_parts_that_are_sent_again_are_still_themselves_although_memory_is_used_again(s3: S3Server) -> None:
    url = f"{s3.bucket}/again"
    s3.faults.lose(next=3, kind="UploadPart")
    assert files.put_stream(url, mebibytes(93), replace=False).size == 93 * MIB
    assert s3.counts["UploadPart"] == 12 + 3
    assert files.get(url) == b"".join(mebibytes(93))


def test_the_parts_of_the_largest_object_are_neither_too_many_nor_too_large() -> None:
    from trainkit.storage.s3 import _part_size

    assert sum(_part_size(number) for number in range(10_000)) >= 5 << 40
    assert max(_part_size(number) for number in range(10_000)) <= 5 << 30


@pytest.mark.parametrize("error", [ValueError("disk gone"), KeyboardInterrupt(), SystemExit(1)])
def test_a_source_that_fails_midway_leaves_neither_object_nor_open_upload(s3: S3Server, error: BaseException) -> None:
    def chunks() -> Iterator[bytes]:
        yield from mebibytes(30)
        assert len(s3.open_uploads()) == 1  # else this test would prove nothing
        raise error

    with pytest.raises(type(error)) as raised:
        files.put_stream(f"{s3.bucket}/large", chunks(), replace=False)
    assert raised.value is error
    assert files.head(f"{s3.bucket}/large") is None
    assert s3.open_uploads() == []


def test_a_part_or_an_end_that_is_refused_leaves_neither_object_nor_open_upload(s3: S3Server) -> None:
    for kind in ("UploadPart", "CompleteMultipartUpload"):
        s3.faults.refuse(next=1, kind=kind, status=403, code="AccessDenied")
        with pytest.raises(StorageError, match=r"cannot write .*AccessDenied"):
            files.put_stream(f"{s3.bucket}/large", mebibytes(60), replace=True)
        assert files.head(f"{s3.bucket}/large") is None
        assert s3.open_uploads() == []


def test_an_upload_that_cannot_be_aborted_is_told_beside_the_cause(s3: S3Server) -> None:
    s3.faults.refuse(next=1, kind="UploadPart", status=403, code="AccessDenied")
    s3.faults.refuse(next=1, kind="AbortMultipartUpload", status=403, code="AccessDenied")
    with pytest.raises(StorageError, match="cannot write part") as raised:
        files.put_stream(f"{s3.bucket}/large", mebibytes(9), replace=True)
    assert "unfinished upload is left" in raised.value.__notes__[0]


def test_a_write_whose_answer_was_lost_is_recognised_as_our_own(s3: S3Server) -> None:
    s3.faults.lose(kind="PutObject")
    assert files.put_new(f"{s3.bucket}/small", b"1").size == 1
    assert s3.counts["PutObject"] == 2
    for replace in (False, True):
        s3.faults.lose(kind="CompleteMultipartUpload")
        assert files.put_stream(f"{s3.bucket}/large", mebibytes(9), replace=replace).size == 9 * MIB
        files.delete(f"{s3.bucket}/large")
    assert s3.counts["CompleteMultipartUpload"] == 4


def test_a_retried_write_does_not_take_another_writers_object_for_its_own(s3: S3Server, key: str) -> None:
    s3.faults.reset(kind="PutObject")
    with pytest.raises(files.ObjectExists):
        files.put_new(key, b"0123456789")
    assert s3.counts["PutObject"] == 2


def test_a_conflict_between_two_writers_is_tried_again(s3: S3Server) -> None:
    s3.faults.refuse(next=2, status=409, code="ConditionalRequestConflict", kind="PutObject")
    assert files.put_new(f"{s3.bucket}/one", b"1").size == 1


def test_a_missing_bucket_is_not_a_missing_object(s3: S3Server) -> None:
    for action in (files.get, files.head, files.list, files.delete, lambda url: files.put_new(url, b"")):
        with pytest.raises(StorageError, match=r"s3://no-such-bucket/x.*NoSuchBucket") as raised:
            action("s3://no-such-bucket/x")
        assert not isinstance(raised.value, files.ObjectMissing)


def test_a_url_without_key_or_bucket_is_refused_before_anything_is_sent(s3: S3Server) -> None:
    for url in (s3.bucket, f"{s3.bucket}/", "s3://", "s3:///key"):
        with pytest.raises(StorageError, match="names"):
            files.get(url)
    assert s3.counts == {}


def test_an_endpoint_where_nobody_listens_is_named_in_bounded_time(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch, three_tries: None
) -> None:
    with socket.socket() as bound:  # and not listening
        bound.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{bound.getsockname()[1]}"
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", nobody)
        began = time.monotonic()
        with pytest.raises(StorageError, match=f"s3://b/k: cannot read it: .*{nobody}"):
            files.get("s3://b/k")
    assert time.monotonic() - began < 15


def test_the_endpoint_of_sagemakers_local_mode_is_heard(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3")
    monkeypatch.setenv("S3_ENDPOINT_URL", s3.endpoint)
    files.put_new(f"{s3.bucket}/a", b"")
    assert s3.counts["PutObject"] == 1


def test_every_request_names_the_expected_owner_and_every_write_the_key(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRAINKIT_S3_EXPECTED_OWNER", "123456789012")
    monkeypatch.setenv("TRAINKIT_S3_KMS_KEY", "alias/training")
    url = f"{s3.bucket}/a"
    files.put_new(url, b"x")
    files.put_stream(url, mebibytes(9), replace=True)
    with pytest.raises(ValueError):
        files.put_stream(url, (bytes(MIB) if index < 9 else bytes(int("x")) for index in range(10)), replace=True)
    files.get(url)
    files.head(url)
    files.list(s3.bucket)
    files.delete(url)

    seen = {request.kind for request in s3.requests}
    assert seen == {
        "PutObject", "CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload", "AbortMultipartUpload",
        "GetObject", "HeadObject", "ListObjects", "DeleteObject",
    }  # fmt: skip
    for request in s3.requests:
        assert request.headers["x-amz-expected-bucket-owner"] == "123456789012", request
        if request.kind in ("PutObject", "CreateMultipartUpload"):
            assert request.headers["x-amz-server-side-encryption"] == "aws:kms"
            assert request.headers["x-amz-server-side-encryption-aws-kms-key-id"] == "alias/training"


def test_credentials_that_were_renewed_meanwhile_are_found(
    s3: S3Server, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIARENEWEDRENEWEDRE")
    files.get(key)
    assert "RENEWED" not in s3.requests[-1].headers["authorization"]
    s3.faults.refuse(status=400, code="ExpiredToken")
    assert files.get(key) == b"0123456789"
    assert "RENEWED" in s3.requests[-1].headers["authorization"]

    s3.faults.refuse(next=None, status=400, code="ExpiredToken")
    with pytest.raises(StorageError, match=r"ExpiredToken.*Renew the credentials"):
        files.get(key)


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "a//b", "./a", "/etc/evil"])
def test_a_key_that_leads_out_of_the_folder_is_refused_before_anything_is_written(
    s3: S3Server, tmp_path: Path, name: str
) -> None:
    files.put_new(f"{s3.bucket}/train/good", b"")
    files.put_new(f"{s3.bucket}/train/{name}", b"evil")
    with pytest.raises(StorageError, match="no path inside that folder"):
        files.download(f"{s3.bucket}/train", tmp_path / "into")
    assert list(tmp_path.rglob("*")) == []


def test_a_download_is_whole_or_says_which_object_failed(s3: S3Server, tmp_path: Path, three_tries: None) -> None:
    for index in range(30):
        files.put_new(f"{s3.bucket}/train/{index:02}", b"x" * 1000)
    s3.faults.cut(every=3, next=None, keep=500)
    s3.faults.refuse(every=10, next=None, kind="GetObject")
    paths = files.download(f"{s3.bucket}/train", tmp_path / "good")
    assert [path.read_bytes() for path in paths] == [b"x" * 1000] * 30

    s3.faults.clear()
    s3.faults.cut(next=None, keep=10)
    with pytest.raises(StorageError, match=r"/train/\d\d: cannot read it beyond byte"):
        files.download(f"{s3.bucket}/train", tmp_path / "bad")
    assert [path for path in (tmp_path / "bad").rglob("*") if path.is_file()] == []


def test_a_folder_of_more_keys_than_one_answer_holds_is_listed_whole(s3: S3Server) -> None:
    for index in range(1001):
        s3.behind("PUT", f"/{s3.bucket.removeprefix('s3://')}/many/{index:04}")
    s3.behind("PUT", f"/{s3.bucket.removeprefix('s3://')}/many/folder-made-by-the-console/")
    assert [entry.url[-4:] for entry in files.list(f"{s3.bucket}/many")] == [f"{index:04}" for index in range(1001)]
    assert s3.counts["ListObjects"] == 2


def test_a_forked_child_uses_no_client_of_its_parent_even_while_one_is_being_made(s3: S3Server, key: str) -> None:
    script = f"""
import os
from trainkit.storage import files, s3
assert files.get({key!r}) == b"0123456789"
store = s3.S3Store.of(os.environ)
parents = s3.client_of(store)
with s3._locks[os.getpid()]:
    child = os.fork()
    if child == 0:
        ok = files.get({key!r}) == b"0123456789" and s3.client_of(store) is not parents
        os._exit(0 if ok else 1)
    assert os.waitpid(child, 0)[1] == 0
assert files.get({key!r}) == b"0123456789"
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_the_server_of_these_tests_ends_with_the_process_that_started_it() -> None:
    script = """
import os, sys
from servers.s3 import S3Server
server = S3Server().__enter__()
print(server._moto.pid, flush=True)
if os.fork() == 0:
    sys.stdin.read()  # a child that lives on, and holds every pipe
    os._exit(0)
os.kill(os.getpid(), 9)
"""
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    with subprocess.Popen(
        [sys.executable, "-c", script], env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as killed:
        assert killed.stdout is not None
        moto = os.pidfd_open(int(killed.stdout.readline()))
        try:
            assert select.select([moto], [], [], 30)[0], "moto lives on"
        finally:
            os.close(moto)
