"""What the user's script is: where it lies, how it is started, and which libraries it will import.

train.py            a Python script
run.sh, tool        any other program
-m package.module   a module, of the source folder or installed; `package` alone where the source is a package to
                    install, as the toolkit has it
the setting command a line for bash, in the script's place
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

from trainkit.contract.job import Job
from trainkit.contract.source import module_of
from trainkit.errors import ScriptMissing
from trainkit.plan import permission

TORCH_FAMILY = frozenset(
    {
        *("torch", "torchvision", "torchaudio", "accelerate", "transformers", "diffusers", "peft", "trl"),
        *("lightning", "pytorch_lightning", "deepspeed", "timm", "torchtune", "torchtitan", "sentence_transformers"),
    }
)
_IMPORT = re.compile(r"(?:^|[;:])[ \t]*(?:from[ \t]+([\w.]+)[ \t]+import\b|import[ \t]+([\w., \t]+))", re.MULTILINE)
# What makes torch import torch._dynamo, 800 modules, when it is first used: building an optimizer, for one.
_DYNAMO = re.compile(r"\boptim\b|\bcompile\b|DistributedDataParallel|fully_shard|FullyShardedDataParallel")
_MOST_FILES = 200  # of the user's own modules; past that, the answer would cost more than it saves


_MODULE = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*")


@dataclass(frozen=True, slots=True)
class Script:
    """The entry, its working directory, and the top-level names that it and its own modules import.

    Of a module, `path` is its file in the folder, or the folder where it is installed from elsewhere.
    """

    path: Path
    folder: Path
    imports: frozenset[str] = frozenset()
    needs_dynamo: bool = False
    executable: bool = False
    module: str | None = None
    command: str | None = None

    @property
    def is_python(self) -> bool:
        return self.command is None and (self.module is not None or self.path.suffix == ".py")

    @property
    def is_shell(self) -> bool:
        """Whether a shell stands between us and what works: it passes no signals on."""
        return self.command is not None or (self.module is None and self.path.suffix == ".sh")

    @property
    def label(self) -> str:
        """What it is called in the log."""
        return "the command" if self.command else f"-m {self.module}" if self.module else self.path.name

    @property
    def uses_torch(self) -> bool:
        return bool(self.imports & TORCH_FAMILY)


def locate(job: Job) -> Script:
    """The script that the job's settings name, unread. Of code that is not there yet, as far as names tell.

    Raises ScriptMissing for a name that cannot be one, and for code that this user may not read.
    """
    folder, name = job.source, job.settings.script
    permission.check(folder, read=False)
    if job.settings.command:
        return Script(path=folder, folder=folder, command=job.settings.command)
    module = module_of(name)
    if module is None:
        path = folder / name
        permission.check(path, read=path.suffix in (".py", ".sh"))
        # The toolkit's module form: a program without a suffix, where the source is a package.
        module = name if may_be_module(name) and not path.exists() and is_package(folder) else ""
        if not module:
            return Script(path=path, folder=folder)
    if not _MODULE.fullmatch(module):
        raise ScriptMissing(f"{name!r} names no module. Write it as Python's own option: -m package.module")
    return Script(path=_module_file(folder, module) or folder, folder=folder, module=module)


def may_be_module(name: str) -> bool:
    """Whether the program's name can be that of a module, as AWS's toolkit has it, and is not that of a file."""
    return _MODULE.fullmatch(name) is not None and not name.endswith((".py", ".sh"))


def is_package(folder: Path) -> bool:
    """Whether pip can install the folder: a setup.py, or a pyproject.toml that is about more than tools."""
    if (folder / "setup.py").is_file():
        return True
    try:
        declared = (folder / "pyproject.toml").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return re.search(r"^\s*\[(?:project|build-system)\]", declared, re.MULTILINE) is not None


def look(script: Script) -> Script:
    """The same script with what it imports; ScriptMissing where it cannot be started."""
    path, folder = script.path, script.folder
    if script.command or script.module:
        if not folder.is_dir():
            raise ScriptMissing(
                f"there is no folder {folder} for {script.label} to run in. Name one with TRAINKIT_SOURCE, or put the "
                f"code there."
            )
        if script.module and not path.is_file() and (top := _top_package(script)):
            raise ScriptMissing(f"there is no module {script.module}: {top} {_entries(top)}. Compare the name.")
        # A module that is installed from elsewhere is unread: it says itself if it cannot be found.
        imports, needs_dynamo = _scan(path, home=folder) if path.is_file() else (frozenset(), False)
        return replace(script, imports=imports, needs_dynamo=needs_dynamo)
    permission.check(path, read=path.suffix in (".py", ".sh"))
    if not path.is_file():
        there = _entries(folder)
        raise ScriptMissing(
            f"there is no script {path}\n{folder} {there}. "
            f"Name the script with TRAINKIT_SCRIPT, its folder with TRAINKIT_SOURCE, or put it there."
        )
    imports, needs_dynamo = _scan(path, home=path.parent) if script.is_python else (frozenset(), False)
    return Script(path, folder, imports, needs_dynamo, executable=os.access(path, os.X_OK))


def _top_package(script: Script) -> Path | None:
    """The folder of the package that the module must be in, where the source has it."""
    top = script.folder / (script.module or "").partition(".")[0]
    return top if top.is_dir() and not is_package(script.folder) else None


def _module_file(folder: Path, module: str) -> Path | None:
    """The file in the folder, or in its src/, that `python -m module` would run."""
    inner = Path(*module.split("."))
    names = (inner.with_suffix(".py"), inner / "__main__.py")
    candidates = [base / name for base in (folder, folder / "src") for name in names]
    return next((path for path in candidates if permission.is_file(path)), None)


def _scan(entry: Path, *, home: Path) -> tuple[frozenset[str], bool]:
    """Top-level names imported by `entry` and by its own modules below `home`, and whether one needs torch._dynamo.

    By text: a mention in a docstring counts too. It costs an import nobody needed, never a wrong result.
    """
    found: set[str] = set()
    needs_dynamo = False
    queue, seen = [entry], {entry}
    while queue and len(seen) <= _MOST_FILES:
        try:
            text = queue.pop().read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        needs_dynamo = needs_dynamo or bool(_DYNAMO.search(text))
        for source, listed in _IMPORT.findall(text):
            for name in [source] if source else [part.split()[0] for part in listed.split(",") if part.split()]:
                found.add(name.split(".")[0])
                for module in _own_modules(home, name):
                    if module not in seen:
                        seen.add(module)
                        queue.append(module)
    return frozenset(found), needs_dynamo or bool(found & (TORCH_FAMILY - {"torch"}))


def _own_modules(folder: Path, name: str) -> list[Path]:
    """The files in `folder` that importing `name` runs."""
    parts = [part for part in name.split(".") if part]
    packages = [folder.joinpath(*parts[:depth], "__init__.py") for depth in range(1, len(parts) + 1)]
    module = folder.joinpath(*parts).with_suffix(".py") if parts else None
    return [file for file in [*packages, module] if file and permission.is_file(file)]


def _entries(folder: Path) -> str:
    try:
        names = sorted(entry.name for entry in folder.iterdir())
    except FileNotFoundError:
        return "does not exist"
    except OSError as error:
        return f"cannot be listed ({error.strerror})"
    shown = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
    return f"holds {shown}" if names else "is empty"
