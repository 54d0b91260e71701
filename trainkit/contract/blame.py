"""Telling a cause from what follows it, and from what it is wrapped in.

When one rank dies, the others meet its absence: a reset connection, an aborted communicator, a store that no longer
answers, a collective that times out. Such an error is blamed only where there is nothing better to blame.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_COLLATERAL = re.compile(
    r"connection (?:reset|closed|aborted|refused)|connection was likely closed|broken pipe|peer (?:closed|reset)"
    r"|socket (?:timeout|closed)|failed to recv|failed to send, |could ?n.t connect to|DistNetworkError|DistStoreError"
    # gloo
    r"|timed out waiting \d+ms|application timeout caused pair closure|(?:read|connect) timeout \["
    r"|connectFullMesh failed|(?:failed to pass|successfully reached|timed out in) monitoredBarrier"
    # the store
    r"|wait timeout after \d+ms|timed out after \d+ seconds waiting for clients"
    r"|client socket has (?:timed out|failed to connect)"
    # NCCL
    r"|remote process exited|NCCL communicator was aborted|NCCL error.*(?:remote process|system error)"
    r"|ncclRemoteError|ncclSystemError|watchdog caught collective operation timeout"
    r"|NCCL operations have failed or timed out",
    re.IGNORECASE,
)
# What the same libraries say of this rank's own mistakes.
_OWN = re.compile(
    r"EADDRINUSE|address already in use|failed to (?:listen|bind)|duplicate GPU|invalid device ordinal|out of memory"
    r"|no space left|creating shared memory",
    re.IGNORECASE,
)
_WRAPPED = re.compile(r"Caught \w+ (in [^\n]+)\.\nOriginal Traceback \(most recent call last\):\n")
_WORKER_GONE = re.compile(r"DataLoader worker \(pid\(s\) [\d, ]+\) exited unexpectedly")
_WORKER_WHY = re.compile(
    r"^(\w+: DataLoader worker \(pid \d+\) (?:is killed by signal|exited unexpectedly with).*)", re.MULTILINE
)
_RAISED = re.compile(r"^[A-Za-z_][\w.]*(?:Error|Exception|Exit|Interrupt|Timeout|NotFound)\b(?::.*)?$")
_ABORTED = re.compile(r"^\s*what\(\):\s+(\S.*)", re.MULTILINE)


def is_collateral(cause: str) -> bool:
    """Whether the words of a failure read like the echo of another rank's death."""
    return bool(_COLLATERAL.search(cause)) and not _OWN.search(cause)


def unwrapped(cause: str, trace: str) -> tuple[str, str]:
    """What was raised first, and the trace of it, out of the words and the trace of an exception.

    torch brings an exception out of a DataLoader worker as `KeyError: Caught KeyError in DataLoader worker process 0.`
    with the traceback as its text. Of a worker that died it says only so, and by what signal in the chained
    exception, which the trace holds. Anything else is given back as it is.
    """
    why = _WORKER_WHY.search(trace) if _WORKER_GONE.search(cause) else None
    if why:
        return why[1], trace
    wrapper = _WRAPPED.search(cause)
    if not wrapper:
        return cause, trace
    lines = cause[wrapper.end() :].rstrip().splitlines()
    frames = max((index + 1 for index, line in enumerate(lines) if line.startswith("  ")), default=0)
    if frames == len(lines):
        return cause, trace
    said = [f"{lines[frames]} ({wrapper[1]})", *lines[frames + 1 :]]
    return "\n".join(said), "\n".join(lines[:frames])


def aborted_with(tail: Iterable[str]) -> str:
    """What C++ said as it aborted, one line, or "": NCCL's watchdog and gloo's threads have no other way to fail."""
    said = _ABORTED.findall("\n".join(tail))
    return said[-1].strip() if said else ""


def last_raised(tail: Iterable[str]) -> str:
    """`Type: message` where the last lines of an output are those of a Python traceback, or ""."""
    *before, last = ["", *tail]
    in_trace = any(line.startswith('  File "') for line in before)
    return last if in_trace and _RAISED.match(last) else ""
