"""Which reader serves which URL."""

from __future__ import annotations

import os

from trainkit.data.fetch.fetcher import DEADLINE, Fetcher, Name, Reader


def open_fetcher(url: str, *, deadline: float = DEADLINE, prefer: Name | None = None) -> Fetcher:
    """The fetcher for items like this one: by its protocol, or the one that is named (docs/data.md has the table)."""
    protocol = url.partition("://")[0].lower() if "://" in url else "file"
    name: Name = "local" if protocol in ("file", "local") else "http" if protocol in ("s3", "s3a") else "fsspec"
    return Fetcher(_reader(prefer or name), deadline=deadline)


def _reader(name: Name) -> Reader:
    """The clients behind them are imported only when they are needed."""
    match name:
        case "local":
            from trainkit.data.fetch.local import LocalReader

            return LocalReader()
        case "fsspec":
            from trainkit.data.fetch.other import FsspecReader

            return FsspecReader()
        case "boto3":
            from trainkit.data.fetch.boto import BotoReader

            return BotoReader(os.environ)
        case "http":
            from trainkit.data.fetch.http import HttpReader

            return HttpReader(os.environ)
