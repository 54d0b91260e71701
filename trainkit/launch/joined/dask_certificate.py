"""joined/dask_certificate.py SECRET PEM: the job's one certificate, with its key, into the file PEM.

Both follow from the secret that the hosts share, so every host makes the same one: whoever shows it knows the secret.
"""

from __future__ import annotations

import datetime
import hmac
import os
import sys
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import NameOID

_FROM, _UNTIL = datetime.datetime(2020, 1, 1), datetime.datetime(2120, 1, 1)  # the secret itself lives a job long


def made(secret: bytes) -> bytes:
    """The certificate and its key, PEM. Ed25519 signs alike each time."""
    key = Ed25519PrivateKey.from_private_bytes(hmac.digest(secret, b"trainkit, dask", "sha256"))
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "trainkit")])
    certificate = (
        x509.CertificateBuilder(subject_name=name, issuer_name=name, public_key=key.public_key(), serial_number=1)
        .not_valid_before(_FROM)
        .not_valid_after(_UNTIL)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, None)
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return certificate.public_bytes(pem) + private


def main() -> None:
    secret, target = map(Path, sys.argv[1:])
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as out:
        out.write(made(bytes.fromhex(secret.read_text(encoding="ascii"))))


if __name__ == "__main__":
    main()
