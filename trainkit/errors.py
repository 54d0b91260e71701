"""The failure tree: who is to blame, which exit code, what to do next.

    TrainkitError                 70  trainkit itself
    ├── UsageError                64  a command line that makes no sense          the caller
    ├── ConfigError               78  config files or settings, every mistake     the job's author, or the platform
    ├── DataError                 65  data that is not what it should be             whoever wrote the data
    │   └── CheckpointError       65  a checkpoint, or a state for one, that is not  whoever wrote it
    ├── CodeError                 73  an archive or requirements that cannot be used  the job's author
    ├── ScriptMissing             66  the script to run is not there              the image or the job's author
    ├── StorageError              74  a URL that cannot be read or written        storage, credentials, network
    ├── PeerLost                  75  a host did not come, or went away           the platform (worth a retry)
    └── IsolationUnavailable      69  local hosts cannot be made this way here    this machine

A script that fails is no TrainkitError: its own exit code is passed on (see contract.outcome).
The codes are those of sysexits.h, so that they do not collide with what scripts usually return.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

_SECRET = re.compile(
    r"(?i)secret|token(?!i[sz])|passw|passphrase|credential"  # a tokenizer is none
    r"|(?:api|access|account|cluster|encryption|private|signing)_?key"  # "key" alone also sorts and indexes
)
_WHERE_IT_LIES = re.compile(r"(?i)_(file|path|dir|uri)$")  # of AWS_WEB_IDENTITY_TOKEN_FILE the value is no secret


def is_secret(name: str) -> bool:
    """Whether what is called so is to be shown to nobody."""
    return _SECRET.search(name) is not None and not _WHERE_IT_LIES.search(name)


class TrainkitError(Exception):
    """Something the user must hear about. The message says what happened and what to do next."""

    exit_code = 70


class UsageError(TrainkitError):
    exit_code = 64


class DataError(TrainkitError):
    exit_code = 65


class CheckpointError(DataError):
    """A checkpoint that cannot be used, or a state that cannot be put into one."""


class CodeError(TrainkitError):
    """The job's code, as it came, cannot be used."""

    exit_code = 73


class ScriptMissing(TrainkitError):
    exit_code = 66


class IsolationUnavailable(TrainkitError):
    exit_code = 69


class StorageError(TrainkitError):
    exit_code = 74


class PeerLost(TrainkitError):
    exit_code = 75


class Mistake(NamedTuple):
    """One wrong fact: where it stands, what it is, and what to put there instead."""

    file: str
    key: str
    value: object
    problem: str
    remedy: str

    def __str__(self) -> str:
        # The first line of the failure file is one line, whatever a key holds.
        key = self.key if self.key.isprintable() else repr(self.key)
        where = f"{self.file}: {key}" if key else self.file
        hidden = is_secret(self.key.rpartition(".")[2])
        shown = "" if self.value is None else " is ***:" if hidden else f" is {_shorten(self.value)}:"
        return f"{where}{shown} {self.problem}. {self.remedy.rstrip('.?')}{'?' if self.remedy.endswith('?') else '.'}"


class ConfigError(TrainkitError):
    """Everything that is wrong with the configuration, at once."""

    exit_code = 78

    def __init__(self, mistakes: Iterable[Mistake]) -> None:
        self.mistakes = tuple(mistakes)
        first, *others = map(str, self.mistakes)
        count = f" (and {len(others)} more, below)" if others else ""
        super().__init__("\n".join([f"{first}{count}", *others]))


def _shorten(value: object, *, limit: int = 120) -> str:
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text)} characters)"
