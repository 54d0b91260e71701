"""A read-only S3 server over a directory, fast enough to be no bottleneck, and as slow and faulty as asked.

    python tests/servers/s3sim.py ROOT [--port N] [--latency-ms 20] [--bw 50] [--p503 0.05] [--pcut 0.03] [--seed N]
                                    [--certificate FILE]

    with S3Sim(root) as sim:            # in a test: threads of this process
        sim.p503 = 0.05                 # knobs turn at any time
        assert sim.stats["GetObject"] == 3

The object s3://bucket/key is the file ROOT/bucket/key. A thread serves each connection, bodies go out by sendfile, so
that neither they nor the delays hold the GIL. Answered are GetObject (Range, If-Match), HeadObject, ListObjectsV2
(prefix, delimiter, start-after, pages) and `/_stats`: the counters as JSON; `/_reset` zeroes them. Signatures are not
looked at, and nothing can be written.
"""

from __future__ import annotations

import argparse
import bisect
import hashlib
import json
import os
import random
import socket
import ssl
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from email.utils import formatdate
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qsl, quote, unquote
from xml.sax.saxutils import escape

_PIECE = 1 << 20
_NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"


class Gone(Exception):
    """The client went away, or shall be cut off."""


class Request(NamedTuple):
    method: str
    bucket: str
    key: str
    query: Mapping[str, str]
    headers: Mapping[str, str]


class S3Sim:
    """The server. `latency` is the wait in seconds before each answer, `bandwidth` bytes per second and connection,
    `p503` and `pcut` the shares of requests that are throttled and of bodies that are cut in half, `refuse` an error
    (status, code) for every request, `expired` an access key that is not good any more."""

    def __init__(self, root: Path, *, port: int = 0, seed: int = 0, certificate: Path | None = None) -> None:
        """With a `certificate` (and its key, in one PEM file) it speaks TLS, and the kernel sends no files."""
        self.latency = self.bandwidth = self.p503 = self.pcut = 0.0
        self.refuse: tuple[int, str] | None = None
        self.expired = ""
        self.stats: Counter[str] = Counter()
        self._root = root.resolve()
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) if certificate else None
        if self._tls and certificate:
            self._tls.load_cert_chain(certificate)
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._keys: dict[str, list[str]] = {}
        self._open: set[socket.socket] = set()
        self._threads: set[threading.Thread] = set()
        self._listener = socket.create_server(("127.0.0.1", port), backlog=1024)
        self.port = int(self._listener.getsockname()[1])

    def __enter__(self) -> S3Sim:
        """May be entered again after it was left: it listens on the same port."""
        if self._listener.fileno() < 0:
            self._listener = socket.create_server(("127.0.0.1", self.port), backlog=1024)
        self._acceptor = threading.Thread(target=self.serve, name="s3sim")
        self._acceptor.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # close alone would not wake accept
        self._acceptor.join()
        self._listener.close()
        with self._lock:
            still = tuple(self._open)
        for connection in still:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it ended by itself
        for thread in tuple(self._threads):
            thread.join()

    @property
    def environ(self) -> dict[str, str]:
        """What a process needs to find this server, and nothing else that calls itself S3."""
        return {
            "AWS_ENDPOINT_URL_S3": f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}",
            "AWS_ACCESS_KEY_ID": "AKIATESTTESTTESTTEST",
            "AWS_SECRET_ACCESS_KEY": "a-secret-of-the-tests",
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return  # it was shut down
            self._count("connections")
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            thread = threading.Thread(target=self._converse, args=(connection,), daemon=True)
            with self._lock:
                self._open.add(connection)
                self._threads.add(thread)
            thread.start()

    def _converse(self, connection: socket.socket) -> None:
        try:
            with connection, self._tls.wrap_socket(connection, server_side=True) if self._tls else connection as line:
                for request in _requests(line):
                    self._answer(line, request)
        except (OSError, Gone):
            pass  # clients that go away are what some tests are about
        finally:
            with self._lock:
                self._open.discard(connection)
                self._threads.discard(threading.current_thread())

    def _answer(self, connection: socket.socket, request: Request) -> None:
        if request.bucket.startswith("_"):
            content = json.dumps(self.stats).encode()
            if request.bucket == "_reset":
                self.stats.clear()
            _send(connection, request, 200, content, kind="application/json")
            return
        time.sleep(self.latency)
        self._count("requests")
        if self.refuse:
            self._error(connection, request, *self.refuse)
        elif self.expired and f"Credential={self.expired}/" in request.headers.get("authorization", ""):
            self._error(connection, request, 400, "ExpiredToken")
        elif self._strikes(self.p503):
            self._error(connection, request, 503, "SlowDown")
        elif request.method not in ("GET", "HEAD"):
            self._error(connection, request, 501, "NotImplemented")
        elif request.key:
            self._object(connection, request)
        else:
            self._list(connection, request)

    def _object(self, connection: socket.socket, request: Request) -> None:
        path = self._root / request.bucket / request.key
        try:
            file = path.open("rb")
        except OSError:
            self._error(connection, request, 404, "NoSuchKey")
            return
        with file:
            facts = os.fstat(file.fileno())
            start, stop = _range(request.headers.get("range", ""), facts.st_size)
            if request.headers.get("if-match", _etag(facts)).strip('"') != _etag(facts).strip('"'):
                self._error(connection, request, 412, "PreconditionFailed")
                return
            if start >= stop and facts.st_size:
                self._error(connection, request, 416, "InvalidRange")
                return
            partial = "range" in request.headers
            extra = f"Content-Range: bytes {start}-{stop - 1}/{facts.st_size}\r\n" if partial else ""
            date = formatdate(facts.st_mtime, usegmt=True)
            extra += f"ETag: {_etag(facts)}\r\nLast-Modified: {date}\r\nAccept-Ranges: bytes\r\n"
            connection.sendall(_head(206 if partial else 200, stop - start, extra))
            self._count("GetObject" if request.method == "GET" else "HeadObject")
            if request.method == "HEAD":
                return
            cut = self._strikes(self.pcut)
            self._body(connection, file.fileno(), start, start + (stop - start) // 2 if cut else stop)
            if cut:
                self._count("cut")
                raise Gone

    def _body(self, connection: socket.socket, file: int, start: int, stop: int) -> None:
        offset = start
        while offset < stop:
            size = min(stop - offset, _PIECE)
            if isinstance(connection, ssl.SSLSocket):
                connection.sendall(os.pread(file, size, offset))
                sent = size
            elif not (sent := os.sendfile(connection.fileno(), file, offset, size)):
                raise Gone
            offset += sent
            if self.bandwidth:
                time.sleep(sent / self.bandwidth)
        self._count("bytes", stop - start)

    def _list(self, connection: socket.socket, request: Request) -> None:
        if not (self._root / request.bucket).is_dir():
            self._error(connection, request, 404, "NoSuchBucket")
            return
        self._count("ListObjectsV2")
        query = request.query
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        after = query.get("continuation-token", "")
        if not after:  # a new listing sees what is there now
            self._keys[request.bucket] = self._walk(request.bucket)
        keys, folders, last = self._page(request, after or query.get("start-after", ""), prefix, delimiter)
        spell = quote if query.get("encoding-type") == "url" else escape
        content = [f'<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="{_NAMESPACE}">']
        content += [f"<IsTruncated>{'true' if last else 'false'}</IsTruncated>"]
        content += ["<EncodingType>url</EncodingType>"] if "encoding-type" in query else []
        content += [f"<NextContinuationToken>{escape(last)}</NextContinuationToken>"] if last else []
        for key in keys:
            facts = (self._root / request.bucket / key).stat()
            stamp = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(facts.st_mtime))
            content.append(f"<Contents><Key>{spell(key)}</Key><LastModified>{stamp}</LastModified>")
            content.append(f"<ETag>{escape(_etag(facts))}</ETag><Size>{facts.st_size}</Size></Contents>")
        content += [f"<CommonPrefixes><Prefix>{spell(folder)}</Prefix></CommonPrefixes>" for folder in folders]
        _send(connection, request, 200, "".join([*content, "</ListBucketResult>"]).encode())

    def _page(self, request: Request, after: str, prefix: str, delimiter: str) -> tuple[list[str], list[str], str]:
        """The next keys and folders (common prefixes), and where the page after them begins, if there is one."""
        known = self._keys[request.bucket]
        most = int(request.query.get("max-keys", 1000))
        keys: list[str] = []
        folders: list[str] = []
        last = ""
        for key in known[bisect.bisect_right(known, after) if after else bisect.bisect_left(known, prefix) :]:
            if not key.startswith(prefix):
                if key > prefix:
                    break
                continue
            inner, mark, _ = key[len(prefix) :].partition(delimiter) if delimiter else (key, "", "")
            if mark and folders[-1:] == [prefix + inner + mark]:
                last = key
                continue
            if len(keys) + len(folders) == most:
                return keys, folders, last
            (folders if mark else keys).append(prefix + inner + mark if mark else key)
            last = key
        return keys, folders, ""

    def _walk(self, bucket: str) -> list[str]:
        top = self._root / bucket
        found = (Path(folder, name) for folder, _, names in os.walk(top) for name in names)
        return sorted(path.relative_to(top).as_posix() for path in found)

    def _error(self, connection: socket.socket, request: Request, status: int, code: str) -> None:
        self._count(code)
        content = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>as it was wished</Message></Error>"
        _send(connection, request, status, content.encode())

    def _strikes(self, share: float) -> bool:
        with self._lock:
            return share > 0 and self._random.random() < share

    def _count(self, what: str, by: int = 1) -> None:
        with self._lock:
            self.stats[what] += by


def _requests(connection: socket.socket) -> Iterator[Request]:
    """The requests on one connection, until it ends. None of those that are answered here has a body."""
    received = b""
    while True:
        while b"\r\n\r\n" not in received:
            more = connection.recv(65536)
            if not more:
                return
            received += more
        head, _, received = received.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        method, target, _ = first.split(" ")
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        path, _, query = target.partition("?")
        path = path[path.index("/", 8) :] if path.startswith("http://") else path  # as proxies are asked
        bucket, _, key = path.lstrip("/").partition("/")
        yield Request(method, bucket, unquote(key), dict(parse_qsl(query, keep_blank_values=True)), headers)


def _send(connection: socket.socket, request: Request, status: int, content: bytes, *, kind: str = "") -> None:
    head = _head(status, len(content), f"Content-Type: {kind or 'application/xml'}\r\n")
    connection.sendall(head if request.method == "HEAD" else head + content)


def _head(status: int, length: int, extra: str) -> bytes:
    now = formatdate(usegmt=True)
    head = f"HTTP/1.1 {status} .\r\nContent-Length: {length}\r\nDate: {now}\r\nServer: s3sim\r\nx-amz-request-id: 1\r\n"
    return f"{head}{extra}\r\n".encode("latin-1")


def _range(text: str, size: int) -> tuple[int, int]:
    """`bytes=a-b`, `bytes=a-` or `bytes=-n` as start and end (exclusive); everything where there is none."""
    first, _, last = text.removeprefix("bytes=").partition("-")
    if first:
        return int(first), min(int(last) + 1, size) if last else size
    return (max(0, size - int(last)) if last else 0), size


def _etag(facts: os.stat_result) -> str:
    known = f"{facts.st_mtime_ns} {facts.st_size} {facts.st_ino}"
    return f'"{hashlib.md5(known.encode(), usedforsecurity=False).hexdigest()}"'


def main() -> None:
    parser = argparse.ArgumentParser(description="A read-only S3 server over a directory; prints its port.")
    parser.add_argument("root", type=Path, help="folder of buckets")
    parser.add_argument("--port", type=int, default=0, help="default: any that is free")
    parser.add_argument("--latency-ms", type=float, default=0, help="wait before each answer")
    parser.add_argument("--bw", type=float, default=0, help="MB/s of one connection; default: no limit")
    parser.add_argument("--p503", type=float, default=0, help="share of requests that are answered SlowDown")
    parser.add_argument("--pcut", type=float, default=0, help="share of bodies that end in the middle")
    parser.add_argument("--seed", type=int, default=0, help="of the two shares")
    parser.add_argument("--certificate", type=Path, help="speak TLS with it; a PEM file with its key")
    asked = parser.parse_args()
    sim = S3Sim(asked.root, port=asked.port, seed=asked.seed, certificate=asked.certificate)
    sim.latency, sim.bandwidth, sim.p503, sim.pcut = asked.latency_ms / 1e3, asked.bw * 1e6, asked.p503, asked.pcut
    print(sim.port, flush=True)
    try:
        sim.serve()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
