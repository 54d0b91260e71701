"""A process between the supervisor and a command with a family of its own: nothing of that outlives the supervisor.

A command dies with its supervisor by the kernel's word, but what it has started does not. The guard adopts all that,
passes signals on, ends as the command ends, and when the supervisor is gone, however suddenly, kills the whole family.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from trainkit.launch.processes import (
    become_reaper,
    hear_failure,
    kill_descendants,
    kill_group,
    reap,
    redirect,
    send,
    spawn,
)

_PR_SET_PDEATHSIG = 1
_ORPHANED = signal.SIGRTMIN if sys.platform == "linux" else signal.SIGHUP
_MOST_DESCRIPTORS = 4096


def start(argv: Sequence[str], *, environ: Mapping[str, str], cwd: Path, output: int, whole_session: bool) -> int:
    """Start `argv` under a guard, whose pid is returned. Raises OSError where it cannot be executed.

    As with `spawn`, `output` becomes stdout and stderr. With `whole_session`, signals go to all of the command's
    session, not to its first process alone.
    """
    parent = os.getpid()
    told, tell = os.pipe()
    pid = os.fork()
    if pid:
        os.close(tell)
        hear_failure(told, pid)
        return pid
    try:  # in the child: nothing but _exit may come out of here
        signal.set_wakeup_fd(-1)
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        os.setsid()
        _be_told_of_the_end_of(parent)
        redirect(os.dup2(output, 1))
        if tell != 3:
            tell = os.dup2(tell, 3, inheritable=False)
        os.closerange(4, _MOST_DESCRIPTORS)  # above all the link: the others are to see it break with the supervisor
        become_reaper()
        child = spawn(argv, environ=environ, cwd=cwd, output=1)
        os.close(tell)
        _stand(child, whole_session=whole_session)
    except OSError as error:
        os.write(tell, f"{error.errno} {error.filename or argv[0]}".encode(errors="surrogateescape"))
    finally:
        os._exit(127)


def _be_told_of_the_end_of(parent: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, _ORPHANED, 0, 0, 0)
    if os.getppid() != parent:  # it died before we asked
        os._exit(1)


def _stand(child: int, *, whole_session: bool) -> None:
    while True:
        number = signal.sigwait(signal.valid_signals())
        if number == _ORPHANED:
            kill_descendants()
            os._exit(1)
        elif number == signal.SIGCHLD:
            for ended in reap():
                if ended.pid == child:
                    _end_as(ended.status)
        elif number != signal.SIGCONT:
            (kill_group if whole_session else send)(child, number)


def _end_as(status: int) -> None:
    """With that exit code, or by that signal. What the command has left behind falls to the supervisor."""
    if status < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if -status not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {-status})
    os._exit(status if status >= 0 else 128 - status)
