"""The first process of a local host: lay `/opt/ml` and the hosts file over the machine's, then become what runs there.

    unshare … python -m trainkit.local.inside '{"host": "algo-1", "root": …, "hosts_file": …, "network": null, …}'

It is alone in its mount, hostname and PID namespace, and root in its own user namespace where the caller is not root.
Mounts are made by the kernel's own call: the `mount` command reads tables that a namespace may not have.
"""

from __future__ import annotations

import signal

# A stop that comes before `train` can hear it waits for that: the mask outlives the exec, and `train` lifts it.
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})

import ctypes  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import socket  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from contextlib import suppress  # noqa: E402
from pathlib import Path  # noqa: E402

MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 0x1, 0x20, 0x1000, 0x4000, 0x40000
_KEPT = {os.ST_NOSUID: 0x2, os.ST_NODEV: 0x4, os.ST_NOEXEC: 0x8, os.ST_NOATIME: 0x400, os.ST_RELATIME: 0x200000}
"""Flags of a mount that a user namespace may not take away, as statvfs and as mount know them."""
_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    spec = json.loads(sys.argv[1])
    socket.sethostname(spec["host"])
    mount("none", "/", flags=MS_REC | MS_PRIVATE)
    lay_opt_ml(Path(spec["root"]))
    for path in spec.get("read_only", ()):
        freeze(path)
    if Path("/etc/hosts").exists():
        mount(spec["hosts_file"], "/etc/hosts", flags=MS_BIND)
    if spec["network"]:
        bring_up(spec["network"])
    os.chdir("/")
    argv = spec.get("argv") or [sys.executable, "-m", "trainkit.cli.train"]
    if argv[0] != sys.executable:  # no command of ours, which would lift the mask once it can hear
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT})
    try:
        os.execvp(argv[0], argv)
    except OSError as error:
        sys.exit(f"cannot start {argv[0]}: {error.strerror}")


def lay_opt_ml(root: Path) -> None:
    """Show `root` at /opt/ml. Where /opt has no such folder, on a new /opt that holds all the old one does."""
    if not Path("/opt/ml").is_dir():
        children = {}
        for child in Path("/opt").iterdir():
            with suppress(OSError):  # a link to nowhere, say: nobody can miss it
                children[child.name] = os.open(child, os.O_PATH)
        held = os.open(root, os.O_PATH)  # it may lie below /opt itself
        mount("tmpfs", "/opt", kind="tmpfs")
        for name, descriptor in children.items():
            _lay(descriptor, Path("/opt", name))
        Path("/opt/ml").mkdir()
        _lay(held, Path("/opt/ml"))
    else:
        mount(str(root), "/opt/ml", flags=MS_BIND | MS_REC)


def freeze(path: str) -> None:
    """Mount `path` over itself, read-only. What was mounted from inside it before is not touched."""
    mount(path, path, flags=MS_BIND | MS_REC)
    kept = os.statvfs(path).f_flag
    flags = sum(flag for known, flag in _KEPT.items() if kept & known)
    mount("none", path, flags=MS_BIND | MS_REMOUNT | MS_RDONLY | flags)


def _lay(descriptor: int, target: Path) -> None:
    original = Path(f"/proc/self/fd/{descriptor}")
    if original.is_dir():
        target.mkdir(exist_ok=True)
    else:
        target.touch()
    mount(str(original), str(target), flags=MS_BIND | MS_REC)
    os.close(descriptor)


def mount(source: str, target: str, *, kind: str = "none", flags: int = 0, options: str = "") -> None:
    if _libc.mount(os.fsencode(source), os.fsencode(target), kind.encode(), flags, options.encode() or None):
        number = ctypes.get_errno()
        raise OSError(number, f"{os.strerror(number)}: mount {source}", target)


def bring_up(network: dict[str, str]) -> None:
    """Wait for the wire that the machine's side plugs in, and give it its address."""
    deadline = time.monotonic() + 20
    while network["interface"] not in {name for _, name in socket.if_nameindex()}:
        if time.monotonic() > deadline:
            raise TimeoutError(f"no {network['interface']} came")
        time.sleep(0.005)  # the kernel tells of new links over netlink only, which Python does not speak
    for command in (
        ("link", "set", "lo", "up"),
        ("addr", "add", f"{network['address']}/16", "dev", network["interface"]),
        ("link", "set", network["interface"], "up"),
    ):
        subprocess.run(["ip", *command], check=True)


if __name__ == "__main__":
    main()
