"""Archives of code that nobody vouches for: what is wrong is refused by name, and nothing is written."""

from __future__ import annotations

import gzip
import io
import os
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from trainkit.code.archive import Limits, unpack
from trainkit.errors import CodeError

SCRIPT = b"print('fine')\n"


def member(name: str, kind: bytes = tarfile.REGTYPE, **facts: object) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type = kind
    for key, value in facts.items():
        setattr(made, key, value)
    return made


def pack(path: Path, *members: tarfile.TarInfo, mode: str = "w:gz") -> Path:
    """An archive with train.py first, which is right, and then these."""
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for one in (member("./train.py", size=len(SCRIPT)), *members):
            tar.addfile(one, io.BytesIO(SCRIPT.ljust(one.size)[: one.size]) if one.isreg() else None)
    return path


LINK, HARD = tarfile.SYMTYPE, tarfile.LNKTYPE
HOSTILE = {
    "a name above": ([member("../evil.py", size=3)], "'../evil.py' is refused: its name leads outside"),
    "a name that goes up and down": ([member("a/../../evil.py")], "'a/../../evil.py' is refused"),
    "an absolute name": ([member("/etc/evil.py")], "'/etc/evil.py' is refused: its name is absolute"),
    "no name": ([member("")], "that is no name"),
    "a link outside": (
        [member("out", LINK, linkname="../../etc")],
        "'out' is refused: it is a link that leads outside",
    ),
    "an absolute link": ([member("out", LINK, linkname="/etc/passwd")], "leads outside: /etc/passwd"),
    "a link through a link": (
        [member("x/y", LINK, linkname=".."), member("z", LINK, linkname="x/y/../..")],
        "'z' is refused: it is a link that leads outside",
    ),
    "a file through a link": (
        [member("lib", LINK, linkname="."), member("lib/evil.py")],
        "'lib/evil.py' is refused: lib is no folder",
    ),
    "a link in the place of a folder": ([member("lib/a.py"), member("lib", LINK, linkname=".")], "'lib' is refused"),
    "a file in the place of a folder": ([member("lib/a.py"), member("lib")], "other members lie below that name"),
    "a hard link outside": ([member("pw", HARD, linkname="/etc/passwd")], "'pw' is refused: it is a hard link"),
    "a hard link above": ([member("pw", HARD, linkname="../../etc/passwd")], "'pw' is refused: it is a hard link"),
    "a hard link to a link": (
        [member("l", LINK, linkname="train.py"), member("h", HARD, linkname="l")],
        "'h' is refused: it is a hard link to what is no file",
    ),
    "a device": ([member("null", tarfile.CHRTYPE, devmajor=1, devminor=3)], "'null' is refused: it is a device"),
    "a pipe": ([member("pipe", tarfile.FIFOTYPE)], "'pipe' is refused: it is a device, a pipe or a socket"),
    "a setuid program": ([member("sh", mode=0o4755)], "'sh' is refused: it is setuid"),
    "a name twice": ([member("train.py")], "'train.py' is refused: there are two of that name"),
    "too many members": ([member(f"f{n}") for n in range(9)], "has more than 8 members"),
    "too many bytes": ([member("big", size=5000)], "'big' is refused: with it more than 4,000 bytes"),
    "a name without end": ([member("n" * 2_000_000)], "a header of 2000014 bytes"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_member_is_refused_by_name_and_nothing_is_written(tmp_path: Path, kind: str) -> None:
    members, said = HOSTILE[kind]
    archive = pack(tmp_path / "sourcedir.tar.gz", *members)
    with pytest.raises(CodeError) as caught:
        unpack(archive, tmp_path / "in/code", name="s3://b/sourcedir.tar.gz", limits=Limits(8, 4000))
    assert said in str(caught.value)
    assert str(caught.value).startswith("s3://b/sourcedir.tar.gz")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["sourcedir.tar.gz"]


def cut(path: Path, keep: float) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])


def spoil(path: Path) -> None:
    """The last bytes of a gzip are a checksum and a size."""
    path.write_bytes(path.read_bytes()[:-8] + b"\0" * 8)


DAMAGED: dict[str, tuple[Callable[[Path], None], str]] = {
    "cut in half": (lambda path: cut(path, 0.5), "cut short"),
    "cut at the very end": (lambda path: path.write_bytes(path.read_bytes()[:-4]), "cut short or damaged"),
    "with a wrong checksum": (spoil, "is damaged"),
    "empty": (lambda path: path.write_bytes(b""), "is no tar archive"),
    "a web page": (lambda path: path.write_bytes(b"<html>no</html>"), "is no tar archive"),
    "no tar inside": (lambda path: path.write_bytes(gzip.compress(b"hello" * 999)), "is no tar archive"),
}


@pytest.mark.parametrize("how", DAMAGED)
def test_a_damaged_archive_is_refused_as_a_whole(tmp_path: Path, how: str) -> None:
    harm, said = DAMAGED[how]
    archive = pack(tmp_path / "code.tgz", member("noise", size=3000))
    harm(archive)
    with pytest.raises(CodeError, match=said):
        unpack(archive, tmp_path / "code", name="code.tgz")
    assert not (tmp_path / "code").exists()


def test_a_plain_tar_that_ends_within_a_member_is_refused(tmp_path: Path) -> None:
    archive = pack(tmp_path / "code.tar", member("noise", size=3000), mode="w:")
    archive.write_bytes(archive.read_bytes()[:2500])
    with pytest.raises(CodeError, match="cut short"):
        unpack(archive, tmp_path / "code", name="code.tar")


def test_an_archive_without_files_says_how_to_pack_one(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "code.tar", "w") as tar:
        tar.addfile(member(".", tarfile.DIRTYPE))
    with pytest.raises(CodeError, match=r"holds no files. Pack the code with: tar -czf"):
        unpack(tmp_path / "code.tar", tmp_path / "code", name="code.tar")


def test_where_the_disk_does_not_tell_cases_apart_two_files_are_not_made_one(tmp_path: Path) -> None:
    archive = pack(tmp_path / "code.tgz", member("Train.py", size=3))
    with pytest.raises(CodeError, match=r"'Train.py' is refused: here it is the same file as train.py"):
        unpack(archive, tmp_path / "folded", name="code.tgz", folds_case=True)
    assert unpack(archive, tmp_path / "apart", name="code.tgz", folds_case=False) == 2


@pytest.mark.parametrize("mode", ["w:", "w:gz", "w:bz2", "w:xz"])
def test_what_is_right_is_unpacked_whatever_it_is_packed_with(tmp_path: Path, mode: str) -> None:
    archive = pack(
        tmp_path / "code", member("run.sh", mode=0o700), member("pkg", tarfile.DIRTYPE, mode=0o42775),
        member("pkg/a.py", size=5), member("pkg/b.py", HARD, linkname="pkg/a.py"),
        member("latest", LINK, linkname="pkg/a.py"), member("pkg/up.py", LINK, linkname="../train.py"), mode=mode,
    )  # fmt: skip
    into = tmp_path / "out"
    assert unpack(archive, into, name="code") == 6
    assert (into / "train.py").read_bytes() == SCRIPT
    assert (into / "pkg/b.py").read_bytes() == SCRIPT[:5]
    assert (into / "latest").read_bytes() == SCRIPT[:5]
    assert (into / "pkg/up.py").read_bytes() == SCRIPT
    assert os.access(into / "run.sh", os.X_OK)
    assert not os.access(into / "pkg/a.py", os.X_OK)
    assert stat.S_IMODE((into / "pkg").stat().st_mode) & 0o7000 == 0
