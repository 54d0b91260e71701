"""s3:// with a plain HTTP connection and the body read straight into the buffer.

    bucket, once     botocore: where is it, which region, whose credentials     ─▶ Signer
    each range       signed GET, Range, If-Match on a connection kept alive     ─▶ recv into the buffer

boto3's GetObject takes 1 ms of Python for each request, a second per GB at blocks of 1 MiB; this takes a tenth.
What it does not speak goes through boto3 after all: a proxy, S3 Express, access points over regions (SigV4A).
"""

from __future__ import annotations

import http.client
import os
import re
import ssl
import threading
from collections import deque
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs, urlsplit
from xml.sax.saxutils import unescape

import boto3
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError
from botocore.httpsession import get_cert_path
from botocore.utils import get_environ_proxies

from trainkit.data.fetch.boto import BotoReader
from trainkit.data.fetch.fetcher import Name, Passing
from trainkit.data.fetch.line import Answer, Line
from trainkit.data.fetch.signing import Address, Keys, Signer
from trainkit.data.items import Item
from trainkit.storage.answers import STALE, explain
from trainkit.storage.s3 import S3Store, client_of, split
from trainkit.storage.store import failure

_PASSING = ("SlowDown", "InternalError", "RequestTimeout", "ServiceUnavailable", "OperationAborted")


class HttpReader:
    name: Name = "http"

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = dict(environ)
        self._home = _Home(self._environ)

    def fill(self, item: Item, start: int, view: memoryview, *, timeout: float) -> int:
        home = self._home
        if home.process != os.getpid():  # what came through a fork shares its sockets with the parent
            home.close()
            home = self._home = _Home(self._environ)
        bucket, key = split(item.url)
        signer = home.signer(item.url, bucket)
        if signer is None:
            return home.instead.fill(item, start, view, timeout=timeout)
        line, old = home.connection(signer.address)
        try:
            came, reusable = _ask(line, signer, key, item, start, view, timeout=timeout)
        except _Refused as refused:
            line.close()
            raise home.judge(refused, item, f"read {len(view)} bytes from {start}", signer) from None
        except ssl.SSLCertVerificationError as error:
            line.close()
            remedy = "Set AWS_CA_BUNDLE to the certificates that are to be trusted, if this is the right endpoint"
            raise failure(item.url, "trust its server", error.verify_message, remedy) from error
        except (OSError, http.client.HTTPException) as error:
            line.close()
            raise Passing(f"{type(error).__name__}: {error}", at_once=old) from error
        except BaseException:
            line.close()
            raise
        if reusable:
            home.keep(signer.address, line)
        else:
            line.close()
        return came

    def close(self) -> None:
        self._home.close()


class _Refused(Exception):
    """The service's answer where it is no part of an object."""

    def __init__(self, status: int, content: str) -> None:
        super().__init__(status)
        found = {name: unescape(text) for name, text in re.findall(r"<(Code|Message)>(.*?)</\1>", content, re.DOTALL)}
        self.status = status
        self.code = found.get("Code", str(status))
        self.message = found.get("Message", "")


def _ask(
    line: Line, signer: Signer, key: str, item: Item, start: int, view: memoryview, *, timeout: float
) -> tuple[int, bool]:
    """One request. How many bytes came, and whether the connection can take another."""
    target = signer.address.target(key)
    headers = signer.headers(target)
    headers["User-Agent"] = "trainkit"
    headers["Range"] = f"bytes={start}-{start + len(view) - 1}"
    if item.etag:
        headers["If-Match"] = item.etag
    answer = line.ask(target, headers, timeout=timeout)
    whole = answer.status == 200 and start == 0 and answer.length == len(view)
    if not isinstance(answer, Answer) or not (answer.status == 206 or whole):
        content = answer.begun if isinstance(answer, Answer) else answer.read(100_000)
        raise _Refused(answer.status, content.decode(errors="replace"))
    if answer.length != len(view):
        raise failure(
            item.url, f"read {len(view)} bytes from {start}", f"it ends after {answer.length} of them",
            "It was replaced by a shorter one, or written incompletely: compare its size with the writer's",
        )  # fmt: skip
    filled = line.read(answer, view)
    return filled, filled == len(view) and answer.stays


class _Home:
    """What one process has: connections, buckets' addresses, credentials."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.process = os.getpid()
        self.instead = BotoReader(environ)
        self._store = S3Store.of(environ)
        self._lock = threading.Lock()
        self._closed = False
        self._addresses: dict[str, Address | None] = {}
        self._signers: dict[str, Signer | None] = {}
        self._idle: dict[tuple[str, str], deque[Line]] = {}
        self._credentials = boto3.session.Session(region_name=self._store.region).get_credentials()
        self._certificates = environ.get("AWS_CA_BUNDLE")
        self._trust: ssl.SSLContext | None = None

    def signer(self, url: str, bucket: str) -> Signer | None:
        """Who signs for this bucket; None where this protocol is not spoken."""
        try:
            keys = self._keys()
        except (BotoCoreError, OSError) as error:
            raise explain(url, "find credentials", error, endpoint=None) from error
        if bucket in self._signers:
            known = self._signers[bucket]
            if known is None or known.keys == keys:
                return known
        with self._lock:
            if bucket not in self._addresses:
                self._addresses[bucket] = self._address(url, bucket)
            address = self._addresses[bucket]
            made = self._signers[bucket] = Signer(address, keys) if address else None
        return made

    def connection(self, address: Address) -> tuple[Line, bool]:
        """A connection, and whether it was used before: the service may have closed such a one meanwhile."""
        try:
            return self._idle[address.scheme, address.host].pop(), True
        except (KeyError, IndexError):
            pass
        return Line(address, self._trusted() if address.scheme == "https" else None), False

    def _trusted(self) -> ssl.SSLContext:
        """Reading the certificates takes 20 ms: not before there is a server to trust."""
        with self._lock:
            if self._trust is None:
                self._trust = ssl.create_default_context(cafile=self._certificates or get_cert_path(True))
        return self._trust

    def keep(self, address: Address, line: Line) -> None:
        if self._closed:
            line.close()
        else:
            self._idle.setdefault((address.scheme, address.host), deque()).append(line)

    def judge(self, refused: _Refused, item: Item, doing: str, signer: Signer) -> Exception:
        """What to do about a refusal: Passing, or the error for people."""
        if refused.status >= 500 or refused.status == 429 or refused.code in _PASSING:
            return Passing(f"{refused.code} ({refused.status}): {refused.message}")
        if refused.code in STALE and self._renewed(signer.keys):
            return Passing(refused.code, at_once=True)
        if refused.status == 200:
            problem, remedy = "the service sends whole objects only", "Read it with another fetcher, or another service"
            return failure(item.url, doing, problem, remedy)
        if refused.status == 412:
            return failure(
                item.url, doing, f"it is not the version any more that was listed ({item.etag})",
                "It was replaced while it was trained on: write new data under new names, and start again",
            )  # fmt: skip
        said = ClientError({"Error": {"Code": refused.code, "Message": refused.message}}, "GetObject")
        return explain(item.url, doing, said, endpoint=self._store.endpoint)

    def close(self) -> None:
        self._closed = True
        for lines in self._idle.values():
            while lines:
                lines.pop().close()

    def _keys(self) -> Keys:
        if self._credentials is None:
            raise NoCredentialsError
        now = self._credentials.get_frozen_credentials()  # refreshed where they say when they expire
        if not (now.access_key and now.secret_key):
            raise NoCredentialsError
        return Keys(now.access_key, now.secret_key, now.token)

    def _renewed(self, used: Keys) -> bool:
        """Keys in a file or the environment do not say when they expire: read them again. Whether others are there."""
        with self._lock:
            try:
                if self._keys() == used:
                    self._credentials = boto3.session.Session(region_name=self._store.region).get_credentials()
                return self._keys() != used
            except (BotoCoreError, OSError):
                return False

    def _address(self, url: str, bucket: str) -> Address | None:
        """Where botocore would go for an object of this bucket; None where it would do more than sign plainly."""
        client = client_of(self._store)
        # In old regions botocore would sign URLs in the way of 2006, which says nothing of the region.
        client.meta.events.register_first("choose-signer.s3.GetObject", _as_requests, unique_id="trainkit-v4")
        owner = {"ExpectedBucketOwner": self._store.owner} if self._store.owner else {}
        try:
            signed = client.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "k", **owner})
        except (BotoCoreError, ValueError) as error:
            raise explain(url, "find its bucket's address", error, endpoint=self._store.endpoint) from error
        parts, query = urlsplit(signed), parse_qs(urlsplit(signed).query)
        proxy = get_environ_proxies(signed).get(parts.scheme)
        plain = query.get("X-Amz-Algorithm") == ["AWS4-HMAC-SHA256"] and "X-Amz-S3session-Token" not in query
        if proxy or not plain or not parts.path.endswith("/k"):
            return None
        region = query["X-Amz-Credential"][0].split("/")[2]
        headers = {"x-amz-expected-bucket-owner": self._store.owner} if self._store.owner else {}
        return Address(parts.scheme, parts.netloc, parts.path.removesuffix("k"), region, headers)


def _as_requests(signature_version: str, **_: object) -> Any:
    """Sign a URL as a request would be signed."""
    return signature_version if signature_version.endswith("-query") else None
