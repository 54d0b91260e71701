"""What a script asks of its job, as far as its text tells: arguments, hyperparameters, channels, files, words.

Nothing is run or imported; what is computed at run time stays unknown, and no check then speaks of it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from trainkit.check.code import Module

UNKNOWN: Any = object()
"""A value that only running the script would tell."""


@dataclass(frozen=True, slots=True)
class Argument:
    """One add_argument, or one field of a dataclass that HfArgumentParser reads."""

    where: str
    names: tuple[str, ...]
    type: str = ""
    """The type's name as written; "" where there is none, "?" where it is no plain name."""
    action: str = "store"
    required: bool = False
    choices: tuple[object, ...] | None = None
    nargs: object = None
    of_dataclass: bool = False

    @property
    def is_option(self) -> bool:
        return self.of_dataclass or any(name.startswith("-") for name in self.names)

    @property
    def takes_value(self) -> bool:
        return self.action in ("store", "append", "extend") and self.nargs != 0


@dataclass(frozen=True, slots=True)
class Asked:
    """One job.hp(name, default)."""

    where: str
    name: str
    has_default: bool
    default: object = None


@dataclass(frozen=True, slots=True)
class Said:
    """A text of the script: of `call`'s arguments where it is one, "" elsewhere."""

    where: str
    text: str
    call: str = ""


@dataclass(frozen=True, slots=True)
class Called:
    """One call by its last name; `whole` has the dots. Values are constants, or UNKNOWN."""

    where: str
    name: str
    whole: str
    values: tuple[object, ...] = ()
    named: dict[str, object] = field(default_factory=dict)
    guarded: bool = False
    """Whether it stands below an `if`: then it need not happen."""


@dataclass(slots=True)
class Uses:
    """All of it, over the script and its own modules."""

    arguments: list[Argument] = field(default_factory=list)
    parses: str = ""
    """Where an argument parser is asked, "" where none is."""
    knows_all: bool = True
    """Whether every argument could be read."""
    lenient: bool = False
    """Whether what is unknown is let pass: parse_known_args."""
    other_parser: str = ""
    asked: list[Asked] = field(default_factory=list)
    texts: list[Said] = field(default_factory=list)
    calls: list[Called] = field(default_factory=list)
    words: set[str] = field(default_factory=set)
    imported: set[str] = field(default_factory=set)
    subscripts: list[Said] = field(default_factory=list)
    """os.environ["NAME"]: what fails where it is not there."""

    def called(self, *names: str) -> list[Called]:
        return [call for call in self.calls if call.name in names]

    def mentions(self, *words: str) -> bool:
        """Whether one of the words is an identifier of the script, or part of a text in it."""
        return any(word in self.words or any(word in said.text for said in self.texts) for word in words)


def look(modules: Iterable[Module]) -> Uses:
    """Read all of them into one."""
    uses = Uses()
    trees = [(module, module.tree) for module in modules if module.tree]
    classes = {
        node.name: (module, node) for module, tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)
    }
    for module, tree in trees:
        _Reader(module, uses, classes).visit(tree)
    return uses


_OTHER_PARSERS = frozenset({"click", "typer", "fire", "absl", "hydra", "jsonargparse", "simple_parsing", "tyro"})


class _Reader(ast.NodeVisitor):
    def __init__(self, module: Module, uses: Uses, classes: dict[str, tuple[Module, ast.ClassDef]]) -> None:
        self._module, self._uses, self._classes = module, uses, classes
        self._call = ""
        self._ifs = 0

    def visit_If(self, node: ast.If | ast.IfExp) -> None:
        main = "__main__" in ast.dump(node.test)
        self._ifs += not main
        self.generic_visit(node)
        self._ifs -= not main

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self.visit_If(node)

    def visit_Import(self, node: ast.Import) -> None:
        self._imported(*(name.name for name in node.names))

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        if not node.level:
            self._imported(node.module or "")
        self._uses.words |= {name.name for name in node.names}

    def _imported(self, *names: str) -> None:
        tops = {name.split(".")[0] for name in names}
        self._uses.imported |= tops
        self._uses.words |= {part for name in names for part in name.split(".")}
        self._uses.other_parser = self._uses.other_parser or next(iter(sorted(tops & _OTHER_PARSERS)), "")

    def visit_Name(self, node: ast.Name) -> None:
        self._uses.words.add(node.id)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self._uses.words.add(node.attr)
        self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> None:
        if not isinstance(node.value, ast.Constant):  # a docstring is no use of anything
            self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, str):
            self._uses.texts.append(Said(self._module.at(node), node.value, self._call))

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        parts = [part.value if isinstance(part, ast.Constant) else "0.345" for part in node.values]
        self._uses.texts.append(Said(self._module.at(node), "".join(map(str, parts)), self._call))
        for part in node.values:
            if isinstance(part, ast.FormattedValue):
                self.visit(part)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        if isinstance(node.ctx, ast.Load) and _dotted(node.value).endswith("environ") and _is_text(node.slice):
            self._uses.subscripts.append(Said(self._module.at(node), str(constant(node.slice))))
        self.generic_visit(node)

    def visit_keyword(self, node: ast.keyword) -> None:
        self._uses.words.add(node.arg or "")
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        whole = _dotted(node.func)
        name = whole.rpartition(".")[2]
        named = {word.arg: constant(word.value) for word in node.keywords if word.arg}
        called = Called(self._module.at(node), name, whole, tuple(map(constant, node.args)), named, self._ifs > 0)
        self._uses.calls.append(called)
        self._uses.words.add(name)
        if name == "add_argument":
            self._argument(node, called)
        elif name in ("parse_args", "parse_known_args", "parse_args_into_dataclasses"):
            self._uses.parses = self._uses.parses or called.where
            self._uses.lenient |= name == "parse_known_args" or bool(named.get("return_remaining_strings"))
        elif name in ("add_arguments", "add_subparsers"):
            self._uses.knows_all = False
        elif name == "HfArgumentParser":
            self._dataclasses(node.args[0] if node.args else None)
        elif name == "hp" and called.values and isinstance(called.values[0], str):
            default = called.values[1] if len(called.values) > 1 else named.get("default", UNKNOWN)
            has = len(called.values) > 1 or "default" in named
            self._uses.asked.append(Asked(called.where, called.values[0], has, default))
        outer, self._call = self._call, name
        for child in [*node.args, *node.keywords]:
            self.visit(child)
        self._call = outer
        self.visit(node.func)

    def _argument(self, node: ast.Call, called: Called) -> None:
        if not called.values or not all(isinstance(name, str) for name in called.values):
            self._uses.knows_all = False
            return
        given = {word.arg: word.value for word in node.keywords if word.arg}
        if any(word.arg is None for word in node.keywords):  # **options
            self._uses.knows_all = False
            return
        choices = called.named.get("choices")
        action = called.named.get("action", "store")
        self._uses.arguments.append(
            Argument(
                called.where, tuple(map(str, called.values)),
                type=(_dotted(given["type"]) or "?") if "type" in given else "",
                action=action if isinstance(action, str) else _dotted(given["action"]).rpartition(".")[2] or "?",
                required=called.named.get("required") is True,
                choices=tuple(choices) if isinstance(choices, list | tuple) and UNKNOWN not in choices else None,
                nargs=called.named.get("nargs"),
            )
        )  # fmt: skip

    def _dataclasses(self, given: ast.expr | None) -> None:
        listed = given.elts if isinstance(given, ast.Tuple | ast.List) else [given] if given else []
        for one in listed:
            found = self._classes.get(_dotted(one).rpartition(".")[2])
            if not found or found[1].bases:  # transformers' own TrainingArguments: a hundred fields, not here to see
                self._uses.knows_all = False
            if found:
                self._uses.arguments += _fields(*found)


def _fields(module: Module, node: ast.ClassDef) -> Iterator[Argument]:
    for field_ in node.body:
        if isinstance(field_, ast.AnnAssign) and isinstance(field_.target, ast.Name):
            name = field_.target.id
            kind = ast.unparse(field_.annotation).replace("Optional[", "").rstrip("]").split(" | ")[0].strip("'\"")
            given = {word.arg for word in field_.value.keywords} if isinstance(field_.value, ast.Call) else {"default"}
            needed = field_.value is None or not given & {"default", "default_factory"}
            yield Argument(
                module.at(field_), (f"--{name}", f"--{name.replace('_', '-')}"), of_dataclass=True, required=needed,
                type=kind if kind in ("int", "float", "bool", "str") else "?", nargs="?" if kind == "bool" else None,
            )  # fmt: skip


def constant(node: ast.expr) -> object:
    """The value of a literal; UNKNOWN for everything else."""
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return UNKNOWN


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _dotted(node: ast.expr | None) -> str:
    """`os.environ` of an attribute, `parse_args` of the method of something computed; "" where it has no name."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        base = _dotted(node.value)
        return f"{base}.{node.attr}" if base else node.attr
    return ""
