"""Every byte or an error, from real servers and files, through everything that goes wrong on the way."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import cache
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import urlopen

import boto3
import pytest
import s3fs
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st
from servers import s3sim
from servers.s3 import S3Server
from servers.s3sim import S3Sim

from trainkit.data.fetch.choose import open_fetcher
from trainkit.data.fetch.fetcher import Fetcher, Name
from trainkit.data.fetch.signing import Address, Keys, Signer
from trainkit.data.items import Item
from trainkit.errors import StorageError
from trainkit.storage import files

SIZE = 3 << 20
CONTENT = random.Random(4).randbytes(SIZE)
FETCHERS: tuple[Name, ...] = ("http", "boto3", "fsspec")


@pytest.fixture
def sim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Sim]:
    """Our own server with one object, s3://bucket/a b/ü+1.bin, and this process's environment pointing to it."""
    for name in tuple(os.environ):
        if name.startswith("AWS_") or name in ("S3_ENDPOINT_URL", "TRAINKIT_S3_EXPECTED_OWNER"):
            monkeypatch.delenv(name)
    path = tmp_path / "bucket/a b/ü+1.bin"
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    with S3Sim(tmp_path) as server:
        for name, value in server.environ.items():
            monkeypatch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()  # it would go on asking the server of the test before
        yield server


@pytest.fixture
def item(sim: S3Sim) -> Item:
    (entry,) = files.list("s3://bucket")
    return Item(entry.url, entry.size, entry.etag)


@pytest.fixture
def fetcher(sim: S3Sim) -> Iterator[Fetcher]:
    fetcher = open_fetcher("s3://bucket", deadline=20)
    yield fetcher
    fetcher.close()


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def everything(fetcher: Fetcher, item: Item, *, block: int = 64 << 10, threads: int = 8) -> bytes:
    with ThreadPoolExecutor(threads) as pool:
        return b"".join(
            pool.map(lambda at: fetcher.get(item, at, min(block, item.size - at)), range(0, item.size, block))
        )


@pytest.mark.parametrize("name", FETCHERS)
def test_every_fetcher_brings_exactly_what_is_asked_for_without_asking_for_sizes(
    sim: S3Sim, item: Item, name: Name
) -> None:
    fetcher = open_fetcher(item.url, prefer=name)

    assert bytes(fetcher.get(item, 12_345, 678)) == CONTENT[12_345:13_023]
    assert bytes(fetcher.get(item, SIZE - 1, 1)) == CONTENT[-1:]
    assert bytes(fetcher.get(item, 7, 0)) == b""
    assert bytes(fetcher.get(item, 0, SIZE)) == CONTENT
    assert (sim.stats["HeadObject"], sim.stats["GetObject"]) == (0, 3)
    assert (fetcher.counters.requests, fetcher.counters.bytes) == (3, SIZE + 679)
    fetcher.close()


def test_throttling_and_cut_bodies_cost_time_and_no_byte(sim: S3Sim, item: Item, fetcher: Fetcher) -> None:
    sim.p503, sim.pcut = 0.2, 0.2

    assert everything(fetcher, item) == CONTENT

    assert sim.stats["SlowDown"] and sim.stats["cut"]
    assert fetcher.counters.retries == sim.stats["SlowDown"] + sim.stats["cut"]
    assert sim.stats["bytes"] == SIZE, "what came before a cut was asked for again"


def test_the_server_runs_as_a_program_too(
    sim: S3Sim, item: Item, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [sys.executable, s3sim.__file__, str(tmp_path), "--p503", "0.05", "--pcut", "0.03", "--latency-ms", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        endpoint = f"http://127.0.0.1:{int(process.stdout.readline())}"
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
        fetcher = open_fetcher(item.url, deadline=20)
        assert everything(fetcher, item, block=16 << 10) == CONTENT
        with urlopen(f"{endpoint}/_stats", timeout=20) as answer:
            stats = json.load(answer)
        fetcher.close()
        process.kill()
    assert stats["bytes"] == SIZE
    assert stats["requests"] == 192 + stats["SlowDown"] + stats["cut"]
    assert stats["cut"] and stats["SlowDown"]


def test_reads_wait_side_by_side(sim: S3Sim, item: Item, fetcher: Fetcher) -> None:
    sim.latency = 0.05
    began = time.monotonic()

    assert everything(fetcher, item, threads=16) == CONTENT

    assert time.monotonic() - began < 48 * sim.latency, "48 requests came one after the other"


def test_an_outage_ends_with_an_error_that_tells_all_within_the_deadline(sim: S3Sim, item: Item) -> None:
    fetcher = open_fetcher(item.url, deadline=1.5)
    sim.refuse = (503, "SlowDown")
    began = time.monotonic()

    with pytest.raises(StorageError, match=r"ü\+1.bin: cannot read 20 bytes from 10: no byte .*requests.*SlowDown"):
        fetcher.get(item, 10, 20)

    assert time.monotonic() - began < 1.5 + 1
    assert fetcher.counters.waited > 0
    fetcher.close()


def test_a_server_that_is_gone_is_an_error_within_the_deadline(sim: S3Sim, item: Item) -> None:
    fetcher = open_fetcher(item.url, deadline=1)
    fetcher.get(item, 0, 1)
    sim.__exit__()
    with pytest.raises(StorageError, match=r"cannot read 1 bytes from 0: .*ConnectionRefusedError"):
        fetcher.get(item, 0, 1)
    fetcher.close()
    sim.__enter__()


@pytest.mark.parametrize("name", FETCHERS[:2])
def test_an_object_that_is_replaced_is_an_error_with_its_name(
    sim: S3Sim, item: Item, tmp_path: Path, name: Name
) -> None:
    fetcher = open_fetcher(item.url, prefer=name)
    fetcher.get(item, 0, 1)
    (tmp_path / "bucket/a b/ü+1.bin").write_bytes(CONTENT[::-1])

    with pytest.raises(StorageError, match=r"s3://bucket/a b/ü\+1.bin: .*replaced"):
        fetcher.get(item, 0, 1)
    fetcher.close()


@pytest.mark.parametrize("name", FETCHERS)
def test_an_object_that_is_shorter_than_it_was_said_to_be_is_an_error(sim: S3Sim, item: Item, name: Name) -> None:
    fetcher = open_fetcher(item.url, prefer=name, deadline=20)
    with pytest.raises(StorageError, match=r"a b/ü\+1.bin: cannot read .*shorter"):
        fetcher.get(item, SIZE - 5, 10)
    assert not sim.stats["InvalidRange"], "what is known to be short was asked for again"
    fetcher.close()


@pytest.mark.parametrize("name", FETCHERS[:2])
@pytest.mark.parametrize(
    ("status", "code", "remedy"),
    [(403, "AccessDenied", "s3:GetObject"), (404, "NoSuchKey", "deleted meanwhile"), (400, "ExpiredToken", "Renew")],
)
def test_a_refusal_is_told_at_once_with_what_to_do(
    sim: S3Sim, item: Item, name: Name, status: int, code: str, remedy: str
) -> None:
    fetcher = open_fetcher(item.url, prefer=name)
    sim.refuse = (status, code)
    sim.stats.clear()

    with pytest.raises(StorageError, match=f"{code}: as it was wished.*{remedy}"):
        fetcher.get(item, 0, 1)

    assert sim.stats["requests"] <= 2
    fetcher.close()


def test_credentials_that_are_renewed_in_their_file_are_read_again(
    sim: S3Sim, item: Item, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = tmp_path / "credentials"
    written.write_text("[default]\naws_access_key_id = OLD\naws_secret_access_key = old\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(written))
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    fetcher = open_fetcher(item.url)
    fetcher.get(item, 0, 1)
    written.write_text("[default]\naws_access_key_id = NEW\naws_secret_access_key = new\n")
    sim.expired = "OLD"

    assert bytes(fetcher.get(item, 0, 1)) == CONTENT[:1]
    assert sim.stats["ExpiredToken"] == 1
    fetcher.close()


def test_no_credentials_is_said_at_once(sim: S3Sim, item: Item, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    fetcher = open_fetcher(item.url)
    with pytest.raises(StorageError, match="there are no AWS credentials"):
        fetcher.get(item, 0, 1)


def test_a_proxy_is_left_to_boto3(sim: S3Sim, item: Item, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", sim.environ["AWS_ENDPOINT_URL_S3"])  # it answers to absolute URLs, too
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://storage.invalid")
    fetcher = open_fetcher(item.url)

    assert bytes(fetcher.get(item, 0, 9)) == CONTENT[:9]
    fetcher.close()


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """Of 127.0.0.1, signed by itself, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    here = x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))])
    day = timedelta(days=1)
    made = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    made = made.not_valid_before(datetime.now(UTC) - day).not_valid_after(datetime.now(UTC) + day)
    signed = made.add_extension(here, critical=False).sign(key, hashes.SHA256())
    content = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + signed.public_bytes(Encoding.PEM)
    path = tmp_path / "certificate.pem"
    path.write_bytes(content)
    return path


def test_a_server_is_believed_only_with_a_certificate(
    sim: S3Sim, item: Item, certificate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with S3Sim(tmp_path, certificate=certificate) as encrypted:
        encrypted.pcut = 0.3
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", encrypted.environ["AWS_ENDPOINT_URL_S3"])
        strict = open_fetcher(item.url)
        with pytest.raises(StorageError, match=r"cannot trust its server: .*AWS_CA_BUNDLE"):
            strict.get(item, 0, 1)
        monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
        trusting = open_fetcher(item.url, deadline=20)
        assert everything(trusting, item) == CONTENT
        assert encrypted.stats["cut"]
        for fetcher in (strict, trusting):
            fetcher.close()


def test_a_child_of_a_fork_makes_its_own_connections(sim: S3Sim, item: Item, fetcher: Fetcher) -> None:
    fetcher.get(item, 0, 10)
    before = sim.stats["connections"]
    with fetcher._lock:  # as if another thread were counting at the moment of the fork
        child = os.fork()
        if not child:
            os._exit(0 if bytes(fetcher.get(item, 100, 10)) == CONTENT[100:110] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert bytes(fetcher.get(item, 50, 10)) == CONTENT[50:60]
    assert sim.stats["connections"] == before + 1, "one for the child, and the parent's own still good"


def test_closing_ends_the_waiting(sim: S3Sim, item: Item) -> None:
    fetcher = open_fetcher(item.url, deadline=600)
    sim.refuse = (503, "SlowDown")
    ended = threading.Event()

    def read() -> None:
        with pytest.raises(StorageError, match="the stream was closed"):
            fetcher.get(item, 0, 1)
        ended.set()

    thread = threading.Thread(target=read)
    thread.start()
    fetcher.close()
    assert ended.wait(20)
    thread.join()


@pytest.mark.parametrize("name", FETCHERS)
def test_bytes_come_from_a_server_that_is_not_ours_too(s3: S3Server, name: Name) -> None:
    files.put_new(f"{s3.bucket}/sub dir/k=1+2~'()!*.bin", CONTENT[:100_000])
    (entry,) = files.list(s3.bucket)
    s3.faults.refuse(next=1, kind="GetObject")
    s3.faults.cut(next=1, kind="GetObject", keep=5_000)
    fetcher = open_fetcher(s3.bucket, prefer=name)

    assert bytes(fetcher.get(Item(entry.url, entry.size, entry.etag), 1, 99_000)) == CONTENT[1:99_001]
    assert s3.counts["HeadObject"] == 0
    fetcher.close()


@cache
def botocores() -> Any:
    return boto3.session.Session("AKID", "secret", region_name="eu-central-1").client("s3")


@settings(deadline=None)  # the first example waits for boto3
@given(key=st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=30), token=st.booleans())
def test_the_signature_is_botocores_own(key: str, token: bool) -> None:
    keys = Keys("AKID", "secret", "token/+=" if token else None)
    signer = Signer(Address("https", "bucket.s3.eu-central-1.amazonaws.com", "/", "eu-central-1"), keys)
    asked = botocores().generate_presigned_url("get_object", Params={"Bucket": "bucket", "Key": key})
    assert urlsplit(asked).path == signer.address.target(key)
    ours = signer.headers(signer.address.target(key))
    request = AWSRequest("GET", f"https://{signer.address.host}{signer.address.target(key)}")
    theirs = S3SigV4Auth(Credentials(keys.access, keys.secret, keys.token), "s3", "eu-central-1")
    # Their clock, set to the moment of ours.
    request.context["timestamp"] = ours["x-amz-date"]
    request.headers["X-Amz-Date"] = ours["x-amz-date"]
    request.headers["X-Amz-Content-SHA256"] = ours["x-amz-content-sha256"]
    if keys.token:
        request.headers["X-Amz-Security-Token"] = keys.token

    canonical = theirs.canonical_request(request)
    signature = theirs.signature(theirs.string_to_sign(request, canonical), request)

    assert ours["Authorization"].endswith(f"Signature={signature}")


def test_a_file_is_read_exactly(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    fetcher = open_fetcher(str(path))
    assert fetcher.name == "local"
    assert everything(fetcher, Item(str(path), SIZE)) == CONTENT
    assert bytes(fetcher.get(Item(f"file://{path}", SIZE), 3, 4)) == CONTENT[3:7]
    fetcher.close()


@pytest.mark.parametrize("keep_open", [False, True])
def test_a_file_that_was_cut_off_is_an_error_and_no_crash(tmp_path: Path, keep_open: bool) -> None:
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    fetcher, item = open_fetcher(str(path)), Item(str(path), SIZE)
    if keep_open:
        fetcher.get(item, 0, 1)
    os.truncate(path, 1000)
    with pytest.raises(StorageError, match=f"file: cannot read it: it has 1000 bytes, and had {SIZE}"):
        fetcher.get(item, 900, 200)
    fetcher.close()


def test_a_file_that_was_replaced_by_a_longer_one_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    fetcher = open_fetcher(str(path))
    with pytest.raises(StorageError, match=f"file: cannot read it: it has {SIZE} bytes, and had 9 when"):
        fetcher.get(Item(str(path), 9), 0, 9)
    fetcher.close()


def test_a_file_that_vanished_is_named(tmp_path: Path) -> None:
    fetcher = open_fetcher(str(tmp_path))
    with pytest.raises(StorageError, match="gone: cannot read 1 bytes from 0: No such file"):
        fetcher.get(Item(str(tmp_path / "gone"), 1), 0, 1)


def test_more_files_than_are_kept_open_leave_no_descriptor_behind(tmp_path: Path) -> None:
    before = open_files()
    fetcher = open_fetcher(str(tmp_path))
    items = [Item(str(tmp_path / str(number)), 4) for number in range(200)]
    for item in items:
        Path(item.url).write_bytes(b"1234")
    with ThreadPoolExecutor(8) as pool:
        assert all(bytes(data) == b"23" for data in pool.map(lambda item: fetcher.get(item, 1, 2), items * 3))
    assert open_files() <= before + 64
    fetcher.close()
    assert open_files() == before


def test_any_protocol_of_fsspec_will_do() -> None:
    files.put_new("memory://fetch/one", b"0123456789")
    fetcher = open_fetcher("memory://fetch/one")
    assert fetcher.name == "fsspec"
    assert bytes(fetcher.get(Item("memory://fetch/one", 10), 3, 4)) == b"3456"
    with pytest.raises(StorageError, match=r"memory://fetch/two: .*not there any more"):
        fetcher.get(Item("memory://fetch/two", 10), 0, 1)
    files.delete("memory://fetch/one")
