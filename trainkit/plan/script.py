"""What the user's script is: where it lies, how it is started, and which libraries it will import."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from trainkit.contract.job import Job
from trainkit.errors import ScriptMissing

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


@dataclass(frozen=True, slots=True)
class Script:
    """The entry, its working directory, and the top-level names that it and its own modules import."""

    path: Path
    folder: Path
    imports: frozenset[str] = frozenset()
    needs_dynamo: bool = False
    executable: bool = False

    @property
    def is_python(self) -> bool:
        return self.path.suffix == ".py"

    @property
    def uses_torch(self) -> bool:
        return bool(self.imports & TORCH_FAMILY)


def locate(job: Job) -> Script:
    """The script that the job's settings name, unread."""
    return Script(path=job.source / job.settings.script, folder=job.source)


def look(script: Script) -> Script:
    """The same script with what it imports; ScriptMissing where it cannot be started."""
    path = script.path
    if not path.is_file():
        there = _entries(script.folder)
        raise ScriptMissing(
            f"there is no script {path}\n{script.folder} {there}. "
            f"Name the script with TRAINKIT_SCRIPT, its folder with TRAINKIT_SOURCE, or put it there."
        )
    imports, needs_dynamo = _scan(path) if script.is_python else (frozenset(), False)
    return Script(path, script.folder, imports, needs_dynamo, executable=os.access(path, os.X_OK))


def _scan(entry: Path) -> tuple[frozenset[str], bool]:
    """Top-level names imported by `entry` and by its own modules, and whether one of them needs torch._dynamo.

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
                for module in _own_modules(entry.parent, name):
                    if module not in seen:
                        seen.add(module)
                        queue.append(module)
    return frozenset(found), needs_dynamo or bool(found & (TORCH_FAMILY - {"torch"}))


def _own_modules(folder: Path, name: str) -> list[Path]:
    """The files in `folder` that importing `name` runs."""
    parts = [part for part in name.split(".") if part]
    packages = [folder.joinpath(*parts[:depth], "__init__.py") for depth in range(1, len(parts) + 1)]
    module = folder.joinpath(*parts).with_suffix(".py") if parts else None
    return [file for file in [*packages, module] if file and file.is_file()]


def _entries(folder: Path) -> str:
    try:
        names = sorted(entry.name for entry in folder.iterdir())
    except FileNotFoundError:
        return "does not exist"
    except OSError as error:
        return f"cannot be listed ({error.strerror})"
    shown = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
    return f"holds {shown}" if names else "is empty"
