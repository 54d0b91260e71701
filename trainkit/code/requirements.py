"""What is required, what is there already, and what must stay as it is.

torch is the image's: it was built for the image's CUDA, and everything that was compiled against it, or against numpy's
binary interface, with it. pip is told so by constraints made from what is installed, so that a requirement which would
replace it is an error at once, and not a job that is slow, or dies at its first kernel, an hour later.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from pathlib import Path

import trainkit
from trainkit.errors import CodeError

TORCH = frozenset({"torch", "torchvision", "torchaudio", "triton", "pytorch-triton"})
"""Named as `torch` in allow_replace, with all nvidia-* packages."""
_INSTALLED = re.compile(r"(.+?)-(\d[^-]*)(?:-py[\d.]+)?\.(?:dist|egg)-info")
_NESTED = re.compile(r"\s*(?:-r|-c|--requirement|--constraint)(?:\s+|=)(\S+)")
_LOCAL = re.compile(r"\s*(?:-e\b|--editable\b|-f\b|--find-links\b|\.|/|file:)|.*@\s*file:")
_MOST_FILES = 20_000


def site_folders() -> list[str]:
    """Where this Python finds installed packages, in its order."""
    folders = [folder for folder in sys.path if Path(folder).name in ("site-packages", "dist-packages")]
    return list(dict.fromkeys(folders))


def installed(folders: Iterable[str]) -> dict[str, str]:
    """Name → version, by the folders' own listing: reading every package's metadata would cost a second."""
    found: dict[str, str] = {}
    for folder in folders:
        try:
            names = sorted(entry.name for entry in Path(folder).iterdir())
        except OSError:
            continue
        for name in names:
            if match := _INSTALLED.fullmatch(name):
                found.setdefault(normal(match[1]), match[2])
    return found


def normal(name: str) -> str:
    """The one spelling of a package's name."""
    return re.sub(r"[-_.]+", "-", name).lower()


def constraints(there: Mapping[str, str], *, allow_replace: Iterable[str]) -> list[str]:
    """What pip may not change, in its own language."""
    allowed = {normal(name) for name in allow_replace}
    lines = []
    for name, version in sorted(there.items()):
        family = "torch" if name in TORCH or name.startswith("nvidia-") else name
        if name in allowed or family in allowed:
            continue
        if family == "torch":
            lines.append(f"{name}=={version}")
        elif name == "numpy" and (major := re.match(r"\d+", version)):
            lines.append(f"numpy>={major[0]},<{int(major[0]) + 1}")
    if "trainkit" not in allowed:
        # Also where it is only on the path: a stranger of that name in an index is not us.
        lines.append(f"trainkit=={there.get('trainkit', trainkit.__version__)}")
    return lines


def texts(file: Path) -> dict[str, str]:
    """The file and those that it names with -r and -c. Raises CodeError where one cannot be read."""
    found: dict[str, str] = {}
    queue = [file]
    while queue:
        path = queue.pop()
        if str(path) in found:
            continue
        try:
            text = path.read_text(encoding="utf-8-sig", errors="surrogateescape")
        except OSError as error:
            of = "" if path == file else f", which {file.name} names,"
            raise CodeError(
                f"cannot read {path}{of} for the job's requirements: {error.strerror}. Compare it with what is in "
                f"the source folder; TRAINKIT_REQUIREMENTS= (empty) installs nothing"
            ) from None
        found[str(path)] = text
        named = [name for line in text.splitlines() for name in _NESTED.findall(line)]
        queue += [path.parent / name for name in named if "://" not in name]
    return found


def all_there(listed: Mapping[str, str], there: Mapping[str, str]) -> bool:
    """Whether the image has everything that is named: then pip, which takes seconds, is not asked.

    Images are often built from the very file that lies beside the script. Anything but plain names and versions is
    left to pip to understand.
    """
    try:
        requirement = import_module("pip._vendor.packaging.requirements")
    except ImportError:
        return False
    for line in (line.split(" #")[0].strip() for text in listed.values() for line in text.splitlines()):
        if not line or line.startswith("#"):
            continue
        try:
            one = requirement.Requirement(line)
        except requirement.InvalidRequirement:
            return False
        if one.marker and not one.marker.evaluate():
            continue
        has = there.get(normal(one.name))
        if one.url or one.extras or has is None or not one.specifier.contains(has, prereleases=True):
            return False
    return True


def needs_folder(listed: Mapping[str, str]) -> bool:
    """Whether a line names something in the source folder, so that what is installed depends on its content."""
    return any(_LOCAL.match(line) for text in listed.values() for line in text.splitlines())


def is_hashed(listed: Mapping[str, str]) -> bool:
    """Whether every package must match a hash."""
    return any("--hash=" in text or "--require-hashes" in text for text in listed.values())


def digest(folder: Path) -> str:
    """A hash of the folder's files, for what is built from them."""
    total = hashlib.sha256()
    for count, path in enumerate(source_files(folder)):
        if count > _MOST_FILES:
            raise CodeError(
                f"{folder} has more than {_MOST_FILES:,} files, and is to be installed: keep data out of it"
            )
        total.update(f"{path.relative_to(folder)}\0{path.stat().st_mode & 0o111}\0".encode(errors="surrogateescape"))
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def source_files(folder: Path) -> Iterator[Path]:
    """The files that a package can be made of, in a fixed order."""
    for where, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not is_litter(name))
        for name in sorted(names):
            path = Path(where, name)
            if path.is_file() and name != ".trainkit-code.json":
                yield path


def is_litter(name: str) -> bool:
    """Whether a folder of this name holds nothing that belongs to the code."""
    return name in (".git", "__pycache__", ".venv", ".mypy_cache", ".ruff_cache", ".pytest_cache", "node_modules")


def key(**facts: object) -> str:
    """The name under which what was installed is found again: by all that it depends on."""
    python = [sys.version, sys.platform, os.path.realpath(sys.executable), sys.prefix]
    text = json.dumps([1, python, facts], sort_keys=True, default=str)
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:32]
