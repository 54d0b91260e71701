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
    inside.mount("none", "/", flags=inside.MS_REC | inside.MS_PRIVATE)
    inside.lay_opt_ml(Path(spec["root"]))
    inside.mount(spec["hosts_file"], "/etc/hosts", flags=inside.MS_BIND)
    for folder, size in spec["tmpfs"].items():
        inside.mount("tmpfs", folder, kind="tmpfs", options=f"size={size}")
    inside.bring_up(spec["network"])
    os.chdir("/opt/ml/code")
    os.execvpe(argv[0], argv, spec["environ"])


if __name__ == "__main__":
    main()
