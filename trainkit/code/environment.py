"""The folder that requirements are installed into: an environment of the job's own, on top of the image's.

It is a venv without pip, whose one .pth file brings everything that the image has: so pip finds what is there already,
installs what is missing here, and leaves what it replaces where it is, shadowed. Measured: 5 ms, where a venv with pip
takes 3 s; `pip --target` would install torch again for everything that depends on it.

    <cache>/requirements/<key>/             made in its final place, since programs hold its path
        bin/                                its Python, and the programs that came
        programs/                           the latter alone, for PATH: `python` stays the image's
        lib/python3.11/site-packages/
        whole.json                          written last: what is without it is made anew
    <cache>/requirements/<key>.lock         who makes it; others wait
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
import venv
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from trainkit.code.requirements import installed
from trainkit.errors import CodeError
from trainkit.storage.commit import write_whole

UNUSED = 30 * 24 * 3600
"""Seconds after which an environment goes: longer than a job can run (28 days), so that none is in use."""
_WHOLE = "whole.json"
_OURS = ("python", "activate", "Activate", "pip")


@dataclass(frozen=True, slots=True)
class Environment:
    """One of them."""

    folder: Path

    @property
    def python(self) -> Path:
        return self.folder / "bin/python"

    @property
    def site(self) -> Path:
        return self.folder / f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"

    @property
    def programs(self) -> Path:
        return self.folder / "programs"

    @property
    def _bootstrap(self) -> Path:
        """Names of what ensurepip put there."""
        return self.folder / "bootstrap"

    @property
    def whole(self) -> bool:
        return (self.folder / _WHOLE).is_file()

    def make(self, *, beneath: list[str], with_pip: bool) -> None:
        """Anew, over the site folders `beneath`. Raises CodeError where that cannot be."""
        shutil.rmtree(self.folder, ignore_errors=True)
        try:
            venv.EnvBuilder(symlinks=True, with_pip=with_pip).create(self.folder)
            self._bootstrap.mkdir()
            for entry in self.site.iterdir():
                (self._bootstrap / entry.name).touch()
            lines = [f"import site; site.addsitedir({folder!r})\n" for folder in beneath]
            (self.site / "_beneath.pth").write_text("".join(lines), encoding="utf-8")
        except OSError as error:
            raise CodeError(f"cannot write {self.folder}: {error.strerror}. Make room there, or set HOME") from None
        except subprocess.CalledProcessError:  # of ensurepip, which some images lack
            raise CodeError(
                "there is no pip that could install the job's requirements . Install "
                "pip 22.3 or newer in the image, or what is required itself, and set TRAINKIT_REQUIREMENTS= (empty)"
            ) from None

    def finish(self) -> dict[str, str]:
        """Installed: from now on it is found again. Returns what it has, name → version."""
        self._put_aside()
        self.programs.mkdir(exist_ok=True)
        for program in (self.folder / "bin").iterdir():
            if not program.name.startswith(_OURS):
                (self.programs / program.name).symlink_to(program)
        has = installed([str(self.site)])
        write_whole(self.folder / _WHOLE, json.dumps(has, sort_keys=True))
        return has

    def _put_aside(self) -> None:
        """A pip that came with the venv is no part of the job. Nor is what has the name of a module of Python's own.

        Old lists name packages that are part of it since: argparse, typing, dataclasses, uuid.
        Among installed packages they do nothing, since the library comes first. On PYTHONPATH it would come second.
        """
        aside = self.folder / "aside"
        aside.mkdir()
        for entry in list(self.site.iterdir()):
            is_library = entry.name.partition(".")[0] in sys.stdlib_module_names and entry.suffix in ("", ".py")
            if is_library or (self._bootstrap / entry.name).exists():
                entry.rename(aside / entry.name)

    def paths(self) -> tuple[str, ...]:
        """For PYTHONPATH, which reads no .pth files: the site folder, and the folders that its .pth files name."""
        found = [str(self.site)]
        for file in sorted(self.site.glob("*.pth")):
            for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
                if line.startswith("/") and Path(line).is_dir():  # an editable package with a src/
                    found.append(line)
        return tuple(dict.fromkeys(found))

    def touch(self) -> None:
        """It is used today."""
        with suppress(OSError):  # somebody else's, who may write it
            os.utime(self.folder / _WHOLE)

    def has_programs(self) -> bool:
        return self.programs.is_dir() and any(self.programs.iterdir())


def cache(root: Path) -> Path:
    """Where environments are kept: what the service keeps for a warm pool, else the user's cache, else the root."""
    warm = root / "sagemaker/warmpoolcache"
    home = os.environ.get("XDG_CACHE_HOME") or (f"{os.environ['HOME']}/.cache" if os.environ.get("HOME") else "")
    wishes = [warm / "trainkit"] if warm.is_dir() else []
    wishes += [Path(home) / "trainkit"] if home.startswith("/") else []
    wishes.append(root / ".trainkit")
    for wish in wishes:
        folder = wish / "requirements"
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            owner = folder.stat().st_uid
            if owner in (os.geteuid(), 0) and os.access(folder, os.W_OK):
                return folder
    raise CodeError(f"cannot write {wishes[-1]}: requirements need a folder to be installed into. Set HOME to one")


def prune(cache: Path) -> list[str]:
    """Remove what nobody has used for so long, and what was never finished. Returns their names.

    Locks stay: one who waits for a file that is gone would hold a lock that nobody else can see.
    """
    gone = []
    for folder in [path for path in cache.iterdir() if path.is_dir()]:
        with suppress(OSError), (cache / f"{folder.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # held by one who makes it, or is about to use it
            mark = folder / _WHOLE
            used = (mark if mark.exists() else folder).stat().st_mtime
            if time.time() - used > UNUSED:
                shutil.rmtree(folder)
                gone.append(folder.name)
    return gone


@contextmanager
def locked(folder: Path, name: str) -> Iterator[None]:
    """One process at a time makes an environment; where locks do not work, all hope for the best."""
    with (folder / f"{name}.lock").open("w") as lock:
        with suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
