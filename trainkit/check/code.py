"""A script and the folder that travels with it, read and parsed, never run."""

from __future__ import annotations

import ast
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

_SKIPPED = frozenset(
    {"__pycache__", "node_modules", "venv", "env", "site-packages", "build", "dist", "trainkit-output"}
)
_MOST_FILES = 400
_MOST_BYTES = 1 << 20
"""Of one file; what is larger is no module that a person wrote."""


@dataclass(frozen=True)
class Module:
    """One .py file. `name` is its path in the folder; `tree` is None where it does not parse, and `error` says why."""

    path: Path
    name: str
    text: str
    tree: ast.Module | None = None
    error: str = ""
    line: int = 0

    def at(self, node: ast.AST) -> str:
        """Where a node stands, for people."""
        return f"{self.name}:{getattr(node, 'lineno', 1)}"


@dataclass(frozen=True)
class Code:
    """`modules`: every .py file in the folder. `entry` is None where the script is none of Python's."""

    folder: Path
    script: Path
    modules: tuple[Module, ...] = ()
    requirements: tuple[str, ...] = ()
    """Names of distributions in requirements.txt, normalised."""
    has_requirements: bool = False
    others: tuple[str, ...] = ()
    """What else lies at the top of the folder."""

    @cached_property
    def entry(self) -> Module | None:
        return next((module for module in self.modules if module.path == self.script), None)

    @cached_property
    def closure(self) -> tuple[Module, ...]:
        """The entry and what it imports of its own folder, in the order in which that is found."""
        found = [self.entry] if self.entry else []
        by_path = {module.path: module for module in self.modules}
        for module in found:  # grows
            for one in imports(module):
                for path in self.files_of(one.name, module, level=one.level):
                    if path in by_path and by_path[path] not in found:
                        found.append(by_path[path])
        return tuple(found)

    def files_of(self, name: str, module: Module, *, level: int = 0) -> list[Path]:
        """The files of this folder that importing `name` runs. Packages without __init__.py run none."""
        base = self.script.parent if not level else module.path.parents[level - 1]
        parts = [part for part in name.split(".") if part]
        packages = [base.joinpath(*parts[:depth], "__init__.py") for depth in range(1, len(parts) + 1)]
        single = [base.joinpath(*parts).with_suffix(".py")] if parts else []
        return [path for path in [*packages, *single] if path.is_file()]


@dataclass(frozen=True, slots=True)
class Import:
    """One import of a module, and whether the script can do without it: guarded by try, or by TYPE_CHECKING."""

    name: str
    line: int
    level: int = 0
    optional: bool = False
    names: tuple[str, ...] = ()
    """What `from` takes from it: values, or modules."""


def imports(module: Module) -> Iterator[Import]:
    """Every import statement of a module, deferred ones too."""
    if module.tree:
        yield from _imports(module.tree.body, optional=False)


def _imports(body: Sequence[ast.AST], *, optional: bool) -> Iterator[Import]:
    for node in body:
        if isinstance(node, ast.Import):
            yield from (Import(name.name, node.lineno, 0, optional) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            names = tuple(name.name for name in node.names)
            yield Import(node.module or "", node.lineno, node.level, optional, names)
        elif isinstance(node, ast.Try):
            caught = {name for handler in node.handlers for name in _caught(handler)}
            guarded = optional or bool(
                caught & {"", "ImportError", "ModuleNotFoundError", "Exception", "BaseException"}
            )
            yield from _imports(node.body, optional=guarded)
            yield from _imports([*node.handlers, *node.orelse, *node.finalbody], optional=guarded)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            yield from _imports(node.body, optional=True)
            yield from _imports(node.orelse, optional=optional)
        elif not isinstance(node, ast.expr):
            yield from _imports([*ast.iter_child_nodes(node)], optional=optional)


def _caught(handler: ast.ExceptHandler) -> Iterator[str]:
    if handler.type is None:
        yield ""
    for node in ast.walk(handler.type) if handler.type else ():
        if isinstance(node, ast.Name | ast.Attribute):
            yield node.id if isinstance(node, ast.Name) else node.attr


def read(script: Path, *, folder: Path | None = None, python: tuple[int, int] | None = None) -> Code:
    """The script's folder, parsed as `python` would (that of the image; this one's by default)."""
    script = script.absolute()
    folder = (folder or script.parent).absolute()
    modules = tuple(_module(path, folder, python) for path in _files(folder, first=script))
    requirements = folder / "requirements.txt"
    text = _text(requirements) if requirements.is_file() else ""
    return Code(
        folder, script, modules, tuple(_requirements(text)), requirements.is_file(),
        tuple(sorted(path.name for path in folder.iterdir())),
    )  # fmt: skip


def normal(distribution: str) -> str:
    """A distribution's name as all of them are compared."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def _files(folder: Path, *, first: Path) -> list[Path]:
    found = [first] if first.suffix == ".py" and first.is_file() else []
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in _SKIPPED and not name.startswith("."))
        modules = [Path(root, name) for name in sorted(names) if name.endswith(".py")]
        found += [path for path in modules if path != first and path.is_file()]  # a pipe would be waited for
        if len(found) > _MOST_FILES:
            break
    return found[:_MOST_FILES]


def _module(path: Path, folder: Path, python: tuple[int, int] | None) -> Module:
    name = path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)
    try:
        source = path.read_bytes()[:_MOST_BYTES]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a script's invalid escapes are its own business
            tree = ast.parse(source, filename=name, feature_version=python)
            compile(tree, name, "exec", dont_inherit=True)
        return Module(path, name, source.decode("utf-8", "replace"), tree)
    except SyntaxError as error:
        return Module(path, name, _text(path), error=error.msg, line=error.lineno or 0)
    except (OSError, ValueError, RecursionError) as error:
        return Module(path, name, "", error=str(error))


def _requirements(text: str) -> Iterator[str]:
    for line in text.splitlines():
        if (found := re.match(r"\s*([A-Za-z0-9][\w.-]*)", line.split("#")[0])) or (
            found := re.search(r"[#&]egg=([\w.-]+)", line)
        ):
            yield normal(found[1])


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
