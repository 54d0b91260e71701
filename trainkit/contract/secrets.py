"""Credentials, kept out of what we print and write: failure files, errors, logs."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from trainkit.errors import is_secret

_SHAPES = (
    re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"),
    re.compile(r"(?<=://)[^/\s]+(?=@)"),  # to the last @: some write theirs as it is, unquoted
    re.compile(r"(?i)(?<=X-Amz-Signature=)[^&\s]+|(?<=X-Amz-Security-Token=)[^&\s]+|(?<=X-Amz-Credential=)[^&\s]+"),
    re.compile(r"(?i)(?<=bearer )[\w.~+/=-]{8,}"),
    re.compile(r"\b(?:hf_|gh[oprsu]_|github_pat_)\w{16,}|\bsk-[\w-]{20,}"),
)


def scrub(text: str, environ: Mapping[str, str] = os.environ) -> str:
    """`text` without credentials: known shapes, and the values of variables whose names say that they are secret."""
    secrets = {value for name, value in environ.items() if len(value) >= 8 and is_secret(name)}
    for value in sorted(secrets, key=len, reverse=True):  # one may be the beginning of another
        text = text.replace(value, "***")
    for shape in _SHAPES:
        text = shape.sub("***", text)
    return text
