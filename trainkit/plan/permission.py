"""Whether this user may read the code, in words where it may not: images are built as root, and often run as others."""

from __future__ import annotations

import os
from pathlib import Path

from trainkit.errors import ScriptMissing


def check(path: Path, *, read: bool) -> None:
    """Raises ScriptMissing where a folder on the way to `path` is closed to us, or, with `read`, the file itself.

    What is not there is not closed: whoever looks for it says so.
    """
    path = path.absolute()
    for one in (*reversed(path.parents), path):
        if not _may(one, os.F_OK):
            return
        if one.is_dir() and not _may(one, os.X_OK):
            raise _closed(one, "enter")
        if read and one.is_file() and not _may(one, os.R_OK):
            raise _closed(one, "read")


def is_file(path: Path) -> bool:
    """Whether there is a file that we can get at."""
    try:
        return path.is_file()
    except PermissionError:
        return False


def _may(path: Path, mode: int) -> bool:
    return os.access(path, mode, effective_ids=os.access in os.supports_effective_ids)


def _closed(path: Path, verb: str) -> ScriptMissing:
    facts = path.stat()
    return ScriptMissing(
        f"uid {os.geteuid()} may not {verb} {path}, which has the mode {facts.st_mode & 0o7777:04o} and the owner "
        f"{facts.st_uid}\nOpen it where the image is made: RUN chmod -R a+rX {path}. Or let the image run as root, as "
        f"SageMaker's own do"
    )
