"""What must be done with the code before it runs: fetched, unpacked, its requirements installed; and what came of it.

Where there is nothing to do, finding that out costs a few looks at files. What there is, trainkit.code does, in a
process of its own.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trainkit.contract.job import Job
from trainkit.contract.source import SOURCEDIR, is_archive, is_url
from trainkit.plan import permission
from trainkit.plan.script import Script, is_package, may_be_module

REQUIREMENTS = "requirements.txt"
_SAYS_NOTHING = re.compile(r"\s*(?:#.*)?")


@dataclass(frozen=True, slots=True)
class Order:
    """What is wanted, as text."""

    root: str
    folder: str
    """Where the code lies, or, with a `source`, where it shall lie if nothing else does."""
    source: str | None
    """The archive to unpack, or the URL to fetch."""
    requirements: str | None
    """Relative to the folder; None: the usual file where it is there."""
    module: str | None
    """The module that is to run, or what may be one: it may have to be installed from the folder."""
    allow_replace: tuple[str, ...]
    region: str | None

    def message(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Prepared:
    """The code is ready: where it lies, and what the ranks find beside what the image has."""

    folder: Path
    paths: tuple[str, ...] = ()
    programs: str | None = None

    def environment(self, environ: Mapping[str, str]) -> dict[str, str]:
        """The variables that make it found; what comes from the job's own folder comes first."""
        added = {}
        if self.paths:
            added["PYTHONPATH"] = os.pathsep.join([*self.paths, *filter(None, [environ.get("PYTHONPATH")])])
        if self.programs:
            added["PATH"] = os.pathsep.join([self.programs, environ.get("PATH", os.defpath)])
        return added


def order(job: Job, script: Script) -> Order | None:
    """What there is to do for this job; None where the code can run as it lies."""
    source = _to_fetch(job, script)
    folder, name = job.paths.code if source else job.source, job.settings.script
    if not source and not _installs(folder, job.settings.requirements, module=script.module):
        return None
    return Order(
        root=str(job.paths.root),
        folder=str(folder),
        source=source,
        requirements=job.settings.requirements,
        module=script.module or (name if may_be_module(name) and not script.command else None),
        allow_replace=job.settings.allow_replace,
        region=str(job.hyperparameters.get("sagemaker_region") or "") or None,
    )


def _to_fetch(job: Job, script: Script) -> str | None:
    asked = job.settings.source
    if asked and is_url(asked):
        return asked
    if asked:
        path = Path(asked).absolute()
        permission.check(path, read=True)
        return str(path) if is_archive(asked) or path.is_file() else None
    # Under network isolation the SDK sends its archive by the channel.
    sent = job.code_channel / SOURCEDIR if job.code_channel else None
    return str(sent) if sent and sent.is_file() and not script.path.is_file() else None


def _installs(folder: Path, requirements: str | None, *, module: str | None) -> bool:
    """Whether something is to be installed for the code in that folder."""
    if requirements is not None:
        return requirements != ""
    return requires_something(folder / REQUIREMENTS) or package(folder, module=module)


def requires_something(file: Path) -> bool:
    """Whether there is such a file, with more in it than comments."""
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    return any(not _SAYS_NOTHING.fullmatch(line) for line in lines)


def package(folder: Path, *, module: str | None) -> bool:
    """Whether the folder is to be installed as a package: it has a setup.py, or it is one and a module is to run."""
    is_module = module is not None and not (folder / module).is_file()
    return (folder / "setup.py").is_file() or (is_module and is_package(folder))
