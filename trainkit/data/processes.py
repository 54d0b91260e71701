"""Processes that run a stream's transform, for those that hold Python's lock.

    feeding thread                                           worker (of N)
    rows of several batches ─ Arrow IPC ─▶ memfd ─────────▶  maps them, once
    first row, rows of a batch ──────────────────────────▶   slices, transforms
    views of the memory     ◀─ memfd ◀─ Arrow IPC, or a pickle with its arrays beside it

Batches come back in the order in which they went out, whoever makes them and however long that takes. At most _DEPTH of
them for each process are out or waiting to be taken. Processes are started clean rather than forked: this one has
threads, and perhaps a GPU. There is no file and no name anywhere: descriptors, which end with those who hold them.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from trainkit.data import portable, raised, shared, worker
from trainkit.data.shared import Mapped, Parcel
from trainkit.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

_DEPTH = 2  # batches for each process: the one that it makes, and the next
_LOOK = 1000  # milliseconds of silence after which it is looked whether all are there
_LEAVING = 10.0  # seconds in which a process that is cut off has to end
_START = "import json, sys; sys.path[:] = json.loads(sys.argv[3]); from trainkit.data.worker import main; main(*map(int, sys.argv[1:3]))"  # noqa: E501
_ENVIRON = {"OMP_NUM_THREADS": "1"}  # as many processes as there are cores, each with as many threads, are too many


@dataclass(slots=True, eq=False)
class _Batch:
    """One that was asked for."""

    of: _Process
    wanted: bool = True
    answer: tuple[int, Parcel] | None = None

    def drop(self) -> None:
        """Nobody will take it, now or when it comes."""
        self.wanted = False
        if self.answer:
            os.close(self.answer[1].descriptor)
            self.of.freed.append(self.answer[1].slot)


@dataclass(slots=True, eq=False)
class _Process:
    process: subprocess.Popen[bytes]
    control: socket.socket
    life: int
    """The end of a pipe: the process lives as long as it is open."""
    out: deque[_Batch] = field(default_factory=deque)
    rows: object = None
    """The table that it has."""
    mapped: dict[int, Mapped] = field(default_factory=dict)
    """Its memories that are used again, as they are mapped here."""
    freed: deque[int] = field(default_factory=deque)
    """Those that nobody looks at any more, and it does not know."""
    retired: set[int] = field(default_factory=set)
    """Those that a fork of this process may go on to look at."""

    def take(self, parcel: Parcel) -> Any:
        """The value, as views of memory that is free again when they are gone."""
        if parcel.slot < 0:
            return shared.value(parcel)
        try:
            mapped = self.mapped.get(parcel.slot)
            if mapped is None or mapped.size < os.fstat(parcel.descriptor).st_size:
                mapped = self.mapped[parcel.slot] = Mapped(parcel.descriptor)
        finally:
            os.close(parcel.descriptor)
        return shared.read(parcel, mapped.view(partial(self.freed.append, parcel.slot)))

    def settle(self) -> None:
        """Tell it which of its memories are free."""
        while self.freed:
            slot = self.freed.popleft()
            if slot in self.retired:
                self.retired.remove(slot)
                self.mapped.pop(slot, None)
                worker.send(self.control, worker.RETIRE, Parcel(-1, slot, False))
            elif slot >= 0:
                worker.send(self.control, worker.FREE, Parcel(-1, slot, False))


class Processes:
    """`count` processes with one transform. Used by one thread at a time; close it at the end."""

    def __init__(self, transform: Callable[[pa.Table], Any], count: int) -> None:
        """Raises DataError where the transform cannot be sent to another process."""
        if not hasattr(os, "memfd_create"):
            raise DataError(
                "processes= needs memfd_create, which Linux has. Leave it out: threads give the same batches"
            )
        self._name = portable.name(transform)
        self.pid = os.getpid()
        code = shared.make(portable.dumps(transform))
        self._processes: list[_Process] = []
        self._finalizer = weakref.finalize(self, _end, self._processes, self.pid)
        _ALL.add(self)
        try:
            for _ in range(count):
                self._processes.append(_start())
                self._send(self._processes[-1], worker.LOAD, code)
        finally:
            os.close(code.descriptor)

    @property
    def pids(self) -> list[int]:
        return [one.process.pid for one in self._processes]

    @property
    def alive(self) -> bool:
        """Whether it can be used: in this process, and with all of its own."""
        return self.pid == os.getpid() and self._finalizer.alive

    def through(self, chunks: Iterable[tuple[int, pa.Table]], *, size: int) -> Generator[Any, None, None]:
        """What the transform makes of each batch of `size` rows: of each chunk its batches, as many as it says.

        Raises what the transform raises, with its traceback; DataError where a process dies.
        """
        batches: deque[_Batch] = deque()
        try:
            for steps, rows in chunks:
                sent = shared.make(rows)
                try:
                    for step in range(steps):
                        batches.append(self._ask(rows, sent, step * size, min(size, max(0, len(rows) - step * size))))
                        if len(batches) == _DEPTH * len(self._processes):
                            yield self._made(batches)
                finally:
                    os.close(sent.descriptor)
            while batches:
                yield self._made(batches)
        finally:
            for batch in batches:
                batch.drop()

    def close(self) -> None:
        """End the processes, whatever they are at."""
        self._finalizer()

    def _ask(self, rows: pa.Table, sent: Parcel, first: int, count: int) -> _Batch:
        # There is room, but for batches that nobody wants any more.
        while len((idlest := min(self._processes, key=lambda one: len(one.out))).out) >= _DEPTH:
            self._wait()
        if idlest.rows is not rows:
            self._send(idlest, worker.ROWS, sent)
            idlest.rows = rows
        self._send(idlest, worker.BATCH, Parcel(-1, -1, True, first, count))
        batch = _Batch(idlest)
        idlest.out.append(batch)
        return batch

    def _made(self, batches: deque[_Batch]) -> Any:
        while not (answer := batches[0].answer):
            self._wait()
        kind, parcel = answer
        value = batches.popleft().of.take(parcel)
        if kind == worker.RAISED:
            raise raised.unpack(value)
        return value

    def _wait(self) -> None:
        """For an answer."""
        waiting = select.poll()
        by_descriptor = {one.control.fileno(): one for one in self._processes}
        for descriptor in by_descriptor:
            waiting.register(descriptor, select.POLLIN)
        while not (heard := waiting.poll(_LOOK)):
            # A child of a transform's own keeps the line open, from which its parent will say nothing any more.
            for one in self._processes:
                if one.process.poll() is not None:
                    raise self._dead(one)
        for descriptor, _ in heard:
            one = by_descriptor[descriptor]
            answer = worker.receive(one.control)
            if answer is None:
                raise self._dead(one)
            batch = one.out.popleft()
            batch.answer = answer
            if not batch.wanted:
                batch.drop()

    def _send(self, one: _Process, kind: int, parcel: Parcel) -> None:
        try:
            one.settle()
            worker.send(one.control, kind, parcel)
        except OSError as error:
            raise self._dead(one) from error

    def _dead(self, one: _Process) -> DataError:
        with suppress(subprocess.TimeoutExpired):
            one.process.wait(_LEAVING)
        status = one.process.returncode
        self.close()
        how = "is cut off, and did not end" if status is None else f"exited with {status}"
        if status is not None and status < 0:
            how = f"was killed by {_signal(-status)}"
        if status == -signal.SIGKILL:
            how += ", as the kernel does where memory runs out"
        return DataError(
            f"a process that ran the transform {self._name} {how} (process {one.process.pid}). What it said is above. "
            f"Look for native code that crashes, or for memory; without processes= it runs in a thread"
        )


def _start() -> _Process:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    theirs_life, life = os.pipe2(os.O_CLOEXEC)
    with theirs:
        argv = [sys.executable, "-c", _START, str(theirs.fileno()), str(theirs_life), json.dumps(sys.path)]
        try:
            process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, pass_fds=(theirs.fileno(), theirs_life), env={**os.environ, **_ENVIRON}
            )
        finally:
            os.close(theirs_life)
    return _Process(process, ours, life)


def _end(processes: list[_Process], pid: int) -> None:
    if os.getpid() != pid:
        return
    for one in processes:
        one.process.kill()
    for one in processes:
        one.process.wait()
    _let_go(processes)


def _let_go(processes: list[_Process]) -> None:
    for one in processes:
        one.control.close()
        with suppress(OSError):
            os.close(one.life)
        for batch in one.out:
            batch.drop()
    processes.clear()


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


_ALL: weakref.WeakSet[Processes] = weakref.WeakSet()


def _forked() -> None:
    """A child of this process would keep the pipes open, and with them processes whose rank is gone."""
    for workers in list(_ALL):
        for one in workers._processes:
            one.process.returncode = 0  # it is no child of ours, and not to be waited for
        _let_go(workers._processes)


def _before_fork() -> None:
    """The child may look at batches for longer than we do: what they lie in is not to be filled again."""
    for workers in list(_ALL):
        for one in workers._processes:
            one.retired.update(one.mapped)


os.register_at_fork(before=_before_fork, after_in_child=_forked)
