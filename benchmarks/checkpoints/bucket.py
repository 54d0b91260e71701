"""An S3 server that takes writes at the speed of memory: threads of the process that makes it.

It has what ours and the peers ask for: PutObject (If-None-Match), multipart uploads, GetObject with Range, HeadObject,
CopyObject, DeleteObject and ListObjectsV2. `counts` has how many of each came, and their bytes. Objects live in memory;
signatures are not looked at, and checksums are taken as they are told.
"""

from __future__ import annotations

import re
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

_NAMESPACE = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'


class Bucket(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.objects: dict[str, bytes] = {}
        self.uploads: dict[str, dict[int, bytes]] = {}
        self.counts: Counter[str] = Counter()
        self.lock = threading.Lock()


class Handler(BaseHTTPRequestHandler):
    server: Bucket
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 1 << 16

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except ConnectionError:
            self.close_connection = True

    def log_message(self, *_: object) -> None: ...

    def handle_expect_100(self) -> bool:
        well = super().handle_expect_100()
        self.wfile.flush()  # boto3 waits a second for it
        return well

    def do_GET(self) -> None:
        path, query = self._asked()
        if "list-type" in query or "/" not in path.strip("/"):
            return self._list(path.strip("/"), query)
        self._count("GetObject")
        if (content := self.server.objects.get(path)) is None:
            return self._error(404, "NoSuchKey")
        if found := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, end = int(found[1]), min(int(found[2] or len(content)), len(content) - 1)
            self.server.counts["bytes out"] += end + 1 - start
            span = {"Content-Range": f"bytes {start}-{end}/{len(content)}"}
            return self._answer(206, memoryview(content)[start : end + 1], **span, ETag='"e"')
        self.server.counts["bytes out"] += len(content)
        return self._answer(200, content, ETag='"e"')

    def do_HEAD(self) -> None:
        path, _ = self._asked()
        self._count("HeadObject")
        content = self.server.objects.get(path)
        self._answer(404 if content is None else 200, content or b"", ETag='"e"')

    def do_PUT(self) -> None:
        path, query = self._asked()
        body = self._body()
        self.server.counts["bytes in"] += len(body)
        if "partNumber" in query:
            self._count("UploadPart")
            self.server.uploads[query["uploadId"]][int(query["partNumber"])] = body
            return self._answer(200, ETag='"e"')
        source = self.headers.get("x-amz-copy-source")
        if source:
            self._count("CopyObject")
            body = self.server.objects["/" + unquote(source).lstrip("/")]
        else:
            self._count("PutObject")
        if not self._put(path, body):
            return self._error(412, "PreconditionFailed")
        result = f"<CopyObjectResult {_NAMESPACE}><ETag>&quot;e&quot;</ETag></CopyObjectResult>" if source else ""
        return self._answer(200, result.encode(), ETag='"e"')

    def do_POST(self) -> None:
        path, query = self._asked()
        self._body()
        if "uploads" in query:
            self._count("CreateMultipartUpload")
            with self.server.lock:
                upload = f"upload-{self.server.counts['CreateMultipartUpload']}-{len(self.server.uploads)}"
                self.server.uploads[upload] = {}
            _, bucket, key = path.split("/", 2)
            text = f"<Bucket>{bucket}</Bucket><Key>{escape(key)}</Key><UploadId>{upload}</UploadId>"
            return self._xml("InitiateMultipartUploadResult", text)
        self._count("CompleteMultipartUpload")
        parts = self.server.uploads[query["uploadId"]]
        if not self._put(path, b"".join(parts[number] for number in sorted(parts))):
            return self._error(412, "PreconditionFailed")
        parts.clear()
        return self._xml("CompleteMultipartUploadResult", "<ETag>&quot;e&quot;</ETag>")

    def do_DELETE(self) -> None:
        path, query = self._asked()
        self._count("AbortMultipartUpload" if "uploadId" in query else "DeleteObject")
        if "uploadId" not in query:
            self.server.objects.pop(path, None)
        self._answer(204)

    def _list(self, bucket: str, query: dict[str, str]) -> None:
        self._count("ListObjectsV2")
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        contents, folders = [], set()
        for path, content in sorted(self.server.objects.items()):
            key = path.removeprefix(f"/{bucket}/")
            if path != key and key.startswith(prefix):
                head, cut, _ = key[len(prefix) :].partition(delimiter) if delimiter else ("", "", "")
                if cut:
                    folders.add(prefix + head + cut)
                else:
                    contents.append(f"<Contents><Key>{escape(key)}</Key><LastModified>2026-11-22T00:00:00.000Z</LastModified>"
                                    f"<ETag>&quot;e&quot;</ETag><Size>{len(content)}</Size></Contents>")  # fmt: skip
        common = [f"<CommonPrefixes><Prefix>{escape(one)}</Prefix></CommonPrefixes>" for one in sorted(folders)]
        count = f"<KeyCount>{len(contents) + len(common)}</KeyCount><IsTruncated>false</IsTruncated>"
        self._xml(
            "ListBucketResult",
            f"<Name>{bucket}</Name><Prefix>{escape(prefix)}</Prefix>{count}" + "".join(contents + common),
        )

    def _put(self, path: str, body: bytes) -> bool:
        with self.server.lock:
            if self.headers.get("If-None-Match") == "*" and path in self.server.objects:
                return False
            self.server.objects[path] = body
            return True

    def _asked(self) -> tuple[str, dict[str, str]]:
        split = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(split.query, keep_blank_values=True).items()}
        return unquote(split.path), query

    def _body(self) -> bytes:
        chunked = "aws-chunked" in self.headers.get("Content-Encoding", "")
        if self.headers.get("Transfer-Encoding") == "chunked":
            pieces = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                pieces.append(self.rfile.read(size))
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
            body = b"".join(pieces)
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        return _without_frames(body) if chunked else body

    def _count(self, what: str) -> None:
        with self.server.lock:
            self.server.counts[what] += 1

    def _xml(self, name: str, inside: str) -> None:
        self._answer(200, f'<?xml version="1.0"?><{name} {_NAMESPACE}>{inside}</{name}>'.encode())

    def _error(self, status: int, code: str) -> None:
        self._answer(status, f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode())

    def _answer(self, status: int, body: bytes | memoryview = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        self.wfile.flush()


def _without_frames(body: bytes) -> bytes:
    """The content of a body in chunks with signatures or a checksum behind them."""
    pieces, at = [], 0
    while at < len(body):
        end = body.index(b"\r\n", at)
        size = int(body[at:end].split(b";")[0], 16)
        if not size:
            break
        pieces.append(body[end + 2 : end + 2 + size])
        at = end + 2 + size + 2
    return b"".join(pieces)
