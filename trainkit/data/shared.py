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
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

_ALIGNED = 64
_APART = 4096  # bytes: smaller buffers stay within the pickle
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


class Parcel(NamedTuple):
    """A value in shared memory. `descriptor` is this process's own: close it, or take the value."""

    descriptor: int
    slot: int
    """Which of the sender's memories that are used again and again it lies in; -1: none."""
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


class Mapped:
    """All of a descriptor's memory, writable. Python's own mmap would keep a descriptor for each batch in use."""

    def __init__(self, descriptor: int) -> None:
        self.size = os.fstat(descriptor).st_size
        place = _libc.mmap(None, self.size, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED, descriptor, 0)
        if place == ctypes.c_void_p(-1).value:
            raise OSError(ctypes.get_errno(), "mmap")
        self._place = place
        weakref.finalize(self, _libc.munmap, place, self.size).atexit = False  # at exit, views may outlive finalizers

    def view(self, freed: Callable[[], None] | None = None) -> memoryview:
        """All of it. `freed` is called, by whatever thread, when nothing looks at it any more."""
        array = (ctypes.c_ubyte * self.size).from_address(self._place)
        # Arrays and tables made of it hold the array, and its finalizer holds the memory.
        weakref.finalize(array, _looked, self, freed).atexit = False
        return memoryview(array).cast("B")


def _looked(mapped: Mapped, freed: Callable[[], None] | None) -> None:
    if freed:
        freed()


def new() -> int:
    """A descriptor of shared memory."""
    return os.memfd_create("trainkit")


def make(value: Any, *, into: int | None = None, slot: int = -1) -> Parcel:
    """The value, copied once, `into` memory that has been used before, or new one. Raises what pickling it raises."""
    import pyarrow as pa

    descriptor = new() if into is None else into
    try:
        if isinstance(value, pa.Table):
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, value.schema) as stream:
                stream.write_table(value)
            # Written, not mapped: the kernel then clears no page before it is filled.
            data = memoryview(sink.getvalue())
            _make_room(descriptor, len(data))
            _pour(descriptor, data, 0)
            return Parcel(descriptor, slot, True)
        return _of_value(value, descriptor, slot)
    except BaseException:
        if into is None:
            os.close(descriptor)
        raise


def value(parcel: Parcel) -> Any:
    """What was made, as views of the shared memory; closes the descriptor."""
    try:
        mapped = Mapped(parcel.descriptor)
    finally:
        os.close(parcel.descriptor)
    return read(parcel, mapped.view())


def read(parcel: Parcel, view: memoryview) -> Any:
    """What was made, where its memory is mapped already."""
    import pyarrow as pa

    if parcel.table:
        with pa.ipc.open_stream(pa.py_buffer(view)) as stream:
            return stream.read_all()
    spans = np.frombuffer(view, np.int64, 2 * parcel.buffers, parcel.payload + parcel.length).reshape(-1, 2)
    buffers = [view[start : start + length] for start, length in spans.tolist()]
    return pickle.loads(view[parcel.payload : parcel.payload + parcel.length], buffers=buffers)


def _of_value(value: Any, descriptor: int, slot: int) -> Parcel:
    apart: list[memoryview] = []

    def within(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes >= _APART:
            apart.append(raw)
        return raw.nbytes < _APART

    out = io.BytesIO()
    Pickler(out, protocol=5, buffer_callback=within).dump(value)
    at, spans, said = 0, [], out.getbuffer()
    _make_room(descriptor, sum(raw.nbytes + _ALIGNED + 16 for raw in apart) + len(said))
    for raw in apart:
        _pour(descriptor, raw, at)
        spans.append((at, raw.nbytes))
        at += -(-raw.nbytes // _ALIGNED) * _ALIGNED
    _pour(descriptor, said, at)
    _pour(descriptor, memoryview(np.array(spans, np.int64).tobytes()), at + len(said))
    return Parcel(descriptor, slot, False, at, len(said), len(spans))


def _make_room(descriptor: int, size: int) -> None:
    """In powers of two, so that the next batch finds it large enough; what is not written to is no memory."""
    if os.fstat(descriptor).st_size < size:
        os.ftruncate(descriptor, 1 << max(16, (size - 1).bit_length()))


def _pour(descriptor: int, data: memoryview, at: int) -> None:
    while data:
        written = os.pwrite(descriptor, data, at)
        data, at = data[written:], at + written


def _tensor(data: Any, dtype: str, shape: tuple[int, ...], requires_grad: bool) -> Any:
    import torch

    if not data.flags.writeable:  # small ones came within the pickle
        data = data.copy()
    tensor = torch.from_numpy(data).view(getattr(torch, dtype.removeprefix("torch."))).reshape(shape)
    return tensor.requires_grad_() if requires_grad else tensor
