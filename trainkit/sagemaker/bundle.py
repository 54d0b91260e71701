"""The folder that the SDK uploads as a job's driver: the driver, and trainkit itself in one archive.

One file instead of two hundred, which the SDK would upload and each host download one by one. Its bytes depend on the
package alone, so that the same code is the same driver for whoever compares.
"""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from functools import cache
from pathlib import Path

DRIVER = "trainkit_driver.py"
_HERE = Path(__file__).parent
_CARRIED = (DRIVER, "trainkit.bash")
ARCHIVE = "trainkit.zip"
_NO_TIME = (1980, 1, 1, 0, 0, 0)


def folder() -> Path:
    """The folder, made once in a process and gone with it."""
    return Path(_made().name)


@cache
def _made() -> tempfile.TemporaryDirectory[str]:
    made = tempfile.TemporaryDirectory(prefix="trainkit-driver-")
    lay(Path(made.name))
    return made


def lay(place: Path) -> None:
    """Put the driver and the archive into `place`."""
    for name in _CARRIED:
        shutil.copyfile(_HERE / name, place / name)
    package = _HERE.parent
    with zipfile.ZipFile(place / ARCHIVE, "w") as archive:
        for file in sorted(package.rglob("*")):
            if file.is_file() and "__pycache__" not in file.parts:
                entry = zipfile.ZipInfo(str(Path(package.name) / file.relative_to(package)), _NO_TIME)
                archive.writestr(entry, file.read_bytes(), zipfile.ZIP_DEFLATED)
