"""An exception on its way from one process to another: with frames and causes, as if it had been raised here."""

from __future__ import annotations

import pickle
import sys
import traceback
import types
from typing import Any, NamedTuple


class Raised(NamedTuple):
    """An exception as it can be sent."""

    pickled: bytes
    """b"" where the exception itself cannot be sent."""
    kind: str
    said: str
    frames: tuple[tuple[str, int, str], ...]
    cause: Raised | None
    context: Raised | None
    quiet: bool
    """Whether the context is not to be shown."""


class Unsendable(Exception):
    """What stands in for an exception that cannot be pickled: its name and what it said."""


def pack(error: BaseException, *, skip: int = 0) -> Raised:
    """The exception without its first `skip` frames."""
    try:
        pickled = pickle.dumps(error)
        pickle.loads(pickled)
    except Exception:  # noqa: BLE001 (whatever its own code does when it is pickled: its name and text are left)
        pickled = b""
    steps = traceback.extract_tb(error.__traceback__)[skip:] if error.__traceback__ else ()
    frames = tuple((step.filename, step.lineno or 0, step.name) for step in steps)
    cause, context = error.__cause__, error.__context__
    return Raised(
        pickled, type(error).__qualname__, _text(error), frames, pack(cause) if cause else None,
        pack(context) if context and not cause else None, error.__suppress_context__,
    )  # fmt: skip


def unpack(raised: Raised) -> BaseException:
    """The exception, to be raised."""
    try:
        error = pickle.loads(raised.pickled) if raised.pickled else Unsendable(f"{raised.kind}: {raised.said}")
    except Exception:  # noqa: BLE001 (its class is not to be had in this process)
        error = Unsendable(f"{raised.kind}: {raised.said}")
    error.__cause__ = unpack(raised.cause) if raised.cause else None
    error.__context__ = unpack(raised.context) if raised.context else None
    error.__suppress_context__ = raised.quiet
    trace = None
    for filename, line, name in reversed(raised.frames):
        trace = types.TracebackType(trace, _frame(filename, name), -1, line)
    return error.with_traceback(trace)


def _frame(filename: str, name: str) -> types.FrameType:
    """A frame that says it is in that function: whoever prints a traceback, or looks for its own file, finds it."""
    code = compile("raise LookupError", filename, "exec").replace(co_name=name, co_qualname=name)
    try:
        exec(code, {"__name__": "trainkit.data.raised"})
    except LookupError:
        trace: Any = sys.exc_info()[2]
        frame: types.FrameType = trace.tb_next.tb_frame
        return frame
    raise AssertionError("the code raises")


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 (it is the script's own __str__)
        return "<exception str() failed>"
