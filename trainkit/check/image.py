"""An image's root file system, unpacked: what would start in it, which Python, and which distributions it has."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from trainkit.check.code import normal

PATH = ("usr/local/sbin", "usr/local/bin", "usr/sbin", "usr/bin", "sbin", "bin")
"""Where the kernel's user finds commands, unless the image's own PATH says more."""
_MORE = ("opt/conda/bin", "opt/venv/bin", "venv/bin", ".venv/bin", "app/.venv/bin", "opt/program", "opt/ml/code")
"""Where images put a PATH of their own, which a file system does not tell."""
_HEAD = 4096  # bytes of an executable that are looked at


@dataclass(frozen=True, slots=True)
class Executable:
    """A command of the image. `path` is as inside it; `head` are its first bytes."""

    path: str
    head: bytes
    executable: bool
    on_path: bool


@dataclass(frozen=True, slots=True)
class Image:
    root: Path
    train: Executable | None
    python: tuple[int, int] | None
    distributions: frozenset[str]
    modules: frozenset[str]
    """Top-level names that `import` finds in its site-packages."""
    hidden: tuple[str, ...]
    """Files under /opt/ml/{input,model,output,checkpoints}, over which the service mounts its own."""
    code: tuple[str, ...]
    """What lies in /opt/ml/code."""

    def inside(self, path: str) -> Path | None:
        """Where a path of the image lies here, its links followed as the image would; None where there is nothing."""
        parts, here, hops = list(PurePosixPath("/", path).parts[1:]), self.root, 0
        while parts:
            name = parts.pop(0)
            here = here.parent if name == ".." and here != self.root else here if name in ("..", ".") else here / name
            if here.is_symlink():
                hops += 1
                if hops > 40:
                    return None
                target = PurePosixPath(here.readlink())
                parts = [*(target.parts[1:] if target.is_absolute() else target.parts), *parts]
                here = self.root if target.is_absolute() else here.parent
        return here if here.exists() else None


def read(root: Path) -> Image:
    """Look at an unpacked image: `docker export` or `docker cp`, or the folder of a build."""
    bare = Image(root, None, None, frozenset(), frozenset(), (), ())
    packages = list(_site_packages(root))
    listed = [name for folder in packages for name in _names(folder)]
    versions = sorted(
        {found[0] for folder in packages if (found := re.findall(r"python3\.(\d+)", str(folder)))}, key=int
    )
    hidden = [
        f"/opt/ml/{name}/{entry}" for name in ("input", "model", "output", "checkpoints")
        for entry in _names(root / "opt/ml" / name)
    ]  # fmt: skip
    return Image(
        root=root,
        train=_find(bare, "train"),
        python=(3, int(versions[-1])) if versions else None,
        distributions=frozenset(
            normal(name.split("-")[0]) for name in listed if name.endswith((".dist-info", ".egg-info"))
        ),
        modules=frozenset(name.split(".")[0] for name in listed if not name.endswith((".dist-info", ".egg-info"))),
        hidden=tuple(hidden),
        code=tuple(_names(root / "opt/ml/code")),
    )


def command(image: Image, name: str) -> Executable | None:
    """What `name` would start there: looked for along PATH, or a path itself."""
    return _find(image, name)


def _find(image: Image, name: str) -> Executable | None:
    places = [name.lstrip("/")] if "/" in name else [f"{folder}/{name}" for folder in (*PATH, *_MORE)]
    for place in places:
        file = image.inside(place)
        if file and file.is_file():
            with file.open("rb") as content:
                head = content.read(_HEAD)
            mode = file.stat().st_mode
            return Executable(f"/{place}", head, bool(mode & 0o111), place.rpartition("/")[0] in PATH or "/" in name)
    return None


def _site_packages(root: Path) -> Iterator[Path]:
    for prefix in ("usr/local", "usr", "opt/conda", "opt/venv", "venv", ".venv", "app/.venv", "root/.local"):
        for library in sorted((root / prefix / "lib").glob("python3*")):
            yield from (library / name for name in ("site-packages", "dist-packages") if (library / name).is_dir())


def _names(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in folder.iterdir())
    except OSError:
        return []
