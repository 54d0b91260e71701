"""One of the processes that run a stream's transform (see processes). It has nothing of the rank's but pipes.

    LOAD    descriptor             the transform
    ROWS    descriptor             a table of several batches
    BATCH   first row, rows        ─▶ MADE   a Parcel, or RAISED   a Parcel of trainkit.data.raised.Raised
    FREE    slot                   nobody looks at what lies there any more
    RETIRE  slot                   likewise, and it is not to be used again

It ends when the rank is gone, whatever the transform does at that time: the kernel kills it as the other end of a pipe
is closed. (The kernel's own way to die with a parent goes by the thread that started us, and feeding threads end.)
"""

from __future__ import annotations

import fcntl
import os
import pickle
import select
import signal
import socket
import struct
import sys
from collections.abc import Callable
from typing import Any

from trainkit.data import raised, shared
from trainkit.data.shared import Parcel

LOAD, ROWS, BATCH, FREE, RETIRE, MADE, RAISED = range(7)
_HEAD = struct.Struct("<Bq?qqq")
_SLOTS = 8  # memories that are filled again when the rank is done with them: new ones cost more than the copy does
_OWN_FRAMES = 1


def main(control: int, life: int) -> None:
    _die_with(life)
    # Ctrl-C and the harness's stop are the rank's to answer, who may want batches until its last step.
    for ignored in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ignored, signal.SIG_IGN)
    with socket.socket(fileno=control) as rank:
        _serve(rank)


def _serve(rank: socket.socket) -> None:
    work: Callable[[Any], Any] = _refuse
    rows: Any = None
    slots: dict[int, int] = {}
    free = list(range(_SLOTS))
    while message := receive(rank):
        kind, parcel = message
        if kind == LOAD:
            work = _load(parcel)
        elif kind == ROWS:
            rows = None  # its memory is free before the next
            rows = shared.value(parcel)
        elif kind == BATCH:
            slot = free.pop() if free else -1
            into = slots.pop(slot, -1)
            into = shared.new() if into < 0 else into
            send(rank, *_made(work, rows.slice(parcel.payload, parcel.length), into, slot))
            if slot < 0:
                os.close(into)
            else:
                slots[slot] = into
        else:
            free.append(parcel.slot)
            if kind == RETIRE:
                os.close(slots.pop(parcel.slot))


def _load(parcel: Parcel) -> Callable[[Any], Any]:
    try:
        work: Callable[[Any], Any] = pickle.loads(shared.value(parcel))
    except BaseException as error:  # noqa: BLE001 (its modules run their own code; the rank is told)
        failure = error
        failure.add_note("This happened when a process of processes= made the transform ready, before any row.")

        def fail(table: Any) -> Any:
            raise failure

        return fail
    if torch := sys.modules.get("torch"):
        torch.seed()  # else all processes would draw the same
    return work


def _made(work: Callable[[Any], Any], table: Any, into: int, slot: int) -> tuple[int, Parcel]:
    try:
        return MADE, shared.make(work(table), into=into, slot=slot)
    except BaseException as error:  # noqa: BLE001 (raised where it is heard: in the rank)
        return RAISED, shared.make(raised.pack(error, skip=_OWN_FRAMES), into=into, slot=slot)


def _refuse(table: Any) -> Any:
    raise RuntimeError("rows came before the transform")


def _die_with(life: int) -> None:
    fcntl.fcntl(life, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(life, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(life, fcntl.F_SETFL, fcntl.fcntl(life, fcntl.F_GETFL) | os.O_ASYNC)
    waiting = select.poll()
    waiting.register(life, 0)
    if waiting.poll(0):  # it was closed before we asked
        os._exit(1)


def send(to: socket.socket, kind: int, parcel: Parcel) -> None:
    """One message. The parcel's descriptor stays the sender's; -1: none. Raises OSError where nobody is there."""
    head = _HEAD.pack(kind, *parcel[1:])
    socket.send_fds(to, [head], [] if parcel.descriptor < 0 else [parcel.descriptor])


def receive(source: socket.socket) -> tuple[int, Parcel] | None:
    """The next message; None where the other side is gone."""
    try:
        head, descriptors, _, _ = socket.recv_fds(source, _HEAD.size, 1, socket.MSG_CMSG_CLOEXEC)
    except ConnectionError:
        return None
    if not head:
        return None
    kind, *facts = _HEAD.unpack(head)
    return kind, Parcel(descriptors[0] if descriptors else -1, *facts)
