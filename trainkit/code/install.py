"""Installing what the code requires: once per host and content, into a folder of the job's own."""

from __future__ import annotations

import importlib.util
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from trainkit.code import pip
from trainkit.code import requirements as required
from trainkit.code.environment import Environment, cache, locked, prune
from trainkit.errors import CodeError
from trainkit.plan.code import REQUIREMENTS, requires_something

_SHOWN = 12  # packages named in the log


def install(
    folder: Path,
    *,
    root: Path,
    file: Path | None,
    package: bool,
    allow_replace: tuple[str, ...],
    say: Callable[[str], None],
) -> Environment | None:
    """What `file` lists, and the folder itself where it is a `package`; None where the image has all of it.

    Raises CodeError with the requirement that cannot be had, and what to do.
    """
    beneath = required.site_folders()
    there = required.installed(beneath)
    listed = required.texts(file) if file else {}
    if not package and required.all_there(listed, there):
        return None
    limits = required.constraints(there, allow_replace=allow_replace)
    built = required.digest(folder) if package or required.needs_folder(listed) else None
    name = required.key(
        texts=listed,
        constraints=limits,
        installed=there,
        built=built,
        package=package,
        path=os.environ.get("PYTHONPATH"),
    )
    kept = cache(root)
    made = Environment(kept / name)
    what = " and ".join(filter(None, [file.name if file else "", f"the package in {folder}" if package else ""]))
    with locked(kept, name):
        if made.whole:
            made.touch()
            return made
        say(f"installing {what}")
        began = time.monotonic()
        try:
            made.make(beneath=beneath, with_pip=importlib.util.find_spec("pip") is None)
            wanted = pip.Wanted(folder, file=file, listed=listed, package=package, constraints=limits)
            pip.run(made, wanted, there=there, say=say)
            has = made.finish()
        except BaseException:
            shutil.rmtree(made.folder, ignore_errors=True)
            raise
        prune(kept)
    say(f"installed {_told(has, there)} in {time.monotonic() - began:.1f} s ({what})")
    return made


def _told(has: Mapping[str, str], there: Mapping[str, str]) -> str:
    """`peft 0.9, trl 0.4 in place of 0.3`."""
    words = [
        f"{name} {version}" + (f" in place of {there[name]}" if there.get(name, version) != version else "")
        for name, version in sorted(has.items())
    ]
    if not words:
        return "nothing: all of it is there already"
    more = f" and {len(words) - _SHOWN} more" if len(words) > _SHOWN else ""
    return ", ".join(words[:_SHOWN]) + more


def requirements_file(folder: Path, asked: str | None) -> Path | None:
    """The file to read, if any. Raises CodeError where the one that was asked for is none of pip's."""
    if asked == "":
        return None
    path = folder / (asked or REQUIREMENTS)
    if asked is None and not requires_something(path):
        return None
    if path.suffix in (".yml", ".yaml", ".toml", ".lock"):
        raise CodeError(f"{path} is no file of pip's requirements: write them as requirements.txt")
    return path
