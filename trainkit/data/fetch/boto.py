"""s3:// through the S3 client of `storage`, as it is: its own retries, its own errors.

A stream takes twice the CPU that it takes with `http` (docs/benchmarks.md). It is for what that one does not speak:
proxies, S3 Express, SigV4A.
"""

from __future__ import annotations

from collections.abc import Mapping

from trainkit.data.fetch.fetcher import Name
from trainkit.data.items import Item
from trainkit.storage.s3 import S3Store
from trainkit.storage.store import failure


class BotoReader:
    name: Name = "boto3"

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._store = S3Store.of(environ)

    def fill(self, item: Item, start: int, view: memoryview, *, timeout: float) -> int:
        filled = 0
        for chunk in self._store.read(item.url, start=start, length=len(view), etag=item.etag):
            view[filled : filled + len(chunk)] = chunk
            filled += len(chunk)
        if filled < len(view):
            raise failure(
                item.url, f"read {len(view)} bytes from {start}", f"it ends after {filled} of them",
                "It was replaced by a shorter one: leave data alone while it is trained on, and start again",
            )  # fmt: skip
        return filled

    def close(self) -> None:
        pass  # the client is storage's
