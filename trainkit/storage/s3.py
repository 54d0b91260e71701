"""s3:// through boto3 (docs/decisions/0003-storage.md says why not s3fs).

    put         PutObject, If-None-Match: *
    put_stream  CreateMultipartUpload ─ UploadPart, four at a time ─ CompleteMultipartUpload, If-None-Match: *
                └ at any error, after the parts under way have ended: AbortMultipartUpload
    read        GetObject ─ cut? ─ GetObject from the byte where it was cut, If-Match: the same version

botocore retries what fails before a body begins: throttling, 5xx, connections refused, reset or silent. It does not
retry bodies, so `read` does. A retried conditional write can meet the object that its own first try has made (the
answer was lost, not the request); a mark in the object's metadata tells it from someone else's.
"""

from __future__ import annotations

import os
import random
import secrets
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    HTTPClientError,
    IncompleteReadError,
)

from trainkit.errors import StorageError
from trainkit.storage.answers import STALE, Answer, explain
from trainkit.storage.store import CHUNK, Data, Entry, ObjectMissing, exists, failure, folder

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

ATTEMPTS = 6  # per request; with botocore's backoff half a minute at most, on top of what the requests take
PART = 8 << 20  # bytes; see _part_size
_AT_ONCE = 4  # parts of one upload on their way
_PROGRESS = 8 << 20  # bytes between two cuts of a body that make them two events, and not a broken line
_MARK = "trainkit-writer"
_TAKES_KEY = ("put_object", "create_multipart_upload")

_clients: dict[tuple[int, S3Store], S3Client] = {}
_locks: dict[int, threading.Lock] = {}


@dataclass(frozen=True, slots=True)
class S3Store:
    """How this process talks to S3. Credentials are not part of it: boto3's provider chain finds and refreshes them."""

    endpoint: str | None = None
    region: str | None = None
    kms_key: str | None = None
    owner: str | None = None
    attempts: int = ATTEMPTS

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> S3Store:
        """From the variables that AWS's own tools read, S3_ENDPOINT_URL (SageMaker's local mode), and two of ours."""

        def first(*names: str) -> str | None:
            return next((environ[name] for name in names if environ.get(name)), None)

        attempts = environ.get("AWS_MAX_ATTEMPTS", "")
        return cls(
            endpoint=first("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "S3_ENDPOINT_URL"),
            region=first("AWS_REGION", "AWS_DEFAULT_REGION"),
            kms_key=first("TRAINKIT_S3_KMS_KEY"),
            owner=first("TRAINKIT_S3_EXPECTED_OWNER"),
            attempts=int(attempts) if attempts.isdecimal() and int(attempts) > 0 else ATTEMPTS,
        )

    def read(self, url: str, *, start: int = 0, length: int | None = None, etag: str | None = None) -> Iterator[bytes]:
        offset, end, cuts, last_cut = start, None if length is None else start + length, 0, start
        while end is None or offset < end:
            wanted = {"Range": f"bytes={offset}-{'' if end is None else end - 1}"} if offset or end is not None else {}
            same = {"IfMatch": etag} if etag else {}
            answer = self.request("get_object", url, "read it", **wanted, **same)
            etag = answer["ETag"]
            end = offset + answer["ContentLength"]
            try:
                with closing(answer["Body"]) as body:
                    for chunk in body.iter_chunks(CHUNK):
                        yield chunk
                        offset += len(chunk)
                return
            except (HTTPClientError, IncompleteReadError, ConnectionError, TimeoutError) as error:
                cuts = cuts + 1 if offset - last_cut < _PROGRESS else 1
                last_cut = offset
                if cuts >= self.attempts:
                    raise explain(url, f"read it beyond byte {offset}", error, endpoint=self.endpoint) from error
                time.sleep(min(2**cuts / 20, 5) * random.random())
            except BotoCoreError as error:  # a checksum that does not match what was read
                raise explain(url, "read it", error, endpoint=self.endpoint) from error

    def put(self, url: str, data: Data, *, replace: bool) -> Entry:
        body = data if isinstance(data, bytes | bytearray) else bytes(data)
        mark = secrets.token_hex(8)
        condition = {} if replace else {"IfNoneMatch": "*"}
        write: dict[str, Any] = {"Body": body, "Metadata": {_MARK: mark}, **condition}
        for again in (True, True, False):
            try:
                return Entry(url, len(body), self.request("put_object", url, "write it", **write)["ETag"])
            except Answer as answer:
                # Two writers at the same moment: S3 may ask one of them to come back instead of refusing it.
                if answer.code != "ConditionalRequestConflict" or not again:
                    return self._settle(url, answer, mark=mark, size=len(body))
        raise AssertionError("the last round returns or raises")

    def put_stream(self, url: str, chunks: Iterable[Data], *, replace: bool) -> Entry:
        spare: deque[bytearray] = deque()
        parts = _parts(chunks, spare)
        first = next(parts)
        if len(first) < PART:
            return self.put(url, first, replace=replace)
        mark = secrets.token_hex(8)
        upload = self.request("create_multipart_upload", url, "begin writing it", Metadata={_MARK: mark})["UploadId"]
        try:
            done, size = self._upload(url, upload, first, parts, spare)
            condition = {} if replace else {"IfNoneMatch": "*"}
            try:
                answer = self.request(
                    "complete_multipart_upload", url, "write it",
                    UploadId=upload, MultipartUpload={"Parts": done}, **condition,
                )  # fmt: skip
            except Answer as refusal:
                return self._settle(url, refusal, mark=mark, size=size)
            return Entry(url, size, answer["ETag"])
        except BaseException as error:  # whatever ends this, SystemExit too: open uploads are paid for, and unseen
            self._abort(url, upload, error)
            raise

    def list(self, url: str) -> Iterator[Entry]:
        prefix = split(folder(url))[1]
        page: dict[str, Any] = {}
        while True:
            page = self.request("list_objects_v2", url, "list it", key=None, Prefix=prefix, **page)
            for found in page.get("Contents", ()):
                if not found["Key"].endswith("/"):  # what the console makes of an empty folder
                    rest = found["Key"].removeprefix(prefix)
                    yield Entry(folder(url) + rest, found["Size"], found["ETag"])
            if not page.get("IsTruncated"):
                return
            page = {"ContinuationToken": page["NextContinuationToken"]}

    def beside(self, url: str) -> Iterator[str]:
        """What stands in the same folder and begins with the name of `url`, itself included: folders end in a slash."""
        bucket, prefix = split(url.rstrip("/"))
        page = self.request("list_objects_v2", url, "list what is beside it", key=None, Prefix=prefix, Delimiter="/")
        for found in (*page.get("CommonPrefixes", ()), *page.get("Contents", ())):
            yield f"s3://{bucket}/{found.get('Prefix') or found.get('Key')}"

    def head(self, url: str) -> Entry | None:
        try:
            answer = self.request("head_object", url, "look at it")
        except ObjectMissing:
            # A HEAD has no body to say whether it is the object that is missing, or its bucket.
            self.request("list_objects_v2", url, "look at its bucket", key=None, MaxKeys=1)
            return None
        return Entry(url, answer["ContentLength"], answer["ETag"])

    def delete(self, url: str) -> None:
        self.request("delete_object", url, "delete it")

    def uploads(self, url: str) -> Iterator[tuple[str, str]]:
        """The uploads in a folder and below that were begun and neither ended nor aborted: URL and id of each."""
        bucket, prefix = split(folder(url))
        page: dict[str, Any] = {}
        while True:
            page = self.request(
                "list_multipart_uploads", url, "list what is being written", key=None, Prefix=prefix, **page
            )
            for found in page.get("Uploads", ()):
                yield f"s3://{bucket}/{found['Key']}", found["UploadId"]
            if not page.get("IsTruncated"):
                return
            page = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}

    def abort_upload(self, url: str, upload: str) -> None:
        """End it, and free what it holds; that it is gone already is no error."""
        try:
            self.request("abort_multipart_upload", url, "abort writing it", UploadId=upload)
        except Answer as answer:
            if answer.code != "NoSuchUpload":
                raise

    def _upload(
        self, url: str, upload: str, first: bytearray, rest: Iterator[bytearray], spare: deque[bytearray]
    ) -> tuple[Sequence[Any], int]:
        """Send the parts; what CompleteMultipartUpload wants to hear of them, and their size together.

        A part that was sent is `spare`.
        """
        done: list[dict[str, Any]] = []
        size = 0

        def send(number: int, part: bytearray) -> dict[str, Any]:
            doing = f"write part {number} of it"
            answer = self.request("upload_part", url, doing, UploadId=upload, PartNumber=number, Body=part)
            spare.append(part)
            sums = {
                name: value for name, value in answer.items() if name.startswith("Checksum") and name[8:9].isupper()
            }
            return {"PartNumber": number, "ETag": answer["ETag"], **sums}

        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="upload") as pool:
            running: set[Future[dict[str, Any]]] = set()
            part: bytearray | None = first
            while part is not None:
                size += len(part)
                running.add(pool.submit(send, len(done) + len(running) + 1, part))
                if len(running) == _AT_ONCE:  # this bounds the memory to five parts
                    ended, running = wait(running, return_when=FIRST_COMPLETED)
                    done += [future.result() for future in ended]
                part = next(rest, None)
            done += [future.result() for future in running]
        return sorted(done, key=lambda part: part["PartNumber"]), size

    def _abort(self, url: str, upload: str, error: BaseException) -> None:
        try:
            self.abort_upload(url, upload)
        except StorageError as refusal:
            error.add_note(f"An unfinished upload is left ({refusal}) A lifecycle rule of the bucket can delete it.")

    def _settle(self, url: str, answer: Answer, *, mark: str, size: int) -> Entry:
        """After a write was refused: it may have been done already, by a first try whose answer was lost."""
        if answer.code not in ("PreconditionFailed", "NoSuchUpload"):
            raise answer
        if answer.retries:
            found = self.request("head_object", url, "look whether it was written")
            if found.get("Metadata", {}).get(_MARK) == mark:
                return Entry(url, size, found["ETag"])
        raise exists(url) if answer.code == "PreconditionFailed" else answer

    def request(
        self, operation: str, url: str, doing: str, *, key: str | None = "", **arguments: Any
    ) -> dict[str, Any]:
        """One request, retried by botocore. Raises Answer where the service refused, StorageError where none came."""
        bucket, name = split(url)
        arguments["Bucket"] = bucket
        if key is not None:
            if not name:
                raise failure(url, doing, "it names a bucket, and no object in it", "Write s3://bucket/key")
            arguments["Key"] = name
        if self.owner:
            arguments["ExpectedBucketOwner"] = self.owner
        if self.kms_key and operation in _TAKES_KEY:
            arguments |= {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": self.kms_key}
        for fresh in (False, True):
            client = client_of(self)
            try:
                answer: dict[str, Any] = getattr(client, operation)(**arguments)
                return answer
            except ClientError as error:
                # boto3 refreshes what says when it expires. Keys in a file or the environment do not say: read again.
                if fresh or error.response.get("Error", {}).get("Code") not in STALE:
                    raise explain(url, doing, error, endpoint=self.endpoint) from error
                _forget(self, client)
            except (BotoCoreError, ConnectionError, TimeoutError) as error:
                raise explain(url, doing, error, endpoint=self.endpoint) from error
        raise AssertionError("the second round returns or raises")


def client_of(store: S3Store) -> S3Client:
    """This process's client: one that came through a fork shares sockets with the parent, so it is never used."""
    mine = (os.getpid(), store)
    # A lock for each process, since a fork copies a held lock, and nobody is there to release it.
    with _locks.setdefault(mine[0], threading.Lock()):
        if mine not in _clients:
            _clients[mine] = _connect(store)
        return _clients[mine]


def _forget(store: S3Store, client: S3Client) -> None:
    mine = (os.getpid(), store)
    with _locks.setdefault(mine[0], threading.Lock()):
        if _clients.get(mine) is client:  # another thread may have been faster
            del _clients[mine]


def _connect(store: S3Store) -> S3Client:
    config = Config(
        retries={"mode": "standard", "total_max_attempts": store.attempts},
        connect_timeout=5,
        read_timeout=60,
        tcp_keepalive=True,
        max_pool_connections=64,
        # What answers at a given endpoint (MinIO, moto, a VPC endpoint) seldom has a name for every bucket.
        s3={"addressing_style": "path"} if store.endpoint else None,
        user_agent_extra="trainkit",
    )
    # A session of its own: boto3's default one is the user's, and not made for threads.
    session = boto3.session.Session(region_name=store.region)
    return session.client("s3", endpoint_url=store.endpoint, config=config)


def split(url: str) -> tuple[str, str]:
    """Bucket and key of s3://bucket/key. Raises StorageError where there is no bucket."""
    bucket, _, key = url.partition("://")[2].partition("/")
    if not bucket:
        raise failure(url, "use it", "it names no bucket", "Write s3://bucket/key")
    return bucket, key


def _part_size(number: int) -> int:
    """S3 takes 10,000 parts and 5 TiB: doubling every thousand parts reaches both, and begins small."""
    return PART << (number // 1000)


def _parts(chunks: Iterable[Data], spare: deque[bytearray]) -> Iterator[bytearray]:
    """The same bytes in parts of full size, except the last; at least one part. Those that are `spare` are used again.

    Memory that is new to the process costs the kernel several times what the copy costs.
    """
    number, part, filled = 0, bytearray(PART), 0
    for chunk in chunks:
        view = memoryview(chunk).cast("B")
        while view:
            if filled == len(part):
                yield part
                number, filled = number + 1, 0
                part = spare.pop() if spare else bytearray(_part_size(number))
                if len(part) != _part_size(number):
                    part = bytearray(_part_size(number))
            taken = view[: len(part) - filled]
            part[filled : filled + len(taken)] = taken
            filled, view = filled + len(taken), view[len(taken) :]
    del part[filled:]
    yield part
