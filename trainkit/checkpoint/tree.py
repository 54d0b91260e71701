"""A state as a typed tree: JSON for its structure, and the tensors, arrays and long bytes beside it as leaves.

    {"step": 7, "sum": tensor}   ⇄   {"dict": ["step", 7, "sum", {"tensor": ["optimizer.sum", "float32", [2, 3]]}]}

Null, true, false, numbers, strings and JSON arrays are None, bool, int and float, str and list. Every JSON object is
something else, and has one key, which says what:

    dict, ordered, counter                 key, value, key, value, …     (OrderedDict, Counter)
    defaultdict                            the factory's name or null, key, value, …
    tuple, set, frozenset                  their items; of the last two in the order of their JSON texts
    deque                                  maxlen or null, then its items
    int                                    hexadecimal, beyond ±2**53, where other languages' numbers end
    float                                  "nan", "inf" or "-inf"
    complex                                real and imaginary part
    str                                    UTF-8 as hexadecimal digits, where it has lone surrogates
    bytes, bytearray                       base64; above 256 bytes {"leaf": name}
    tensor, array                          the leaf's name, dtype, shape
    scalar                                 numpy's: dtype and bytes, in hexadecimal digits
    dtype, size, device                    torch's

A leaf is named by its path: `optimizer.state.0.exp_avg`, `rng.cuda[1]`; the same is said in errors. What is not
printable is escaped, long names are cut, and where a name is taken already, ~2, ~3, … is put behind it.

Types come back exactly, so subclasses are refused: a namedtuple or an Enum would have to be imported by name, which
is how reading a file becomes running code. Three things do not come back: that two references are to one object;
whether a tensor is a Parameter, wants a gradient, or lay on a GPU; and numpy's second names for one dtype (longlong).
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

from trainkit.checkpoint import leaves
from trainkit.errors import CheckpointError

DEPTH = 200
"""Containers within containers. Deeper ones would meet Python's own limit, here or where they are read."""
SHORT = 256
"""Bytes: longer ones are leaves."""
_EXACT = 1 << 53
_LONGEST = 190
_KEYS = (type(None), bool, int, float, complex, str, bytes, tuple, frozenset)
_FACTORIES = {kind.__name__: kind for kind in (bool, bytes, complex, dict, float, int, list, set, str, tuple)}
_TAGS: dict[type, str] = {
    dict: "dict", OrderedDict: "ordered", defaultdict: "defaultdict", tuple: "tuple", list: "list", set: "set",
    frozenset: "frozenset", deque: "deque", Counter: "counter",
}  # fmt: skip
_Mapping = TypeVar("_Mapping", bound=dict[Any, Any])
_HEX = re.compile(r"-?0x[0-9a-f]+")


class Packed(NamedTuple):
    """`structure` is pure JSON; `leaves` are torch tensors, numpy arrays, bytes or bytearrays, by name, not copied.

    After reading a file the leaves are leaves.Stored instead.
    """

    structure: object
    leaves: dict[str, Any]


def pack(value: object, *, where: str) -> Packed:
    """Take a state apart; `where` is what its paths begin with, "" for nothing.

    Raises CheckpointError for what cannot be brought back: it names the path, the type, and what to do.
    """
    packing = _Packing(where)
    try:
        return Packed(packing.value(value, ""), packing.leaves)
    except leaves.Refused as refused:
        place = _printable(packing.place) or "the state"
        raise CheckpointError(f"{place} {refused.problem}: it cannot be saved. {refused.remedy}") from None
    except RecursionError:
        place = _printable(packing.place) or "the state"
        raise CheckpointError(f"{place} lies too deep. Flatten it, or save it from further up the stack") from None


def unpack(structure: object, leaves: Mapping[str, Any], *, described: bool = False) -> Any:
    """Put a state together again. Runs no code of the file's: all it can make are the types above.

    Each leaf may be named once; leaves that are not named are no matter. With `described`, a leaves.Described stands
    for each tensor, array and thing of torch's, which needs no torch. Raises CheckpointError, without the place, for
    anything that `pack` could not have made.
    """
    try:
        return (_Describing if described else _Unpacking)(leaves).value(structure)
    except RecursionError:
        raise CheckpointError(f"its tree is deeper than {DEPTH}") from None


class _Packing:
    def __init__(self, where: str) -> None:
        self.leaves: dict[str, Any] = {}
        self._path = [where]
        self._open: set[int] = set()
        self._names: dict[str, int] = {"__metadata__": 1}  # safetensors' own

    @property
    def place(self) -> str:
        return "".join(self._path).removeprefix(".")

    def value(self, value: Any, step: str) -> object:
        kind = type(value)
        if value is None or kind is bool:
            return value
        if encode := _ENCODERS.get(kind):
            return encode(value)
        self._path.append(step)
        packed = self._container(value, kind) if kind in _TAGS else self._other(value, kind)
        self._path.pop()
        return packed

    def _container(self, value: Any, kind: type) -> object:
        if id(value) in self._open:
            raise leaves.Refused("contains itself", "Break the circle")
        if len(self._open) == DEPTH:
            raise leaves.Refused(f"is the {DEPTH + 1}st container within another", "Flatten it")
        self._open.add(id(value))
        packed: list[Any] = []
        if isinstance(value, dict):
            for key, item in value.items():
                _check_key(key)
                step = f".{_shown(key)}"
                packed.append(self.value(key, step))
                packed.append(self.value(item, step))
        else:
            for index, item in enumerate(value):
                if kind is set or kind is frozenset:
                    _check_key(item)
                packed.append(self.value(item, f"[{index}]"))
        self._open.discard(id(value))
        if kind is list:
            return packed
        if kind is set or kind is frozenset:  # the order of strings in a set differs between processes
            packed.sort(key=json.dumps)
        elif kind is deque:
            packed.insert(0, _integer(value.maxlen) if value.maxlen is not None else None)
        elif kind is defaultdict:
            packed.insert(0, _factory(value.default_factory))
        return {_TAGS[kind]: packed}

    def _other(self, value: Any, kind: type) -> object:
        if kind is bytes or kind is bytearray:
            if len(value) <= SHORT:
                return {kind.__name__: base64.b64encode(value).decode()}
            return {kind.__name__: {"leaf": self._leaf(value)}}
        found = leaves.describe(value)
        if found is None:
            raise leaves.Refused(f"is a {leaves.type_name(kind)}", _remedy(value))
        tag, payload = found
        return {tag: [self._leaf(value), *payload] if tag in ("tensor", "array") else payload}

    def _leaf(self, value: Any) -> str:
        base = name = _printable(self.place) or "value"
        while name in self._names:
            self._names[base] += 1
            name = f"{base}~{self._names[base]}"
        self._names[name] = 1
        self.leaves[name] = value
        return name


def _check_key(key: Any) -> None:
    """A key has to be equal to itself after a restart; a tensor's hash, say, is its address."""
    if isinstance(key, tuple | frozenset) and type(key) in _KEYS:
        for item in key:
            _check_key(item)
    elif type(key) not in _KEYS:
        found = leaves.describe(key)
        if found is None or found[0] in ("tensor", "array"):
            raise leaves.Refused(
                f"has a key that is a {leaves.type_name(type(key))}",
                "Use a string, a number, or a tuple of them",
            )


def _shown(key: Any) -> str:
    """A key as a step of a path."""
    if type(key) is str:
        return _printable(key)
    if type(key) in (bytes, int) or isinstance(key, tuple | frozenset):
        return f"({type(key).__name__})" if type(key) is not int or abs(key) > _EXACT else str(key)
    return _printable(str(key)) if type(key) in _KEYS else leaves.type_name(type(key))


def _printable(text: str) -> str:
    if len(text) > _LONGEST:
        text = f"{text[: _LONGEST - 70]}…{text[-69:]}"
    return text if text.isprintable() else ascii(text)[1:-1]


def _remedy(value: object) -> str:
    if isinstance(value, tuple) and hasattr(type(value), "_asdict"):
        return "Save its _asdict(), or a plain tuple"
    for kind in (bool, int, float, complex, str, bytes, bytearray, tuple, list, dict, set, frozenset, deque):
        if isinstance(value, kind):
            return f"Convert it: {kind.__name__}(…)"
    if callable(getattr(type(value), "state_dict", None)):
        return "Save its state_dict()"
    if callable(value):
        return "Functions are part of the program: leave it out of the state"
    return "Give it a state_dict, or convert it to numbers, strings, lists and dicts"


def _factory(factory: Any) -> str | None:
    if factory is None:
        return None
    name = getattr(factory, "__name__", "")
    if _FACTORIES.get(name) is not factory:
        raise leaves.Refused("is a defaultdict whose factory is no builtin type", "Save a plain dict: dict(…)")
    return str(name)


def _integer(value: int) -> object:
    return value if -_EXACT < value < _EXACT else {"int": hex(value)}


def _real(value: float) -> object:
    return value if math.isfinite(value) else {"float": "nan" if value != value else str(value)}


def _text(value: str) -> object:
    try:
        value.encode()
    except UnicodeEncodeError:
        return {"str": value.encode("utf-8", "surrogatepass").hex()}
    return value


def _pair(value: complex) -> object:
    return {"complex": [_real(value.real), _real(value.imag)]}


_ENCODERS: dict[type, Callable[[Any], object]] = {int: _integer, float: _real, complex: _pair, str: _text}


class _Unpacking:
    _make = staticmethod(leaves.make)
    _torch_object = staticmethod(leaves.torch_object)

    def __init__(self, leaves: Mapping[str, Any]) -> None:
        self._leaves = leaves
        self._used: set[str] = set()
        self._depth = 0

    def value(self, node: object) -> Any:
        if node is None or isinstance(node, bool | int | float | str):
            return node
        if type(node) is list:
            return self._container("list", node, list)
        if type(node) is not dict or len(node) != 1:
            raise CheckpointError(f"in its tree is {_extract(node)}, which is no value")
        tag, payload = next(iter(node.items()))
        if make := _CONTAINERS.get(tag):
            return self._container(tag, payload, make)
        if decode := _DECODERS.get(tag):
            try:
                return decode(payload)
            except (ValueError, TypeError, KeyError, OverflowError):
                raise CheckpointError(f"in its tree is {_extract(node)}, which is no {tag}") from None
        if tag in ("tensor", "array"):
            if type(payload) is not list or not payload:
                raise CheckpointError(f"in its tree is {_extract(node)}, which is no {tag}")
            return self._make(tag, payload[1:], self._leaf(payload[0]))
        if tag in ("bytes", "bytearray"):
            return self._bytes(tag, payload)
        if tag == "scalar":
            return leaves.scalar(payload)
        if tag in ("dtype", "size", "device"):
            return self._torch_object(tag, payload)
        raise CheckpointError(
            f"in its tree is {str(tag)[:40]!r}, which this trainkit does not know; install a newer one"
        )

    def _container(self, tag: str, payload: Any, make: Callable[[list[Any]], Any]) -> Any:
        if type(payload) is not list:
            raise CheckpointError(f"in its tree is a {tag} without items")
        if self._depth == DEPTH:
            raise CheckpointError(f"its tree is deeper than {DEPTH}")
        self._depth += 1
        items = []
        for node in payload:  # no comprehension: that is one frame more, at each of the levels
            items.append(self.value(node))
        self._depth -= 1
        try:
            return make(items)
        except (TypeError, ValueError, KeyError, OverflowError) as error:
            raise CheckpointError(f"in its tree is a {tag} that cannot be made: {error!s:.100}") from None

    def _bytes(self, tag: str, payload: Any) -> bytes | bytearray:
        kind = bytes if tag == "bytes" else bytearray
        if type(payload) is dict and payload.keys() == {"leaf"}:
            leaf = self._leaf(payload["leaf"])
            if isinstance(leaf, leaves.Stored):
                if leaf.form != leaves.Form("U8", (len(leaf.data),), len(leaf.data)):
                    raise CheckpointError(f"its {tag} lie there as {leaf.form.dtype} {list(leaf.form.shape)}")
                return kind(leaf.data)
            if type(leaf) is not kind:
                raise CheckpointError(f"its {tag} are given as {leaves.type_name(type(leaf))}")
            return leaf
        try:
            return kind(base64.b64decode(payload, validate=True))
        except (ValueError, TypeError):
            raise CheckpointError(f"in its tree are {tag} that are no base64") from None

    def _leaf(self, name: Any) -> Any:
        if type(name) is not str or name not in self._leaves:
            raise CheckpointError(f"its leaf {name!r:.80} is missing")
        if name in self._used:  # else a small file could fill the memory
            raise CheckpointError(f"its leaf {name!r:.80} is named twice")
        self._used.add(name)
        return self._leaves[name]


class _Describing(_Unpacking):
    _make = staticmethod(leaves.describe_stored)
    _torch_object = staticmethod(leaves.describe_object)


def _mapping(made: _Mapping, items: list[Any]) -> _Mapping:
    for index in range(0, len(items), 2):
        key, value = items[index : index + 2]
        _check_read_key(key)
        made[key] = value
    if len(made) * 2 != len(items):
        raise ValueError("two keys are equal")
    return made


def _collection(kind: type, items: list[Any]) -> Any:
    for item in items:
        _check_read_key(item)
    made = kind(items)
    if len(made) != len(items):
        raise ValueError("two items are equal")
    return made


def _check_read_key(key: Any) -> None:
    try:
        _check_key(key)
    except leaves.Refused as refused:
        raise ValueError(refused.problem) from None


def _deque(items: list[Any]) -> deque[Any]:
    if not items:
        raise ValueError("its greatest length is missing")
    if items[0] is not None and (type(items[0]) is not int or items[0] < len(items) - 1):
        raise ValueError("its greatest length is none")
    return deque(items[1:], items[0])


def _defaultdict(items: list[Any]) -> defaultdict[Any, Any]:
    if not items:
        raise ValueError("its factory is missing")
    made: defaultdict[Any, Any] = defaultdict(None if items[0] is None else _FACTORIES[items[0]])
    return _mapping(made, items[1:])


_CONTAINERS: dict[str, Callable[[list[Any]], Any]] = {
    "tuple": tuple,
    "dict": lambda items: _mapping({}, items),
    "ordered": lambda items: _mapping(OrderedDict(), items),
    "counter": lambda items: _mapping(Counter(), items),
    "defaultdict": _defaultdict,
    "set": lambda items: _collection(set, items),
    "frozenset": lambda items: _collection(frozenset, items),
    "deque": _deque,
}


def _whole(text: str) -> int:
    if not _HEX.fullmatch(text):
        raise ValueError
    return int(text, 16)


def _complex(parts: list[Any]) -> complex:
    real, imaginary = (part if type(part) is float else _SPECIAL[part["float"]] for part in parts)
    return complex(real, imaginary)


_SPECIAL = {text: float(text) for text in ("nan", "inf", "-inf")}
_DECODERS: dict[str, Callable[[Any], Any]] = {
    "int": _whole,
    "float": lambda text: _SPECIAL[text],
    "complex": _complex,
    "str": lambda digits: bytes.fromhex(digits).decode("utf-8", "surrogatepass"),
}


def _extract(node: object) -> str:
    """The beginning of what is there. Not of its repr: that may be as large as the file."""
    if isinstance(node, dict):
        return f"an object of {len(node)} keys" if len(node) != 1 else f"{{{str(next(iter(node)))[:40]!r}: …}}"
    return f"a {type(node).__name__}"
