"""What all tests share."""

from __future__ import annotations

from servers.s3 import s3, s3_server

__all__ = ["s3", "s3_server"]
