"""Code from elsewhere, put where it is to run: whole, in a fresh folder, and in nobody's place.

/opt/ml/code is where AWS's own tools put it, and where scripts look for it. But images keep files of their own there
too, and an archive unpacked over them would make a mixture that nobody has ever run. So what the image has stays as it
is, and the job's code goes beside it, into code.job, with a line that says so.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path

from trainkit.code import network
from trainkit.code.archive import LIMITS, Limits, unpack
from trainkit.contract.secrets import scrub
from trainkit.contract.source import is_archive, is_url
from trainkit.errors import CodeError, StorageError
from trainkit.storage import files

MARK = ".trainkit-code.json"
"""In a folder that was filled from elsewhere: it may be replaced."""
_REACHES = 4  # tries: enough for a throttled start, and what is not up shall not be asked for minutes


def fetch(source: str, *, into: Path, say: Callable[[str], None], limits: Limits = LIMITS) -> Path:
    """The folder that the code lies in now. Raises CodeError or StorageError; nothing half-done is left."""
    for left in into.parent.glob(f".{into.name}.*.part"):  # of a run that was killed: a root has one `train` at a time
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    scratch = into.with_name(f".{into.name}.{os.getpid()}.{secrets.token_hex(4)}.part")
    try:
        _made(into.parent)
        if is_url(source):
            _download(source, scratch, limits)
        else:
            _unpack(Path(source), scratch, scrub(source), limits)
        (scratch / MARK).write_text(json.dumps({"source": scrub(source)}), encoding="utf-8")
        return _settle(scratch, into, say=say)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _unpack(archive: Path, into: Path, name: str, limits: Limits) -> None:
    if not archive.is_file():
        raise CodeError(f"there is no archive {name}. Name a folder, an archive or a URL with TRAINKIT_SOURCE")
    unpack(archive, into, name=name, limits=limits)


def _download(url: str, into: Path, limits: Limits) -> None:
    """An archive, unpacked; or every object below a prefix."""
    is_s3 = url.startswith(("s3://", "s3a://"))
    elsewhere = any(os.environ.get(name) for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "S3_ENDPOINT_URL"))
    if is_s3 and not elsewhere and not network.has_proxy() and not network.has_route():
        raise StorageError(f"cannot fetch {scrub(url)}: there is no way to S3 from here. {network.ISOLATED}.")
    os.environ.setdefault("AWS_MAX_ATTEMPTS", str(_REACHES))
    try:
        if is_archive(url) or files.head(url):
            _download_archive(url, into, limits)
        else:
            files.download(url, into)
    except StorageError as error:
        from trainkit.storage.answers import Answer  # with botocore, which a local archive does without
        from trainkit.storage.store import ObjectMissing

        if isinstance(error, Answer | ObjectMissing) or url.startswith("file://"):
            raise
        kind = "no AWS credentials" in str(error)
        more = "A job with EnableNetworkIsolation gets none. " + network.UNREACHED if kind else network.remedy()
        raise StorageError(f"{error} {more}.") from None


def _download_archive(url: str, into: Path, limits: Limits) -> None:
    packed = into.with_name(into.name.removesuffix(".part") + ".packed.part")
    try:
        with packed.open("xb") as out:
            for chunk in files.read(url):
                out.write(chunk)
                if out.tell() > limits.bytes:
                    raise CodeError(f"{scrub(url)} has more than {limits.bytes:,} bytes: send data by a channel")
        unpack(packed, into, name=scrub(url), limits=limits)
    finally:
        packed.unlink(missing_ok=True)


def _settle(scratch: Path, into: Path, *, say: Callable[[str], None]) -> Path:
    """Put the finished folder under its name, in place of nothing but an earlier one of ours."""
    beside = into.with_name(f"{into.name}.job")
    if _is_free(into) and _swapped(scratch, into):
        return into
    if not _is_free(beside):
        raise CodeError(f"{beside} is in the way: it is not what an earlier job left. Remove it from the image")
    if not _swapped(scratch, beside):  # overlays without extended attributes rename no folder at all
        shutil.rmtree(beside, ignore_errors=True)
        shutil.copytree(scratch, beside, symlinks=True)
    say(f"the image keeps {into} for its own: the job's code is in {beside}, and runs there")
    return beside


def _is_free(folder: Path) -> bool:
    if not folder.is_dir() or folder.is_symlink():
        return not os.path.lexists(folder)
    return (folder / MARK).is_file() or not any(folder.iterdir())


def _swapped(scratch: Path, into: Path) -> bool:
    """Whether the scratch folder could take the name. What was there is removed after it could."""
    old = scratch.with_name(f"{scratch.name.removesuffix('.part')}.old.part")
    try:
        # An empty folder is renamed over where it is: one of the image's own layer cannot be moved away.
        if (into / MARK).exists():
            into.rename(old)
        scratch.rename(into)
    except OSError as error:
        # A mount point, or a folder of a lower layer of the image that the file system cannot move.
        if error.errno not in (errno.EBUSY, errno.EXDEV, errno.ENOTEMPTY):
            raise CodeError(f"cannot put the code into {into}: {error.strerror}. Run the image as root") from None
        return False
    finally:
        if not into.exists() and old.exists():
            old.rename(into)
    shutil.rmtree(old, ignore_errors=True)
    return True


def _made(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CodeError(
            f"cannot make {folder}: {error.strerror}. uid {os.geteuid()} must be able to write there"
        ) from None
