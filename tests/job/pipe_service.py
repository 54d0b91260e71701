"""What the service does for a Pipe channel: one FIFO after the other, each with all data, until nobody reads any more.

    python pipe_service.py STEM CONTENT EPOCHS [DIE]

DIE: so many bytes into the first FIFO, the writer is killed; those that come after it have all data.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def served(stem: Path, content: bytes, *, epochs: int = 1, die: int = 0) -> Iterator[None]:
    """A process that writes, until the end of the `with`."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    data = stem.with_name(f".{stem.name}-content")
    data.write_bytes(content)
    arguments = [str(stem), str(data), str(epochs), str(die)]
    with subprocess.Popen([sys.executable, __file__, *arguments]) as service:
        try:
            yield
        finally:
            service.kill()


def main(stem: str, content: str, epochs: str, die: str) -> None:
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    data = Path(content).read_bytes()
    for epoch in range(int(epochs)):
        os.mkfifo(f"{stem}_{epoch}")
        with open(f"{stem}_{epoch}", "wb", buffering=0) as out:  # noqa: PTH123
            try:
                for begin in range(0, int(die) or len(data), 1 << 16):
                    out.write(data[begin : min(int(die) or len(data), begin + (1 << 16))])
            except BrokenPipeError:
                pass  # closed early: the next epoch comes
            if int(die):
                os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main(*sys.argv[1:])
