"""Telling a cause from what follows it.

When one rank dies, the others meet its absence: a reset connection, an aborted communicator, a store that no longer
answers. Such an error is blamed only where there is nothing better to blame.
"""

from __future__ import annotations

import re

_COLLATERAL = re.compile(
    r"connection (?:reset|closed|aborted|refused)|broken pipe|socket (?:timeout|closed)|peer (?:closed|reset)"
    r"|timed out waiting \d+ms|failed to recv|could ?n.t connect to|DistNetworkError|DistStoreError"
    r"|remote process exited|NCCL (?:communicator was aborted|error.*(?:remote|system))|ncclRemoteError|ncclSystemError"
    r"|watchdog caught collective operation timeout",
    re.IGNORECASE,
)


def is_collateral(cause: str) -> bool:
    """Whether the first line of a failure reads like the echo of another rank's death."""
    return bool(_COLLATERAL.search(cause))
