"""Tensors and arrays, the leaves of a typed tree: what they are, how they lie in a file, and back.

Neither torch nor numpy is imported before a leaf of theirs is made. Where the one is not imported, nobody can hold
an object of its kind, so there is nothing to recognise.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

from trainkit.errors import CheckpointError

if TYPE_CHECKING:
    import numpy as np

SIZES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
    "I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8,
}  # fmt: skip
"""Bytes of an element, of the dtypes that every safetensors (0.4.5 and newer) can read."""
_TORCH = {
    "bool": ("BOOL", 1), "uint8": ("U8", 1), "int8": ("I8", 1), "int16": ("I16", 2), "uint16": ("U16", 2),
    "int32": ("I32", 4), "uint32": ("U32", 4), "int64": ("I64", 8), "uint64": ("U64", 8),
    "float16": ("F16", 2), "bfloat16": ("BF16", 2), "float32": ("F32", 4), "float64": ("F64", 8),
    "float8_e4m3fn": ("F8_E4M3", 1), "float8_e5m2": ("F8_E5M2", 1),
    "float8_e4m3fnuz": ("", 1), "float8_e5m2fnuz": ("", 1), "float8_e8m0fnu": ("", 1), "float4_e2m1fn_x2": ("", 1),
    "complex32": ("", 4), "complex64": ("", 8), "complex128": ("", 16),
}  # fmt: skip
_NUMPY = {
    "|b1": "BOOL", "|u1": "U8", "|i1": "I8", "<i2": "I16", "<u2": "U16", "<f2": "F16", "<i4": "I32", "<u4": "U32",
    "<f4": "F32", "<i8": "I64", "<u8": "U64", "<f8": "F64",
}  # fmt: skip
_KINDS = "biufcmMSU"
_NUMPY_NAME = re.compile(r"[<>|][biufcSU]\d{1,12}|[<>][mM]8(\[\d{0,12}[a-zA-Z]{1,2}\])?")
_DEVICE = re.compile(r"[a-z]{1,30}(:\d{1,3})?")
_MOST_DIMENSIONS = 64
_MOST_ELEMENTS = 1 << 60
_UNMADE = (ValueError, TypeError, OverflowError, RuntimeError, MemoryError)
"""What torch and numpy raise where a dtype, a shape or a device makes no sense to them."""


class Form(NamedTuple):
    """How a leaf lies in a safetensors file: dtype and shape in the file's own words, and its size in bytes."""

    dtype: str
    shape: tuple[int, ...]
    size: int


class Stored(NamedTuple):
    """A leaf as it lies in a file: not copied out yet. `data` is as long as the form says."""

    form: Form
    data: memoryview


class Described(NamedTuple):
    """What stands for a leaf, or for something of torch's, where people only want to know what it is."""

    tag: str
    what: str
    size: int = 0

    def __str__(self) -> str:
        return f"{self.tag} {self.what}"


class Refused(Exception):
    """An object that no tree can hold. `problem` follows its path; `remedy` is a sentence."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(problem, remedy)
        self.problem, self.remedy = problem, remedy


def type_name(kind: type) -> str:
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def describe(value: Any) -> tuple[str, Any] | None:
    """A tag and what follows it, for what is torch's or numpy's; None for other objects.

    Tags `tensor` and `array` are leaves, followed by dtype and shape. Raises Refused.
    """
    if (torch := sys.modules.get("torch")) and (found := _describe_torch(value, torch)):
        return found
    return _describe_numpy(value, numpy) if (numpy := sys.modules.get("numpy")) else None


def _describe_torch(value: Any, torch: ModuleType) -> tuple[str, Any] | None:
    if isinstance(value, torch.Tensor):
        return "tensor", _tensor(value, torch)
    if type(value) is torch.dtype:
        return "dtype", str(value).removeprefix("torch.")
    if type(value) is torch.Size:
        return "size", [int(length) for length in value]
    if type(value) is torch.device:
        return "device", str(value)
    return None


def _tensor(value: Any, torch: ModuleType) -> list[Any]:
    kind = type(value)
    if kind not in (torch.Tensor, torch.nn.Parameter) and not is_distributed(value):
        raise Refused(
            f"is a {type_name(kind)}, whose meaning a plain tensor would lose", "Save the tensors it is made of"
        )
    if value.is_nested or value.layout is not torch.strided:
        raise Refused(f"is a tensor of layout {value.layout}", "Save its parts, or its to_dense()")
    if value.is_meta:
        raise Refused("is a tensor on the meta device, without data", "Save it when it has been filled")
    name = str(value.dtype).removeprefix("torch.")
    if name not in _TORCH:
        raise Refused(f"is a tensor of {value.dtype}", "Save its integers (int_repr()) and how to read them")
    return [name, [int(length) for length in value.shape]]


def is_tensor(value: object) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def is_distributed(value: object) -> bool:
    """Whether it is a DTensor, which knows only a part of its own data."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and type(value) is module.DTensor


def _describe_numpy(value: Any, np: ModuleType) -> tuple[str, Any] | None:
    if not isinstance(value, np.ndarray | np.generic):
        return None
    kind, dtype = type(value), value.dtype
    if kind not in (np.ndarray, dtype.type):
        raise Refused(f"is a {type_name(kind)}", "Save it as a plain array: numpy.array(…, subok=False)")
    if dtype.kind not in _KINDS:
        raise Refused(f"holds {dtype}", "Save numbers, or a list: tolist()")
    if kind is np.ndarray:
        if not dtype.itemsize:
            raise Refused("is an array of empty strings", "Save its shape")
        return "array", [dtype.str, list(value.shape)]
    if isinstance(value, str | bytes):  # numpy's own way back would lose the zeros at their ends
        raw = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else bytes(value)
        return "scalar", ["U" if isinstance(value, str) else "S", raw.hex()]
    return "scalar", [dtype.str, value.tobytes().hex()]


def form(leaf: Any) -> Form:
    """How this leaf will lie in a file; of a DTensor it is the whole that counts, not this rank's part."""
    if isinstance(leaf, bytes | bytearray):
        return Form("U8", (len(leaf),), len(leaf))
    found = describe(leaf)
    if found is None or found[0] not in ("tensor", "array"):
        raise TypeError(f"a {type_name(type(leaf))} is no leaf of a tree")
    return _form(found[0], *found[1])


def _form(tag: str, dtype: str, shape: Sequence[int]) -> Form:
    if tag == "tensor":
        stored, item = _TORCH[dtype]
    else:
        stored, item = _NUMPY.get(dtype, ""), _numpy_dtype(dtype).itemsize
    size = math.prod(shape) * item
    return Form(stored, tuple(shape), size) if stored else Form("U8", (*shape, item), size)


def alignment(leaf: Any) -> int:
    """Bytes: a leaf's place in memory should be a multiple of it, and its size is one."""
    if isinstance(leaf, bytes | bytearray):
        return 1
    return int(leaf.dtype.itemsize if is_tensor(leaf) else leaf.dtype.alignment)


def copy_into(leaf: Any, target: memoryview) -> None:
    """Put the leaf's elements, row by row, where they belong: one copy, also from another device, if it is aligned.

    `target` is writable, made of bytes, and exactly as long as the leaf's form says.
    """
    if not len(target):
        return
    if isinstance(leaf, bytes | bytearray):
        target[:] = leaf
        return
    if is_tensor(leaf):
        torch = sys.modules["torch"]
        room, tensor = torch.frombuffer(target, dtype=torch.uint8), leaf.detach()
        if room.data_ptr() % tensor.element_size():  # torch's copy of complex128 ends with SIGSEGV there
            tensor = tensor.clone(memory_format=torch.contiguous_format)
            room.copy_(tensor.reshape(-1).view(torch.uint8))
        else:
            room.view(tensor.dtype).view(tensor.shape).copy_(tensor)
        return
    numpy = sys.modules["numpy"]
    numpy.frombuffer(target, dtype=leaf.dtype).reshape(leaf.shape)[...] = leaf


def make(tag: str, payload: Any, leaf: Any) -> Any:
    """The tensor or array, from its leaf: a Stored one is copied out, any other is returned if it is what it should be.

    `payload` is dtype and shape as `describe` gave them. Raises CheckpointError.
    """
    dtype, shape = _checked(tag, payload)
    wanted = _form(tag, dtype, shape)
    if not isinstance(leaf, Stored):
        try:
            found = describe(leaf)
        except Refused as refused:
            raise CheckpointError(f"what is given as its {tag} of {dtype} {shape} {refused.problem}") from None
        if found != (tag, [dtype, shape]):
            raise CheckpointError(f"its {tag} of {dtype} {shape} is given as {found or type_name(type(leaf))}")
        return leaf
    if leaf.form != wanted or len(leaf.data) != wanted.size:
        raise CheckpointError(f"its {tag} of {dtype} {shape} lies there as {leaf.form.dtype} {list(leaf.form.shape)}")
    try:
        return _tensor_of(dtype, shape, leaf.data) if tag == "tensor" else _array_of(dtype, shape, leaf.data)
    except _UNMADE as error:
        raise CheckpointError(f"its {tag} of {dtype} {shape} cannot be made: {error}") from None


def describe_stored(tag: str, payload: Any, leaf: Any) -> Described:
    """What `make` would make of a leaf in a file, checked as there; nothing is made, so nothing of torch is needed."""
    dtype, shape = _checked(tag, payload)
    if not isinstance(leaf, Stored) or leaf.form != _form(tag, dtype, shape) or len(leaf.data) != leaf.form.size:
        raise CheckpointError(f"its {tag} of {dtype} {shape} does not lie there")
    return Described(tag, f"{dtype} {shape}", leaf.form.size)


def describe_object(tag: str, payload: Any) -> Described:
    """What `torch_object` would make. Raises CheckpointError for what could not be one, as far as can be seen."""
    fits = type(payload) is list if tag == "size" else type(payload) is str
    if not fits:
        raise CheckpointError(f"{payload!r:.60} is no torch {tag}")
    return Described(tag, f"{payload!s:.80}")


def _checked(tag: str, payload: Any) -> tuple[str, list[int]]:
    if type(payload) is not list or len(payload) != 2 or type(payload[0]) is not str or type(payload[1]) is not list:
        raise CheckpointError(f"what it says of a {tag} is no dtype and shape")
    dtype, shape = payload
    if len(shape) > _MOST_DIMENSIONS or not all(type(one) is int and 0 <= one <= _MOST_ELEMENTS for one in shape):
        raise CheckpointError(f"a {tag} has no possible shape")
    if math.prod(shape) > _MOST_ELEMENTS:
        raise CheckpointError(f"a {tag} has no possible shape")
    if tag == "tensor" and dtype not in _TORCH:
        raise CheckpointError(f"a tensor's dtype is {dtype[:40]!r}, which this trainkit does not know")
    if tag == "array":
        _numpy_dtype(dtype)
    return dtype, shape


def _tensor_of(dtype: str, shape: list[int], data: memoryview) -> Any:
    torch = _torch()
    kind = _torch_dtype(dtype)
    # Not a tensor over a bytearray: torch's own memory is aligned, and can be pinned. And here, whatever the default.
    flat = torch.empty(len(data), dtype=torch.uint8, device="cpu")
    if len(data):
        memoryview(flat.numpy())[:] = data
    return flat.view(kind).view(shape)


def _array_of(dtype: str, shape: list[int], data: memoryview) -> np.ndarray[Any, Any]:
    import numpy as np

    array = np.empty(shape, dtype=_numpy_dtype(dtype))
    flat = array.reshape(-1)
    if len(data):
        flat.view(np.uint8)[:] = data
    if array.dtype.kind == "U":
        codes = flat.view(np.dtype("u4").newbyteorder(array.dtype.byteorder))
        if len(codes) and int(codes.max()) > sys.maxunicode:
            raise ValueError("there are characters in it that do not exist")
    return array


def _numpy_dtype(name: str) -> np.dtype[Any]:
    import numpy as np

    try:
        found = np.dtype(name) if _NUMPY_NAME.fullmatch(name) else None
    except _UNMADE:
        found = None
    if found is None or not found.itemsize or found.str != name:
        raise CheckpointError(f"an array's dtype is {name[:40]!r}, which numpy does not know here")
    return found


def scalar(payload: Any) -> Any:
    """A numpy scalar. Raises CheckpointError."""
    import numpy as np

    if type(payload) is not list or len(payload) != 2 or not all(type(part) is str for part in payload):
        raise CheckpointError("a numpy scalar is not given as dtype and bytes")
    dtype, text = payload
    try:
        raw = bytes.fromhex(text)
        if dtype == "U":
            return np.str_(raw.decode("utf-8", "surrogatepass"))
        if dtype == "S":
            return np.bytes_(raw)
        kind = _numpy_dtype(dtype)
        if kind.itemsize != len(raw) or kind.kind in "SU":
            raise CheckpointError(f"a numpy scalar of {dtype} has {len(raw)} bytes")
        return np.frombuffer(raw, dtype=kind)[0]
    except _UNMADE as error:
        raise CheckpointError(f"a numpy scalar cannot be made: {error}") from None


def torch_object(tag: str, payload: Any) -> Any:
    """A torch dtype, Size or device. Raises CheckpointError."""
    torch = _torch()
    if tag == "dtype" and type(payload) is str:
        return _torch_dtype(payload)
    try:
        if tag == "size" and type(payload) is list and all(type(length) is int for length in payload):
            return torch.Size(payload)
        if tag == "device" and type(payload) is str and _DEVICE.fullmatch(payload):
            return torch.device(payload)
    except _UNMADE as error:
        raise CheckpointError(f"a torch {tag} cannot be made: {error}") from None
    raise CheckpointError(f"{payload!r:.60} is no torch {tag}")


def _torch_dtype(name: str) -> Any:
    torch = _torch()
    # In what torch has already, and not by getattr: that imports some of its submodules when they are asked for.
    if not isinstance(found := vars(torch).get(name), torch.dtype):
        raise CheckpointError(f"{name[:40]!r} is no dtype of torch {torch.__version__}")
    return found


def _torch() -> ModuleType:
    try:
        import torch
    except ImportError as error:
        raise CheckpointError(f"it holds what only torch can make, and torch is not to be had: {error}") from None
    return torch
