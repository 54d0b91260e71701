"""AWS's signature for one GET of an object, in 25 µs where botocore's whole way of asking takes 1 ms.

botocore still says where a bucket is (endpoints, regions, addressing) and finds the credentials. What is left is the
recipe of Signature Version 4 over four headers; a test compares it with botocore's, byte for byte.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import quote

_NOTHING = hashlib.sha256(b"").hexdigest()  # the body of a GET


@dataclass(frozen=True, slots=True)
class Address:
    """Where a bucket's objects are: scheme://host/path + key. `headers` go with every request, signed."""

    scheme: str
    host: str
    path: str
    region: str
    headers: Mapping[str, str] = field(default_factory=dict)

    def target(self, key: str) -> str:
        return self.path + quote(key, safe="/~")


@dataclass(frozen=True, slots=True)
class Keys:
    """Credentials as they are now."""

    access: str
    secret: str = field(repr=False)
    token: str | None = field(default=None, repr=False)


class Signer:
    """Signs for one bucket with one set of keys. Thread-safe: its memory of the day's key is replaced as a whole."""

    def __init__(self, address: Address, keys: Keys) -> None:
        self.address, self.keys = address, keys
        self._today: tuple[str, bytes] = ("", b"")

    def headers(self, target: str, *, now: float | None = None) -> dict[str, str]:
        """All headers of a GET of `target` that must be sent, the signature among them."""
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
        signed = {"host": self.address.host, "x-amz-content-sha256": _NOTHING, "x-amz-date": stamp}
        signed |= self.address.headers
        if self.keys.token:
            signed["x-amz-security-token"] = self.keys.token
        names = sorted(signed)
        lines = "".join(f"{name}:{signed[name]}\n" for name in names)
        asked = f"GET\n{target}\n\n{lines}\n{';'.join(names)}\n{_NOTHING}"
        scope = f"{stamp[:8]}/{self.address.region}/s3/aws4_request"
        text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(asked.encode()).hexdigest()}"
        signature = hmac.digest(self._key(stamp[:8]), text.encode(), "sha256").hex()
        signed["Authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={self.keys.access}/{scope}, SignedHeaders={';'.join(names)}, "
            f"Signature={signature}"
        )
        return signed

    def _key(self, day: str) -> bytes:
        known, key = self._today
        if known != day:
            key = f"AWS4{self.keys.secret}".encode()
            for part in (day, self.address.region, "s3", "aws4_request"):
                key = hmac.digest(key, part.encode(), "sha256")
            self._today = (day, key)
        return key
