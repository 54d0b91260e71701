"""What a container was given to run, as Docker would see it, in the shapes that processing jobs have.

    process script.py --x 1                    a script; without one, process.py or features.py
    process features.py --artifact DIR         a definition (definition.py): features are made as it says
    process python3 script.py --x 1            what ScriptProcessor sends
    process bash runproc.sh --x 1              what FrameworkProcessor sends
    process smspark-submit --py-files a.py app.py --x 1     what PySparkProcessor sends
    process any other program

`process` may stand there as `train` or `trainkit process` too, and twice: once from the image's ENTRYPOINT, once from
the job's arguments.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from trainkit.errors import ScriptMissing
from trainkit.plan import permission, spark
from trainkit.plan.definition import ENTRY, is_definition
from trainkit.plan.launch import BOOTSTRAP, Process

_DEFAULTS = ("process.py", "features.py")
_PYTHON = re.compile(r"python(3(\.\d+)?)?")
_PLAIN_FLAGS = frozenset({"-u", "-B", "-O", "-OO", "-q", "-s"})
"""Options of Python that have no value and mean the same to our bootstrap as to the script."""
_SHELLS = frozenset({"sh", "bash", "dash", "zsh", "ash", "ksh"})


def resolve(
    arguments: Sequence[str], *, folders: Sequence[Path], environ: Mapping[str, str], script: str | None, hosts: int,
    cluster: str | None = None,
) -> Process:  # fmt: skip
    """The process for what was given. A script without a folder is looked for in `folders`, in that order.

    Raises ScriptMissing where there is none, UsageError where a call makes no sense, and TrainkitError where what
    it needs is not installed.
    """
    given = _without_ourselves(list(arguments))
    if not given or given[0].startswith("-"):
        given = [script or _default(folders), *given]
    first, *rest = given
    name = Path(first).name
    if name in ("smspark-submit", "spark-submit"):
        return spark.submission(rest, folders=folders, environ=environ, hosts=hosts, cluster=cluster)
    if _PYTHON.fullmatch(name) and (flags := _flags_before_script(rest)) is not None:
        path = find(rest[flags], folders=folders)
        argv = (first, *rest[:flags], _started_by(path), str(path), *rest[flags + 1 :])
        return Process(argv, path.name)
    if name.endswith(".py"):
        path = find(first, folders=folders)
        return Process((sys.executable, _started_by(path), str(path), *rest), path.name)
    if name.endswith(".sh"):
        path = find(first, folders=folders)
        # S3 keeps no file modes, so a shell script that came as an input is not executable.
        shell = () if os.access(path, os.X_OK) else ("bash",)
        return Process((*shell, str(path), *rest), path.name, is_shell=True)
    if "/" not in first and not shutil.which(first, path=environ.get("PATH", os.defpath)):
        raise ScriptMissing(
            f"there is no program {first!r} in this image (PATH={environ.get('PATH', os.defpath)})\n"
            f"Name a script (.py, .sh) or a program of the image: ContainerArguments is what `process` is given"
        )
    is_shell = name in _SHELLS
    scripts = [Path(word).name for word in rest if not word.startswith("-")]
    return Process(tuple(given), scripts[0] if is_shell and scripts else name, is_shell=is_shell)


def _started_by(path: Path) -> str:
    """What runs a Python file: our bootstrap, as its own main program; of a definition, the features' own."""
    return str(ENTRY if is_definition(path) else BOOTSTRAP / "rank.py")


def find(script: str, *, folders: Sequence[Path]) -> Path:
    """The script of that name. Raises ScriptMissing with the places that were searched."""
    candidates = [folder / script for folder in folders] if not Path(script).is_absolute() else [Path(script)]
    for candidate in candidates:
        if permission.is_file(candidate):
            permission.check(candidate, read=True)
            return candidate.absolute()
    for candidate in candidates:
        permission.check(candidate, read=True)
    places = ", ".join(str(candidate) for candidate in candidates)
    raise ScriptMissing(
        f"there is no script {script}: looked for {places}\n"
        f"Put it into the image, or send it as an input named code with LocalPath /opt/ml/processing/input/code"
    )


def _without_ourselves(given: list[str]) -> list[str]:
    while given:
        name = Path(given[0]).name
        if name in ("train", "process"):
            del given[0]
        elif name == "trainkit" and given[1:2] == ["process"]:
            del given[:2]
        else:
            break
    return given


def _default(folders: Sequence[Path]) -> str:
    for name in _DEFAULTS:
        if any(permission.is_file(folder / name) for folder in folders):
            return name
    for folder in folders:
        permission.check(folder, read=False)
    raise ScriptMissing(
        f"no script was named, and there is no {' or '.join(_DEFAULTS)} in {', '.join(map(str, folders))}\n"
        f'Name one: ContainerArguments is what `process` is given, as in ["prep.py", "--x", "1"]'
    )


def _flags_before_script(rest: Sequence[str]) -> int | None:
    """How many plain options stand before the script; None where it is no script that Python is to run."""
    count = 0
    while count < len(rest) and rest[count] in _PLAIN_FLAGS:
        count += 1
    return count if count < len(rest) and rest[count].endswith(".py") else None
