"""The template process: imports once, then forks every rank.

    python trainkit/launch/template.py CONTROL_FD MODULE...

    supervisor                       template                     rank
    ──────────                       ────────                     ────
    starts it         ────────────▶  imports MODULEs
                      ◀── ready ───
    rank, environment,
    output descriptor ────────────▶  forks twice ──────────────▶  waits
                      ◀── pid ─────  (the middle process ends:
                                      the rank is now the
                                      supervisor's child)
                                     lets it go ───────────────▶  runs the script

It runs no tensor operation, opens no client, touches no CUDA driver: all of these break in a forked child. Before each
fork it looks whether something it imported did so behind its back, and refuses then; the supervisor spawns instead.
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from typing import Any

from trainkit.launch import rank
from trainkit.launch.processes import die_with_parent, redirect, reset_signals

_OPTIONAL = frozenset({"torch._dynamo", "numpy", "accelerate", "safetensors"})
"""What we preload on our own account: where it is absent, the script will say so better than we could."""

_ADOPTION = 5.0  # seconds; the middle process has but to end


def main() -> None:
    rank.forget_own_folder()
    control = socket.socket(fileno=int(sys.argv[1]))
    supervisor = os.getppid()
    began = time.monotonic()
    problem = _import(sys.argv[2:])
    gc.collect()
    gc.freeze()  # a collection in a rank would otherwise write to, and so copy, every page it inherits
    _send(control, {"refused": problem} if problem else {"ready": round(time.monotonic() - began, 2)})
    task = _serve(control, supervisor=supervisor)
    if task and task["role"] == "store":
        _host_store(control, port=task["port"])
    control.close()
    if task:
        rank.run_entry([*task["entry"], *task["args"]])


def _import(modules: Sequence[str]) -> str | None:
    """Import what is wanted. Returns why ranks cannot be forked from here, if they cannot."""
    for name in modules:
        try:
            importlib.import_module(name)
        except Exception as error:  # noqa: BLE001 (any module may fail in any way; the script will meet it again)
            if name not in _OPTIONAL:
                return f"importing {name} failed: {type(error).__name__}: {error}"
    return None


def _serve(control: socket.socket, *, supervisor: int) -> dict[str, Any] | None:
    """Fork for each request. Returns the task in the child, and None in the template when the supervisor is gone."""
    while True:
        request, descriptor = _receive(control)
        if request is None:
            return None
        if problem := _unsafe():
            _send(control, {"refused": problem})
            os.close(descriptor)
            continue
        sys.stdout.flush()
        sys.stderr.flush()
        wait, go = os.pipe()
        middle = os.fork()
        if middle == 0:
            os.close(go)
            if pid := os.fork():
                _send(control, {"pid": pid})
                os._exit(0)
            return _become(request, wait=wait, output=descriptor, supervisor=supervisor)
        os.waitpid(middle, 0)  # from here on the supervisor is the parent
        os.write(go, b"g")
        for done in (wait, go, descriptor):
            os.close(done)


def _become(request: dict[str, Any], *, wait: int, output: int, supervisor: int) -> dict[str, Any]:
    """In the forked child: take on the rank's session, output, environment and folder."""
    if os.read(wait, 1) != b"g":
        # The template was killed just now. The supervisor knows us already, and adopts us in a moment.
        deadline = time.monotonic() + _ADOPTION
        while os.getppid() != supervisor and time.monotonic() < deadline:
            time.sleep(0.001)
    os.close(wait)
    reset_signals()
    os.setsid()
    redirect(output)
    die_with_parent(supervisor)
    os.environ.update(request["environ"])
    os.chdir(request["cwd"])
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()  # else every rank draws the same "random" numbers
    return request


def _unsafe() -> str | None:
    """Why a fork of this process would be broken, or None."""
    threads = _threads()
    if threads > 1:
        # A library that knows of forks (OpenBLAS) ends its threads before each and starts them again where it needs
        # them. What is left after one fork knows nothing of it.
        if (trial := os.fork()) == 0:
            os._exit(0)
        os.waitpid(trial, 0)
        threads = _threads()
    if threads > 1:
        return f"what was imported started {threads - 1} threads, which a fork does not carry over"
    for descriptor in os.listdir("/proc/self/fd"):  # noqa: PTH208
        try:
            target = os.readlink(f"/proc/self/fd/{descriptor}")  # noqa: PTH115
        except FileNotFoundError:
            continue
        if target.startswith("/dev/nvidia"):
            return "what was imported opened the CUDA driver, which no forked child can use"
    return None


def _threads() -> int:
    return len(os.listdir("/proc/self/task"))  # noqa: PTH208


def _host_store(control: socket.socket, *, port: int) -> None:
    """Be the rendezvous store until the job ends. It outlives every rank, unlike one that rank 0 would host."""
    import datetime

    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    def listen(port: int) -> TCPStore:
        patience = datetime.timedelta(seconds=60)
        return TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False, timeout=patience)

    try:
        store = listen(port)
    except RuntimeError:
        store = listen(0)  # the preferred port is taken: any other, and the first host tells the rest
    _send(control, {"store": store.port})
    control.close()
    while True:
        signal.pause()  # which one does not matter: SIGTERM and SIGKILL end us


def _send(control: socket.socket, message: dict[str, Any]) -> None:
    control.sendall(json.dumps(message).encode() + b"\n")


def _receive(control: socket.socket) -> tuple[dict[str, Any] | None, int]:
    """One request, and the descriptor that came with it."""
    data, descriptors = b"", []
    while not data.endswith(b"\n"):
        part, received, _, _ = socket.recv_fds(control, 1 << 20, 1)
        descriptors += received
        if not part:
            return None, -1
        data += part
    return json.loads(data), descriptors[0]


if __name__ == "__main__":
    main()
