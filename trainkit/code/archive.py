"""Unpacking an archive that nobody vouches for: all of its members are looked at before the first is written.

What is refused, with the member's name: absolute names and `..`; links that lead outside, and whatever would be written
through a link; devices, pipes and sockets; setuid files; two members of one name; more members or bytes than code can
have. An archive that is cut short or damaged is refused as a whole, wherever the damage is.
"""

from __future__ import annotations

import lzma
import os
import posixpath
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

from trainkit.errors import CodeError

_HEADERS = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
_LONGEST_HEADER = 1 << 20  # bytes that tarfile would read into memory at once


class Limits(NamedTuple):
    """How much may come out of one archive."""

    members: int = 100_000
    bytes: int = 16 << 30


LIMITS = Limits()


class _Member(tarfile.TarInfo):
    """A header that cannot make tarfile read without end: it takes names of any length into memory."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo | None:
        if self.size < 0 or (self.type in _HEADERS and self.size > _LONGEST_HEADER):
            raise tarfile.ReadError(f"a header of {self.size} bytes")
        return super()._proc_member(archive)  # type: ignore[misc, no-any-return]


def unpack(archive: Path, into: Path, *, name: str, limits: Limits = LIMITS, folds_case: bool | None = None) -> int:
    """Unpack into the folder `into`, which is empty or not there; returns how many files.

    `name` is what people call the archive. `folds_case`: whether Train.py and train.py are one file there; found out
    where it is not given. Raises CodeError naming archive and member, before anything is written.
    """
    with _told(name), tarfile.open(archive, "r:*", tarinfo=_Member) as tar:
        members = _checked(tar, name=name, limits=limits)
        _read_to_end(tar, limits.bytes)
        files = [member for _, member in members if not member.isdir()]
        if not files:
            raise CodeError(f"{name} holds no files. Pack the code with: tar -czf sourcedir.tar.gz -C FOLDER .")
        into.mkdir(parents=True, exist_ok=True)
        if _folds_case(into) if folds_case is None else folds_case:
            _refuse_same_but_for_case(members, name=name)
        _refuse_full_disk(into, sum(member.size for member in files), name=name)
        for path, member in members:
            _write(tar, member, into / path)
    return len(files)


def _checked(tar: tarfile.TarFile, *, name: str, limits: Limits) -> list[tuple[str, tarfile.TarInfo]]:
    """Every member under its normal path, in the archive's order."""
    seen: dict[str, tarfile.TarInfo] = {}
    folders: set[str] = set()  # whether or not they are members themselves
    size = 0
    for count, member in enumerate(tar, start=1):
        size += member.size
        if count > limits.members:
            raise CodeError(
                f"{name} has more than {limits.members:,} members: send data by a channel, not with the code"
            )
        if size > limits.bytes:
            raise _refused(name, member, f"with it more than {limits.bytes:,} bytes come out: send data by a channel")
        path = _path(name, member)
        if path == ".":
            continue
        _check_kind(name, member, path, seen)
        before = seen.get(path)
        if before is not None and not (before.isdir() and member.isdir()):
            raise _refused(name, member, "there are two of that name, and which one is meant nobody knows")
        for parent in _parents(path):
            if parent in seen and not seen[parent].isdir():
                raise _refused(name, member, f"{parent} is no folder: it would be written through it")
            folders.add(parent)
        if path in folders and not member.isdir():
            raise _refused(name, member, "other members lie below that name")
        seen[path] = member
    return list(seen.items())


def _path(name: str, member: tarfile.TarInfo) -> str:
    if not member.name or "\0" in member.name:
        raise _refused(name, member, "that is no name")
    if member.name.startswith("/"):
        raise _refused(name, member, "its name is absolute")
    if ".." in member.name.split("/"):
        raise _refused(name, member, "its name leads outside")
    return posixpath.normpath(member.name)


def _check_kind(name: str, member: tarfile.TarInfo, path: str, seen: dict[str, tarfile.TarInfo]) -> None:
    if member.isdir():
        return
    if member.issym():
        if _leaves(path, member.linkname):
            raise _refused(name, member, f"it is a link that leads outside: {member.linkname}")
    elif member.islnk():
        target = seen.get(posixpath.normpath(member.linkname))
        if member.linkname.startswith("/") or target is None or not target.isreg():
            raise _refused(name, member, f"it is a hard link to what is no file before it: {member.linkname}")
    elif not member.isreg():
        raise _refused(name, member, "it is a device, a pipe or a socket")
    if member.isreg() and member.mode & 0o6000:
        raise _refused(name, member, "it is setuid or setgid; take that off with chmod -s")


def _leaves(path: str, target: str) -> bool:
    """Whether a symbolic link at `path` may lead out of the folder.

    Its own parents are real folders, so steps up at the target's beginning can be counted. After a step down nothing
    can: that may have been another link.
    """
    parts = [part for part in target.split("/") if part not in ("", ".")]
    up = next((count for count, part in enumerate(parts) if part != ".."), len(parts))
    return target.startswith("/") or not target or up > path.count("/") or ".." in parts[up:]


def _parents(path: str) -> Iterator[str]:
    while path := posixpath.dirname(path):
        yield path


def _refuse_same_but_for_case(members: list[tuple[str, tarfile.TarInfo]], *, name: str) -> None:
    seen: dict[str, str] = {}
    for path, member in members:
        other = seen.setdefault(path.casefold(), path)
        if other != path:
            raise _refused(name, member, f"here it is the same file as {other}: the disk does not tell the cases apart")


def _refuse_full_disk(into: Path, size: int, *, name: str) -> None:
    free = shutil.disk_usage(into).free
    if size > free:
        raise CodeError(
            f"{name} unpacks to {size:,} bytes, and {into} has room for {free:,}. Ask for a larger volume "
            f"(VolumeSizeInGB), or send data by a channel"
        )


def _read_to_end(tar: tarfile.TarFile, most: int) -> None:
    """A tar ends before its file does, and a compressed one says only at its very end whether it was whole."""
    assert tar.fileobj is not None
    while most > 0 and (data := tar.fileobj.read(1 << 20)):
        most -= len(data)


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    if member.isdir():
        path.mkdir(parents=True, exist_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    if member.issym():
        path.symlink_to(member.linkname)
        return
    source = tar.extractfile(member)  # a hard link's is that of the file it stands for
    assert source is not None
    mode = 0o755 if member.mode & 0o111 else 0o644
    with source, path.open("xb") as out:
        _copy(source, out)
        os.fchmod(out.fileno(), mode)


def _copy(source: IO[bytes], out: IO[bytes]) -> None:
    while data := source.read(1 << 20):
        out.write(data)


def _folds_case(folder: Path) -> bool:
    probe = folder / ".trainkit-Case"
    probe.touch()
    try:
        return (folder / ".trainkit-case").exists()
    finally:
        probe.unlink()


def _refused(name: str, member: tarfile.TarInfo, why: str) -> CodeError:
    return CodeError(f"{name}: {member.name!r} is refused: {why}. Nothing was unpacked.")


@contextmanager
def _told(name: str) -> Iterator[None]:
    """Turn what tarfile and the decompressors raise into words."""
    try:
        yield
    except (EOFError, zlib.error, lzma.LZMAError) as error:
        raise CodeError(f"{name} is cut short or damaged ({error}). Send it again.") from None
    except tarfile.TarError as error:
        words = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CodeError(
            f"{name} is no tar archive that can be read, or it is cut short ({words}). Pack the code with: "
            f"tar -czf sourcedir.tar.gz -C FOLDER ."
        ) from None
    except OSError as error:
        # gzip has no error number of its own; the disk has.
        why = f"cannot be unpacked: {error.strerror}" if error.errno else f"is damaged ({error})"
        raise CodeError(f"{name} {why}. {'Look at the volume' if error.errno else 'Send it again'}.") from None
