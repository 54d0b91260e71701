"""Values in memory that two processes share, without a name that could be left behind: memfd_create.

    make(value) ─▶ buffers, one after the other ─▶ descriptor ─▶ another process ─▶ value(parcel): views of the memory

A table travels as Arrow IPC; anything else as a pickle whose large buffers (arrays, tensors) lie beside it, uncopied.
The memory is the kernel's as long as a descriptor or a view is left, and gone with the last process that has one. It is
none of /dev/shm: a container's limit of 64 MB there does not hold for it.
"""

from __future__ import annotations

import ctypes
import io
import mmap
import os
import pickle
import sys
import weakref
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

_ALIGNED = 64
_APART = 4096  # bytes: smaller buffers stay within the pickle
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


class Parcel(NamedTuple):
    """A value in shared memory. `descriptor` is this process's own: close it, or take the value."""

    descriptor: int
    table: bool
    payload: int = 0
    """Where the pickle begins; the buffers' places come behind it."""
    length: int = 0
    buffers: int = 0


class Pickler(pickle.Pickler):
    """Tensors as arrays: torch's own way copies them twice, into the pickle."""

    def reducer_override(self, obj: Any) -> Any:
        torch = sys.modules.get("torch")
        if torch is None or type(obj) is not torch.Tensor:
            return NotImplemented
        if obj.device.type != "cpu" or obj.layout != torch.strided or obj.is_quantized:
            raise pickle.PicklingError(f"a tensor on {obj.device} ({obj.layout}) lies in no memory to be shared")
        plain = obj.detach().resolve_conj().resolve_neg().contiguous()
        # numpy has no bfloat16 and its kin; bytes are bytes.
        return _tensor, (
            plain.reshape(-1).view(torch.uint8).numpy(),
            str(obj.dtype),
            tuple(obj.shape),
            obj.requires_grad,
        )


def make(value: Any) -> Parcel:
    """The value, copied once. Raises what pickling it raises."""
    import pyarrow as pa

    return _of_table(value) if isinstance(value, pa.Table) else _of_value(value)


def value(parcel: Parcel) -> Any:
    """What was made, as views of the shared memory; closes the descriptor."""
    import pyarrow as pa

    try:
        view = _mapped(parcel.descriptor)
    finally:
        os.close(parcel.descriptor)
    if parcel.table:
        with pa.ipc.open_stream(pa.py_buffer(view)) as stream:
            return stream.read_all()
    spans = np.frombuffer(view, np.int64, 2 * parcel.buffers, parcel.payload + parcel.length).reshape(-1, 2)
    buffers = [view[start : start + length] for start, length in spans.tolist()]
    return pickle.loads(view[parcel.payload : parcel.payload + parcel.length], buffers=buffers)


def _of_table(table: pa.Table) -> Parcel:
    import pyarrow as pa

    descriptor = _new()
    try:
        # Written, not mapped: the kernel then clears no page before it is filled.
        with (
            pa.OSFile(f"/proc/self/fd/{descriptor}", "wb") as sink,
            pa.ipc.new_stream(sink, table.schema) as stream,
        ):
            stream.write_table(table)
    except BaseException:
        os.close(descriptor)
        raise
    return Parcel(descriptor, table=True)


def _of_value(value: Any) -> Parcel:
    apart: list[memoryview] = []

    def within(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes >= _APART:
            apart.append(raw)
        return raw.nbytes < _APART

    out = io.BytesIO()
    Pickler(out, protocol=5, buffer_callback=within).dump(value)
    descriptor, at, spans = _new(), 0, []
    try:
        for raw in apart:
            _pour(descriptor, raw, at)
            spans.append((at, raw.nbytes))
            at += -(-raw.nbytes // _ALIGNED) * _ALIGNED
        _pour(descriptor, out.getbuffer(), at)
        _pour(descriptor, memoryview(np.array(spans, np.int64).tobytes()), at + len(out.getbuffer()))
    except BaseException:
        os.close(descriptor)
        raise
    return Parcel(descriptor, False, at, len(out.getbuffer()), len(spans))


def _new() -> int:
    return os.memfd_create("trainkit")


def _pour(descriptor: int, data: memoryview, at: int) -> None:
    while data:
        written = os.pwrite(descriptor, data, at)
        data, at = data[written:], at + written


def _mapped(descriptor: int) -> memoryview:
    """All of it, writable. Python's own mmap would keep a descriptor for each batch that somebody holds."""
    size = os.fstat(descriptor).st_size
    place = _libc.mmap(None, size, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED, descriptor, 0)
    if place == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), "mmap")
    array = (ctypes.c_ubyte * size).from_address(place)
    # Views hold the array, and the last of them takes the memory along; at exit views may outlive finalizers.
    weakref.finalize(array, _libc.munmap, place, size).atexit = False
    return memoryview(array).cast("B")


def _tensor(data: Any, dtype: str, shape: tuple[int, ...], requires_grad: bool) -> Any:
    import torch

    if not data.flags.writeable:  # small ones came within the pickle
        data = data.copy()
    tensor = torch.from_numpy(data).view(getattr(torch, dtype.removeprefix("torch."))).reshape(shape)
    return tensor.requires_grad_() if requires_grad else tensor
