"""A function on its way to another process.

What lies in a module goes as its name, as pickle does it. The training script itself cannot be imported there: it runs
as __main__, and to run it again would be to train again. So its functions and classes go as they are: the compiled code
and the globals that it uses, taken at this moment. Lambdas and functions within functions go likewise.
"""

from __future__ import annotations

import abc
import dataclasses
import dis
import functools
import importlib
import inspect
import io
import marshal
import pickle
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

from trainkit.data.shared import Pickler
from trainkit.errors import DataError

_NOT_COPIED = ("__dict__", "__weakref__", "_abc_impl")
_EMPTY = types.SimpleNamespace  # what a cell holds that holds nothing


def dumps(function: Callable[..., Any]) -> bytes:
    """Raises DataError naming the function, and what of it cannot be sent."""
    try:
        return _dumps(function)
    except Exception as error:  # objects raise anything when they are pickled
        raise DataError(
            f"transform {name(function)} cannot be sent to the processes of processes=: {_culprit(function)}{error}. "
            f"Make that within the function, put it into a module beside the script, or leave processes= out: threads "
            f"need none of it"
        ) from error


def name(function: Callable[..., Any]) -> str:
    """`tokenize (train.py:12)`."""
    inner = inspect.unwrap(function)
    while isinstance(inner, functools.partial):
        inner = inner.func
    code = getattr(inner, "__code__", None) or getattr(vars(type(inner)).get("__call__"), "__code__", None)
    own = getattr(inner, "__qualname__", type(inner).__qualname__)
    return f"{own} ({code.co_filename}:{code.co_firstlineno})" if code else own


class _Portable(Pickler):
    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, types.FunctionType):
            return NotImplemented if _has_a_name(obj) else _function(obj)
        if isinstance(obj, type) and obj.__module__ == "__main__" and sys.modules.get("__main__"):
            return _class(obj)
        if isinstance(obj, types.ModuleType):
            return importlib.import_module, (obj.__name__,)
        if isinstance(obj, staticmethod | classmethod):
            return type(obj), (obj.__func__,)
        if isinstance(obj, property):
            return property, (obj.fget, obj.fset, obj.fdel, obj.__doc__)
        if isinstance(obj, types.MappingProxyType):
            return _proxy, (dict(obj),)
        if type(obj).__module__ == "dataclasses":  # its marks are told by their identity
            for known, value in vars(dataclasses).items():
                if value is obj:
                    return known
        return super().reducer_override(obj)


def _proxy(mapping: dict[Any, Any]) -> Any:
    return types.MappingProxyType(mapping)


def _dumps(value: Any) -> bytes:
    out = io.BytesIO()
    _Portable(out, protocol=5).dump(value)
    return out.getvalue()


def _has_a_name(function: types.FunctionType) -> bool:
    """Whether another process finds it by module and name."""
    if function.__module__ in (None, "__main__"):
        return False
    found: Any = sys.modules.get(function.__module__)
    for part in function.__qualname__.split("."):
        found = getattr(found, part, None)
    return found is function


def _function(function: types.FunctionType) -> Any:
    code = function.__code__
    state = {
        "cells": [_content(cell) for cell in function.__closure__ or ()],
        "globals": _globals(function) if function.__module__ in (None, "__main__") else {},
        "facts": {
            "__defaults__": function.__defaults__, "__kwdefaults__": function.__kwdefaults__,
            "__qualname__": function.__qualname__, "__doc__": function.__doc__,
        },
        "dict": function.__dict__,
    }  # fmt: skip
    where = (function.__module__ or "__main__", _parts(function))
    return _make_function, (marshal.dumps(code), function.__name__, *where), state, None, None, _finish_function


def _make_function(code: bytes, name: str, module: str, parts: list[str]) -> types.FunctionType:
    for part in parts:
        importlib.import_module(part)
    compiled = marshal.loads(code)
    cells = tuple(types.CellType() for _ in compiled.co_freevars)
    function = types.FunctionType(compiled, vars(importlib.import_module(module)), name, None, cells)
    function.__module__ = module
    return function


def _finish_function(function: types.FunctionType, state: dict[str, Any]) -> None:
    function.__globals__.update(state["globals"])
    for cell, content in zip(function.__closure__ or (), state["cells"], strict=True):
        if content is not _EMPTY:
            cell.cell_contents = content
    for fact, value in state["facts"].items():
        setattr(function, fact, value)
    function.__dict__.update(state["dict"])


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:
        return _EMPTY


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def _globals(function: types.FunctionType) -> dict[str, Any]:
    """The globals that it reads: what instructions take from there, since attributes have names, too."""
    read = {
        step.argval
        for code in _codes(function.__code__)
        for step in dis.get_instructions(code)
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME")
    }
    return {name: function.__globals__[name] for name in sorted(read & function.__globals__.keys())}


def _parts(function: types.FunctionType) -> list[str]:
    """Submodules that its code reaches through a module: `import a.b` binds a, and a alone would come without b."""
    said = {name for code in _codes(function.__code__) for name in code.co_names}
    modules = {value.__name__ for value in _globals(function).values() if isinstance(value, types.ModuleType)}
    return sorted(
        other
        for module in modules
        for other, found in list(sys.modules.items())
        if found is not None and other.startswith(f"{module}.") and said.issuperset(other[len(module) + 1 :].split("."))
    )


def _class(kind: type) -> Any:
    if type(kind) not in (type, abc.ABCMeta):
        raise pickle.PicklingError(
            f"the class {kind.__qualname__} of the script is made by {type(kind).__qualname__}, and not to be copied"
        )
    members = {
        key: value
        for key, value in vars(kind).items()
        if key not in _NOT_COPIED and not isinstance(value, types.MemberDescriptorType | types.GetSetDescriptorType)
    }
    slots = {"__slots__": members.pop("__slots__")} if "__slots__" in members else {}
    return (
        _make_class,
        (type(kind), kind.__name__, kind.__qualname__, kind.__bases__, slots),
        members,
        None,
        None,
        _finish_class,
    )


def _make_class(meta: Any, name: str, qualname: str, bases: tuple[type, ...], slots: dict[str, Any]) -> Any:
    kind = meta(name, bases, {**slots, "__module__": "__main__", "__qualname__": qualname})
    if qualname == name:  # its instances go back by its name
        setattr(sys.modules["__main__"], name, kind)
    return kind


def _finish_class(kind: type, members: dict[str, Any]) -> None:
    for key, value in members.items():
        setattr(kind, key, value)


def _culprit(function: Any) -> str:
    """Which of its globals, or of what it closes over, it is."""
    if not isinstance(function, types.FunctionType):
        return ""
    closed = zip(function.__code__.co_freevars, map(_content, function.__closure__ or ()), strict=True)
    for held, value in [*_globals(function).items(), *closed]:
        try:
            _dumps(value)
        except Exception:  # noqa: BLE001 (as above)
            return f"{held}, which it uses, is {type(value).__qualname__}: "
    return ""
