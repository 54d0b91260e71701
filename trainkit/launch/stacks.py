"""The stacks of ranks that do not get on, as they show them when asked by a signal (see launch.rank)."""

from __future__ import annotations

import linecache
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from trainkit.launch.processes import send

SHOW = 63
"""The signal that asks for it: SIGRTMAX - 1, which nobody else uses."""
_FRAME = re.compile(r'^  File "(.*)", line (\d+) in (.*)$', re.MULTILINE)
_THREAD = re.compile(r"^(?:Current t|T)hread .*:$", re.MULTILINE)
_WAITING = re.compile(r"/torch/distributed/|/torch/autograd/graph\.py$")
_WAIT_CALL = re.compile(r"\.(?:wait|barrier|synchronize)\(")
_OURS = Path(__file__).parent
_STATES = {"T": "stopped by a signal", "D": "waiting in the kernel, for a disk or a device", "Z": "ended"}


class Stack(NamedTuple):
    """What one rank shows."""

    where: str
    """The innermost frame of the script's own in the main thread, else the innermost; or why there is none."""
    waits: bool
    """Whether the main thread waits for other ranks."""
    text: str


def ask_recorder(folder: Path, rank: int, *, into: Path) -> None:
    """Ask torch's flight recorder, where the rank has one (NCCL's), for the last collectives, as a file `into`."""
    try:
        pipe = os.open(folder / f"recorder.{rank}.pipe", os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return  # no recorder, or one whose rank is gone
    with suppress(OSError):  # its pipe is full, since it has not answered the last time
        into.mkdir(parents=True, exist_ok=True)
        os.write(pipe, b"1\n")
    os.close(pipe)


def ask(folder: Path, rank: int) -> None:
    """Ask a rank to add its stacks to its file in `folder`, if it is one that understands."""
    pid = _pid(folder, rank)
    if pid and _catches(pid, SHOW):
        os.truncate(_file(folder, rank), len(f"{pid}\n"))  # what it showed before is old
        send(pid, SHOW)


def read(folder: Path, rank: int, *, home: Path) -> Stack:
    """What it has shown last; `home` is the script's folder."""
    pid = _pid(folder, rank)
    try:
        text = _file(folder, rank).read_text(encoding="utf-8", errors="replace").partition("\n")[2]
    except OSError:
        text = ""
    if not _FRAME.search(_THREAD.split(text)[-1]):
        state = _STATES.get(_state(pid), "in code that shows no Python stack") if pid else "a process that is no Python"
        return Stack(state, False, "")
    return parse(text, home=home)


def parse(text: str, *, home: Path) -> Stack:
    """Read faulthandler's dump of all threads: innermost frames first, the main thread last."""
    main = _THREAD.split(text)[-1]
    frames = _FRAME.findall(main)
    own = next((frame for frame in frames if frame[0].startswith(f"{home}/")), frames[0])
    file, line, name = own
    shown = os.path.relpath(file, home) if file.startswith(f"{home}/") else Path(file).name
    inner, inner_line, _ = frames[0]
    waits = bool(_WAITING.search(inner) or _WAIT_CALL.search(linecache.getline(inner, int(inner_line))))
    return Stack(f"{shown}:{line} in {name}", waits, _without_ours(text))


def _without_ours(text: str) -> str:
    """The dump as if the script had been started by plain Python."""
    lines = [line for line in text.splitlines() if not line.startswith(f'  File "{_OURS}/')]
    return "\n".join(lines).strip()


def _file(folder: Path, rank: int) -> Path:
    return folder / f"{rank}.stacks"


def _pid(folder: Path, rank: int) -> int | None:
    try:
        with _file(folder, rank).open(encoding="ascii", errors="replace") as file:
            return int(file.readline())
    except (OSError, ValueError):
        return None


def _catches(pid: int, number: int) -> bool:
    """Whether the process has a handler for it: one that has called exec would be ended by it."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    found = re.search(r"^SigCgt:\s*([0-9a-f]+)$", status, re.MULTILINE)
    return found is not None and bool(int(found[1], 16) >> (number - 1) & 1)


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(") ")[2][:1]
    except OSError:
        return ""
