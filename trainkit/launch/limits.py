"""What this host has run out of, in words that say what to do."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from trainkit.errors import TrainkitError

_PROCESSES = "No more processes can be started: look at ulimit -u, and at pids.max of the container's control group"
_REMEDIES = {
    errno.ENFILE: "The whole machine is out of descriptors: see /proc/sys/fs/file-nr",
    errno.EAGAIN: _PROCESSES,
    errno.ENOMEM: "The host is out of memory: take fewer ranks (TRAINKIT_PROCS), or a larger instance",
}


@contextmanager
def told(host: str) -> Iterator[None]:
    """Turn an OSError which says that the host has run out of something into a TrainkitError with the remedy.

    Any other goes on as it is: that is a fault of ours, and its traceback is wanted.
    """
    try:
        yield
    except OSError as error:
        if advice := remedy(error):
            raise TrainkitError(f"{host} cannot run its ranks: {error.strerror}. {advice}") from None
        raise


def remedy(error: OSError) -> str:
    """What to do about it; "" where it is no limit of the host's."""
    if error.errno == errno.EMFILE:
        import resource  # only now: every start would pay for it

        most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return (
            f"ulimit -n is {most} here, and a supervisor takes a dozen descriptors and one more for each rank and "
            f"each host: raise it (docker run --ulimit nofile=65536)"
        )
    return _REMEDIES.get(error.errno or 0, "")


def cannot_write(host: str, folder: object, error: OSError) -> TrainkitError:
    """What to raise where the run folder cannot be used."""
    advice = remedy(error) or (
        "trainkit keeps a few kilobytes there while the job runs: make room, or name another place with TMPDIR"
    )
    return TrainkitError(f"{host} cannot write {folder}: {error.strerror}. {advice}")
