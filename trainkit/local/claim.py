"""The output directory of a local job: found or made, held by one job at a time, cleared of an earlier one."""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from trainkit.errors import UsageError
from trainkit.local.status import ARN, PROCESSING_ARN
from trainkit.storage.commit import write_whole

DESCRIPTION = "describe.json"
REPLACED = ("hosts", "logs", "channels", "model", "output", "inputs", "outputs", "tensorboard")
"""The directories in it that each job makes anew."""
_LOCK = ".lock"


def fresh(parent: Path, name: str) -> Path:
    """Make a directory that nobody else has: `name`, or name-2, name-3 …. Raises OSError."""
    parent.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        path = parent / (name if number == 1 else f"{name}-{number}")
        with suppress(FileExistsError):
            path.mkdir()
            break
    return path


@contextmanager
def claimed(output: Path) -> Iterator[None]:
    """Hold `output` for one job. Raises UsageError, with nothing touched, where it is another's."""
    if output.is_dir() and {path.name for path in output.iterdir()} - {_LOCK} and not _is_ours(output / DESCRIPTION):
        raise UsageError(f"--output {output} holds files, and no earlier job of ours: name a new or empty directory")
    output.mkdir(parents=True, exist_ok=True)
    with (output / _LOCK).open("ab") as lock:  # released by the kernel however we end
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"a job is running in {output}: wait for its end, or name another --output") from None
        yield


def clear(output: Path) -> None:
    """Remove an earlier job's results; its checkpoints stay, as they would on S3."""
    for name in REPLACED:
        if (output / name).is_dir():
            remove(output / name)
    for name in ("model.tar.gz", "output.tar.gz", "failure", DESCRIPTION):
        (output / name).unlink(missing_ok=True)
    (output / "logs").mkdir()
    write_whole(output / DESCRIPTION, "{}\n")  # from here on the directory is ours, even if we are killed


def remove(folder: Path) -> None:
    """Remove it, and what in it may not be written: a job that was killed could not give the permission back."""
    for root, folders, _ in os.walk(folder):
        for name in folders:
            path = Path(root, name)
            if not path.is_symlink() and not path.stat().st_mode & 0o200:
                path.chmod(0o755)
    shutil.rmtree(folder)


def _is_ours(description: Path) -> bool:
    """Whether an earlier local job wrote it; what lies beside it may then be removed."""
    try:
        described = json.loads(description.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    if not isinstance(described, dict):
        return False
    arn = described.get("TrainingJobArn") or described.get("ProcessingJobArn") or ""
    return described == {} or arn.startswith((ARN, PROCESSING_ARN))
