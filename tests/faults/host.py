"""The first process of a host in a fault's cluster: lay out what a container would see, then become the launcher.

    unshare … python host.py '{"host": "algo-1", "root": …, "hosts_file": …, "network": …, …}' ARGUMENT...

The hosts are those of `trainkit local --isolation network`, with any launcher in the place of `train`.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from pathlib import Path

from trainkit.local import inside


def main() -> None:
    # The module holds signals back until `train` lifts that; no other launcher would.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    spec, argv = json.loads(sys.argv[1]), sys.argv[2:]
    socket.sethostname(spec["host"])
    inside._mount("none", "/", flags=inside._MS_REC | inside._MS_PRIVATE)
    inside._lay_opt_ml(Path(spec["root"]))
    inside._mount(spec["hosts_file"], "/etc/hosts", flags=inside._MS_BIND)
    for folder, size in spec["tmpfs"].items():
        mount_small(folder, size)
    inside._bring_up(spec["network"])
    os.chdir("/opt/ml/code")
    os.execvpe(argv[0], argv, spec["environ"])


def mount_small(folder: str, size: str) -> None:
    if inside._libc.mount(b"tmpfs", folder.encode(), b"tmpfs", 0, f"size={size}".encode()):
        raise OSError(f"cannot mount {size} of memory at {folder}")


if __name__ == "__main__":
    main()
