"""How a local job ended, from how its hosts did."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from pathlib import Path

from trainkit.contract.blame import last_raised
from trainkit.contract.outcome import shell_code
from trainkit.contract.paths import Paths
from trainkit.local.hosts import Running
from trainkit.local.training import Ended, Stop

_SHOWN = 10  # last lines of a log
_UNSHARE = "unshare: "
_KILLED = "unshare: sigprocmask unblock failed"  # util-linux up to 2.39, when its child was killed
_STOPPED = {
    Stop.ASKED: "Stopped", Stop.MAX_RUNTIME: "MaxRuntimeExceeded", Stop.MAX_WAIT: "MaxWaitTimeExceeded",
}  # fmt: skip
_OF_CTRL_C = (128 + signal.SIGINT, -signal.SIGINT)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The job's secondary status, its exit code, and the text of its failure."""

    status: str
    exit_code: int
    failure: str | None = None


def judge(ended: Ended, *, logs: Path) -> Verdict:
    """The host that failed first is the reason, or the first that said why."""
    failed = sorted((host for host in ended.hosts if host.exit_status), key=lambda host: host.ended_at)
    stopped = _STOPPED.get(ended.stop or Stop.FAILED)
    if ended.interrupted and failed and failed[0].exit_status in _OF_CTRL_C:
        return Verdict("Stopped", 0)
    if not failed or (stopped and failed[0].ended_at > ended.stopped_at):
        return Verdict(stopped or "Completed", 0)
    for host in failed:
        if text := _read(Paths(host.host.root).failure):
            return Verdict("Failed", shell_code(host.exit_status or 1), text)
    first = failed[0]
    return Verdict(
        "Failed", shell_code(first.exit_status or 1), _without_a_word(first, logs / f"{first.host.name}.log")
    )


def _without_a_word(host: Running, log: Path) -> str:
    lines = (_read(log) or "").splitlines()
    killed = any(line.startswith(_KILLED) for line in lines[-2:])
    shown = [line for line in lines[-_SHOWN:] if not line.startswith(_UNSHARE)]
    raised = last_raised(shown)
    how = "was killed or vanished" if killed else f"ended with exit code {shell_code(host.exit_status or 1)}"
    end = "\n\nIts log ends:\n" + "\n".join(shown) if shown else ""
    if raised:  # by a script that none of our supervisors watched
        return f"{raised}\n{host.host.name} {how}{end}"
    return f"{host.host.name} {how} without a word{end}"


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
