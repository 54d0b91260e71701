"""An S3 server for tests: moto in a process of its own, behind a proxy in ours that counts, delays, refuses and cuts.

    def test_a_throttled_read_is_retried(s3):
        s3.faults.refuse(next=2, kind="GetObject")
        assert files.get(f"{s3.bucket}/key") == b"…"
        assert s3.counts["GetObject"] == 3

    client ──▶ proxy (threads of this process, ephemeral port) ──▶ moto (child process, ephemeral port)

Bodies stream through the proxy in small pieces. The child ends when this process does, killed or not.
`kind` is S3's name of an operation (GetObject, UploadPart, …), an HTTP method, or None for every request.
"""

from __future__ import annotations

import http.client
import io
import os
import re
import socket
import struct
import subprocess
import sys
import threading
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NoReturn
from urllib.parse import parse_qsl, urlsplit

import pytest

_PIECE = 256 << 10
_MOTO = """
import ctypes, signal, sys, threading
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: a forked child of the test may hold our stdin open
import logging
logging.getLogger("werkzeug").setLevel(logging.ERROR)
from moto.moto_server.threaded_moto_server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it arrived. `target` is its path and query, percent-encoded; header names are in lower case."""

    method: str
    kind: str
    target: str
    headers: Mapping[str, str] = field(repr=False)


@dataclass(slots=True)
class Fault:
    action: str
    kind: str | None
    left: int | None
    every: int
    status: int = 503
    code: str = "SlowDown"
    keep: int = 0
    seconds: float = 0.0
    seen: int = 0

    def strikes(self, request: Request) -> bool:
        if self.left == 0 or self.kind not in (None, request.kind, request.method):
            return False
        self.seen += 1
        if self.seen % self.every:
            return False
        self.left = None if self.left is None else self.left - 1
        return True


class Faults:
    """What shall go wrong. `next`: how often, None for always; `every`: of so many matching requests, the last."""

    def __init__(self) -> None:
        self._planned: list[Fault] = []
        self._lock = threading.Lock()
        self._released = threading.Event()

    def refuse(
        self,
        *,
        next: int | None = 1,
        kind: str | None = None,
        every: int = 1,
        status: int = 503,
        code: str = "SlowDown",
    ) -> None:
        """Answer with an error; nothing reaches the storage."""
        self._add(Fault("refuse", kind, next, every, status=status, code=code))

    def cut(self, *, next: int | None = 1, kind: str | None = "GetObject", every: int = 1, keep: int = 0) -> None:
        """Send `keep` bytes of the answer's body, under the full length's header, and close."""
        self._add(Fault("cut", kind, next, every, keep=keep))

    def spoil(self, *, next: int | None = 1, kind: str | None = "GetObject", every: int = 1) -> None:
        """Change the first byte of the answer's body."""
        self._add(Fault("spoil", kind, next, every))

    def reset(self, *, next: int | None = 1, kind: str | None = None, every: int = 1) -> None:
        """Reset the connection instead of doing anything."""
        self._add(Fault("reset", kind, next, every))

    def lose(self, *, next: int | None = 1, kind: str | None = None, every: int = 1) -> None:
        """Do what was asked, and reset the connection instead of answering."""
        self._add(Fault("lose", kind, next, every))

    def delay(self, seconds: float, *, next: int | None = None, kind: str | None = None, every: int = 1) -> None:
        """Wait before doing what was asked; `clear` ends the waiting."""
        self._add(Fault("delay", kind, next, every, seconds=seconds))

    def clear(self) -> None:
        """Nothing goes wrong any more, and what is delayed goes on."""
        with self._lock:
            self._planned.clear()
            self._released.set()
            self._released = threading.Event()

    def strike(self, request: Request) -> Fault | None:
        """The fault of this request, after its delays."""
        with self._lock:
            struck = [fault for fault in self._planned if fault.strikes(request)]
            released = self._released
        for fault in struck:
            if fault.action == "delay":
                released.wait(fault.seconds)
        return next((fault for fault in struck if fault.action != "delay"), None)

    def _add(self, fault: Fault) -> None:
        with self._lock:
            self._planned.append(fault)


class S3Server:
    """The running server. `endpoint` is the proxy's URL, `bucket` the URL of a bucket made for this test."""

    def __init__(self, *, address: str = "127.0.0.1") -> None:
        self.faults = Faults()
        self.requests: deque[Request] = deque(maxlen=10_000)
        self.counts: Counter[str] = Counter()  # by kind, by method, and "bytes in", "bytes out" of bodies
        self.bucket = ""
        self.conditional = threading.Lock()
        self._buckets = 0
        self._address = address
        self._lock = threading.Lock()

    def __enter__(self) -> S3Server:
        self._moto = subprocess.Popen(
            [sys.executable, "-c", _MOTO], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "AWS_EC2_METADATA_DISABLED": "true"},
        )  # fmt: skip
        assert self._moto.stdout is not None
        port = self._moto.stdout.readline()  # ends when moto is ready, or dead
        assert port, f"moto ended with {self._moto.wait()}"
        self.upstream = ("127.0.0.1", int(port))
        self._proxy = _Proxy((self._address, 0), _Handler)
        self._proxy.owner = self
        self._thread = threading.Thread(target=self._proxy.serve_forever, args=(0.02,), name="s3-proxy")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.faults.clear()
        self._proxy.shutdown()
        self._thread.join()
        self._proxy.end_connections()
        self._proxy.server_close()
        with self._moto:
            self._moto.kill()

    @property
    def endpoint(self) -> str:
        host = "127.0.0.1" if self._address == "0.0.0.0" else self._address
        return f"http://{host}:{self._proxy.server_address[1]}"

    @property
    def environ(self) -> dict[str, str]:
        """What a process needs to find this server, and nothing else that calls itself S3."""
        return {
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_ACCESS_KEY_ID": "AKIATESTTESTTESTTEST",
            "AWS_SECRET_ACCESS_KEY": "a-secret-of-the-tests",
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def clean(self) -> None:
        """Forget objects, faults and counts, and make a new bucket."""
        self.faults.clear()
        self.behind("POST", "/moto-api/reset")
        self._buckets += 1
        self.bucket = f"s3://bucket-{self._buckets}"
        self.behind("PUT", f"/bucket-{self._buckets}")
        self.forget_counts()

    def forget_counts(self) -> None:
        with self._lock:
            self.counts.clear()
            self.requests.clear()

    def behind(self, method: str, target: str, body: bytes = b"") -> bytes:
        """A request past the proxy: no faults, no counts. The body of its answer; an error status fails the test."""
        with closing(http.client.HTTPConnection(*self.upstream, timeout=30)) as connection:
            # moto takes the service from the host's name or the credential's scope; it checks no signature.
            scope = (
                "AWS4-HMAC-SHA256 Credential=behind/20200101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"
            )
            connection.request(method, target, body, {"Authorization": scope})
            answer = connection.getresponse()
            content = answer.read()
            assert answer.status < 300, (method, target, answer.status, content)
            return content

    def open_uploads(self) -> list[str]:
        """The ids of the multipart uploads that nobody completed or aborted, in this test's bucket."""
        answer = self.behind("GET", f"/{self.bucket.removeprefix('s3://')}?uploads")
        return re.findall(r"<UploadId>(.*?)</UploadId>", answer.decode())

    def note(self, request: Request) -> None:
        with self._lock:
            self.requests.append(request)
            self.counts[request.kind] += 1
            if request.kind != request.method:
                self.counts[request.method] += 1

    def note_bytes(self, direction: str, count: int) -> None:
        with self._lock:
            self.counts[f"bytes {direction}"] += count


class _Proxy(ThreadingHTTPServer):
    owner: S3Server
    daemon_threads = False  # so that server_close joins them

    def __init__(self, *args: Any) -> None:
        self._open: set[socket.socket] = set()
        super().__init__(*args)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def end_connections(self) -> None:
        """Wake the threads that wait for a next request on a connection kept alive."""
        for connection in tuple(self._open):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it ended by itself

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), OSError):  # clients that go away are what some tests are about
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: _Proxy
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def _serve(self) -> None:
        owner = self.server.owner
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.command, _kind(self.command, self.path, headers), self.path, headers)
        owner.note(request)
        fault = owner.faults.strike(request)
        chunked = headers.get("transfer-encoding", "").lower() == "chunked"
        body = self._frames() if chunked else self._pieces(self.rfile, int(headers.get("content-length", 0)))
        if fault is not None and fault.action in ("refuse", "reset"):
            for _ in body:
                pass  # a client that is still sending would not read the answer
            if fault.action == "reset":
                self._reset()
            self._refuse(fault.status, fault.code)
            return
        self._forward(request, body, fault)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _serve

    def _forward(self, request: Request, body: Iterator[bytes], fault: Fault | None) -> None:
        owner = self.server.owner
        chunked = request.headers.get("transfer-encoding", "").lower() == "chunked"
        # moto looks for an object and then writes it; S3 does both at once, so here one such writer follows another.
        turn = owner.conditional if "if-none-match" in request.headers else nullcontext()
        with closing(http.client.HTTPConnection(*owner.upstream, timeout=120)) as upstream:
            with turn:
                upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():
                    if name.lower() not in ("connection", "expect"):
                        upstream.putheader(name, value)
                upstream.endheaders()
                missing = 0 if chunked else int(request.headers.get("content-length", 0))
                for piece in body:
                    upstream.send(piece)
                    owner.note_bytes("in", len(piece))
                    missing -= len(piece)
                if missing > 0:  # the client was killed; what is behind us must not wait for the rest
                    raise ConnectionAbortedError
                answer = upstream.getresponse()
            if fault is not None and fault.action == "lose":
                answer.read()
                self._reset()
            self._answer(answer, fault)

    def _answer(self, answer: http.client.HTTPResponse, fault: Fault | None) -> None:
        self.send_response_only(answer.status, answer.reason)
        for name, value in answer.getheaders():
            if name.lower() not in ("connection", "transfer-encoding"):
                self.send_header(name, value)
        bodyless = self.command == "HEAD" or answer.status in (204, 304)
        if answer.length is None and not bodyless:  # its end is where the connection ends
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        if bodyless:
            return
        cut = fault is not None and fault.action == "cut"
        spoil = fault is not None and fault.action == "spoil"
        for piece in self._pieces(answer, fault.keep if fault is not None and cut else answer.length):
            self.wfile.write(bytes([piece[0] ^ 1]) + piece[1:] if spoil else piece)
            self.server.owner.note_bytes("out", len(piece))
            spoil = False
        self.close_connection |= cut

    def _refuse(self, status: int, code: str) -> None:
        body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>as the test wished</Message></Error>".encode()
        self.send_response_only(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _reset(self) -> NoReturn:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        # The server's own shutdown would end the connection politely; only closing with no linger resets it.
        self.rfile.close()
        self.wfile.close()
        self.connection.close()
        raise ConnectionAbortedError

    def _frames(self) -> Iterator[bytes]:
        """A chunked body with its framing, as clients send that sign it piece by piece."""
        while size := int((head := self.rfile.readline(1000)).split(b";")[0], 16):
            yield head
            yield from self._pieces(self.rfile, size + 2)
        yield head
        while (trailer := self.rfile.readline(10_000)) not in (b"\r\n", b""):
            yield trailer
        yield b"\r\n"

    @staticmethod
    def _pieces(stream: io.BufferedIOBase, length: int | None) -> Iterator[bytes]:
        while length is None or length > 0:
            piece = stream.read(_PIECE if length is None else min(length, _PIECE))
            if not piece:
                return
            length = None if length is None else length - len(piece)
            yield piece

    def log_message(self, format: str, *args: Any) -> None:
        pass


def _kind(method: str, target: str, headers: Mapping[str, str]) -> str:
    """S3's name of the operation, as far as tests tell them apart; else the method."""
    address = urlsplit(target)
    query = dict(parse_qsl(address.query, keep_blank_values=True))
    has_key = bool(address.path.strip("/").partition("/")[2])
    if not has_key:
        if method == "GET" and "uploads" in query:
            return "ListMultipartUploads"
        bucket = {"GET": "ListObjects", "PUT": "CreateBucket", "HEAD": "HeadBucket", "DELETE": "DeleteBucket"}
        return bucket.get(method, "DeleteObjects" if "delete" in query else method)
    if "uploadId" in query:
        upload = {"PUT": "UploadPart", "POST": "CompleteMultipartUpload", "DELETE": "AbortMultipartUpload"}
        return upload.get(method, "ListParts")
    if "uploads" in query:
        return "CreateMultipartUpload"
    if method == "PUT" and "x-amz-copy-source" in headers:
        return "CopyObject"
    return {"GET": "GetObject", "PUT": "PutObject", "HEAD": "HeadObject", "DELETE": "DeleteObject"}.get(method, method)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """One server for all tests of a session, since moto takes seconds to start."""
    with S3Server() as server:
        yield server


@pytest.fixture
def s3(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """The server, empty but for one bucket, and this process's environment pointing to it."""
    for name in tuple(os.environ):
        if name.startswith("AWS_") or name in ("S3_ENDPOINT_URL", "TRAINKIT_S3_KMS_KEY", "TRAINKIT_S3_EXPECTED_OWNER"):
            monkeypatch.delenv(name)
    for name, value in s3_server.environ.items():
        monkeypatch.setenv(name, value)
    s3_server.clean()
    yield s3_server
    s3_server.faults.clear()
