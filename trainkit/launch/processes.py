"""Starting and reaping processes, by the kernel's own calls.

The supervisor may be PID 1: every orphan of the container is its child, so it reaps with waitpid(-1) and cannot share
that with `subprocess`, which waits for its own children behind its back. The process has one thread; fork is safe.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_LINUX = sys.platform == "linux"
_libc = ctypes.CDLL(None, use_errno=True) if _LINUX else None


class Ended(NamedTuple):
    """A child that is gone: its exit code, or minus the signal that killed it."""

    pid: int
    status: int


def become_reaper() -> None:
    """Adopt the orphans of our descendants, as PID 1 does anyway: no rank's child outlives the job unseen."""
    if _libc and os.getpid() != 1:
        _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def die_with_parent(parent: int) -> None:
    """Ask the kernel to kill this process when `parent` dies, even by SIGKILL. Outside containers nobody else would."""
    if _libc:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it died before we asked
            os.kill(os.getpid(), signal.SIGKILL)


def reap() -> Iterator[Ended]:
    """Every child that has ended since the last call."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        yield Ended(pid, os.waitstatus_to_exitcode(status))


def spawn(
    argv: Sequence[str],
    *,
    environ: Mapping[str, str],
    cwd: Path,
    output: int | None,
    keep: Sequence[int] = (),
) -> int:
    """Start `argv` and return its pid. Raises OSError where it cannot be executed.

    With `output`, that descriptor becomes stdout and stderr, stdin is empty, and the process leads a session of its
    own, so that the whole of it can be signalled. Without, it shares our terminal. `keep` stays open in it.
    """
    parent = os.getpid()
    arguments, variables = [encode(part) for part in argv], {encode(k): encode(v) for k, v in environ.items()}
    path = environ.get("PATH", os.defpath)
    told, tell = os.pipe2(os.O_CLOEXEC) if _LINUX else os.pipe()
    pid = os.fork()
    if pid:
        os.close(tell)
        hear_failure(told, pid)
        return pid
    what = argv[0]
    try:  # in the child: nothing but exec or _exit may come out of here
        reset_signals()
        if output is not None:
            os.setsid()
            redirect(output)
        die_with_parent(parent)
        for descriptor in keep:
            os.set_inheritable(descriptor, True)
        what = str(cwd)
        os.chdir(cwd)
        what = argv[0]
        os.execvpe(_find(argv[0], path), arguments, variables)
    except OSError as error:
        os.write(tell, f"{error.errno} {what}".encode(errors="surrogateescape"))
    finally:
        os._exit(127)


def hear_failure(told: int, pid: int) -> None:
    """Read the pipe `told` to its end: empty where child `pid` could execute, else the OSError that is raised here."""
    with os.fdopen(told, "rb") as pipe:
        failure = pipe.read()
    if failure:
        os.waitpid(pid, 0)
        number, _, what = failure.decode().partition(" ")
        raise OSError(int(number), os.strerror(int(number)), what)


def redirect(output: int) -> None:
    """Make `output` this process's stdout and stderr, and its stdin empty."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    for target, source in ((0, nothing), (1, output), (2, output)):
        os.dup2(source, target)
    for source in {nothing, output} - {0, 1, 2}:
        os.close(source)


def reset_signals() -> None:
    """Undo what Python and the supervisor set; an exec keeps what is ignored."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGCHLD, signal.SIGPIPE, signal.SIGXFSZ, *FORWARDED):
        if number not in FORWARDED or signal.getsignal(number) is not signal.SIG_IGN:  # what nohup ignores stays so
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


FORWARDED = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)
"""Signals that mean something to scripts only."""


def kill_descendants(*, spare: Container[int] = ()) -> None:
    """Kill and reap every process that is ours, and what falls to us when those are gone, until only `spare` is left.

    We adopt orphans, so this reaches what a rank put into a session of its own, too.
    """
    while ours := [pid for pid in children() if pid not in spare]:
        for child in ours:
            send(child, signal.SIGKILL)
        for child in ours:
            with suppress(ChildProcessError):
                os.waitpid(child, 0)


def children() -> list[int]:
    """Our child processes; none on a system that does not tell."""
    try:
        return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text(encoding="ascii").split()]
    except OSError:
        return []


def kill_group(pid: int, number: int) -> None:
    """Signal the session that `pid` leads, whether or not it has ended."""
    try:
        os.killpg(pid, number)
    except (ProcessLookupError, PermissionError):
        pass


def send(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def encode(text: str) -> bytes:
    """The bytes execve gets: UTF-8 whatever the locale is, and undecodable input as it came."""
    return text.encode("utf-8", "surrogateescape")


def _find(program: str, path: str) -> str:
    if "/" in program:
        return program
    for folder in path.split(os.pathsep):
        candidate = os.path.join(folder, program)  # noqa: PTH118 (execve wants text)
        if os.access(candidate, os.X_OK):
            return candidate
    return program
