"""What the executables `train` and `process` run first: hold the stop signals back until someone can hear them.

The kernel drops a SIGTERM for a PID 1 that has no handler yet, and a stop that is dropped costs the whole grace period.
Held back, it waits while `train` is imported, and is delivered when the supervisor listens.
"""

from __future__ import annotations

import signal


def main() -> None:
    """The executable. Never returns: the exit code is the job's."""
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))
    from trainkit.cli import train  # the heavy part, and the story to read

    train.main()


def process() -> None:
    """The same for processing jobs."""
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))
    from trainkit.cli import process

    process.main()
