"""Credentials, kept out of what we print and write: failure files, errors, logs."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

_SHAPES = (
    re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"),
    re.compile(r"(?<=://)[^/\s]+(?=@)"),  # to the last @: some write theirs as it is, unquoted
    re.compile(r"(?i)(?<=X-Amz-Signature=)[^&\s]+|(?<=X-Amz-Security-Token=)[^&\s]+|(?<=X-Amz-Credential=)[^&\s]+"),
    re.compile(r"(?i)(?<=bearer )[\w.~+/=-]{8,}"),
    re.compile(r"\b(?:hf_|gh[oprsu]_|github_pat_)\w{16,}|\bsk-[\w-]{20,}"),
)
_NAME = re.compile(
    r"(?i)secret|token(?!i[sz])|passw|passphrase|credential"  # a tokenizer is none
    r"|(?:api|access|account|cluster|encryption|private|signing)_?key"  # "key" alone also sorts and indexes
)
_WHERE_IT_LIES = re.compile(r"(?i)_(file|path|dir|uri)$")  # of AWS_WEB_IDENTITY_TOKEN_FILE the value is no secret


def scrub(text: str, environ: Mapping[str, str] = os.environ) -> str:
    """`text` without credentials: known shapes, and the values of variables whose names say that they are secret."""
    secrets = {
        value
        for name, value in environ.items()
        if len(value) >= 8 and _NAME.search(name) and not _WHERE_IT_LIES.search(name)
    }
    for value in sorted(secrets, key=len, reverse=True):  # one may be the beginning of another
        text = text.replace(value, "***")
    for shape in _SHAPES:
        text = shape.sub("***", text)
    return text
