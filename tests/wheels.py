"""Wheels made on the fly, and a folder of them for pip's --find-links: nothing is downloaded by tests."""

from __future__ import annotations

import base64
import hashlib
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path


def wheel(folder: Path, name: str, version: str, *, requires: Sequence[str] = (), body: str = "") -> Path:
    """A package of one module that knows its VERSION. Returns the file."""
    folder.mkdir(parents=True, exist_ok=True)
    path, facts = folder / f"{name}-{version}-py3-none-any.whl", f"{name}-{version}.dist-info"
    needs = "".join(f"Requires-Dist: {one}\n" for one in requires)
    content = {
        f"{name}.py": f"VERSION = {version!r}\n{body}",
        f"{facts}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}",
        f"{facts}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    lines = [f"{file},sha256={_digest(text)},{len(text.encode())}\n" for file, text in content.items()]
    with zipfile.ZipFile(path, "w") as packed:
        for file, text in content.items():
            packed.writestr(file, text)
        packed.writestr(f"{facts}/RECORD", "".join(lines) + f"{facts}/RECORD,,\n")
    return path


def offline(folder: Path, cache: Path) -> dict[str, str]:
    """The environment in which pip knows these wheels and nothing else, and what it installs is kept in `cache`."""
    return {
        "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder), "PIP_CONFIG_FILE": os.devnull,
        "PIP_EXTRA_INDEX_URL": "", "XDG_CACHE_HOME": str(cache),
    }  # fmt: skip


def _digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
