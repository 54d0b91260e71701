"""How a job ended, in the places where SageMaker and people look: the failure file and the exit code.

Each rank that raises leaves a record (a JSON file in torch elastic's format, so that `@record` and torchrun read it
too). The supervisor gathers the ranks' ends and blames the one that failed first: what follows is mostly collateral.
"""

from __future__ import annotations

import json
import os
import re
import signal
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from trainkit.contract.blame import is_collateral

LIMIT = 900
"""Characters of the failure file. The service shows 1,024 and adds words of its own."""


@dataclass(frozen=True, slots=True)
class Record:
    """What a rank wrote about its own exception."""

    cause: str  # "ValueError: x"
    frame: str  # "train.py:88 in loss_fn": the last frame of the user's own code
    trace: str
    time: float  # seconds since the epoch
    exit_code: int = 1


@dataclass(frozen=True, slots=True)
class RankEnd:
    """How one rank ended. `status` is its exit code, or minus the signal that killed it, as in subprocess."""

    rank: int
    host: str
    status: int
    time: float  # when it was seen to end, seconds since the epoch
    record: Record | None = None
    tail: tuple[str, ...] = ()
    stopped: bool = False  # we asked it to end before it did
    out_of_memory: bool = False  # the kernel's killer was at work in our control group since the start

    @property
    def exit_code(self) -> int:
        """What a shell would say; but a rank that raised, and was killed because it was slow to leave, has its own."""
        return self.record.exit_code if self.record and self.status < 0 else shell_code(self.status)

    @property
    def failed_at(self) -> float:
        return self.record.time if self.record else self.time


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of a job on one host: the exit code for PID 1, and the failure text, or None."""

    exit_code: int
    failure: str | None = None

    @property
    def cause(self) -> str:
        return self.failure.split("\n", 1)[0] if self.failure else ""


def shell_code(status: int) -> int:
    """128 + n for signal n, as shells and Docker say it."""
    return status if status >= 0 else 128 - status


def read_record(path: Path) -> Record | None:
    """The record a rank left, or None where it left none that can be read."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        message = raw["message"]
        if isinstance(message, str):  # torch elastic writes this shape too
            message = {"message": message}
        extra = message.get("extraInfo", {})
        ours = raw.get("trainkit", {})
        return Record(
            cause=str(ours.get("cause") or message["message"]),
            frame=str(ours.get("frame", "")),
            trace=str(extra.get("py_callstack", "")),
            exit_code=int(ours.get("exit_code") or 1),
            time=float(ours.get("time") or extra.get("timestamp") or path.stat().st_mtime),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def judge(ends: Iterable[RankEnd], *, stop_signal: int | None = None) -> Outcome:
    """Whose end is the job's: that of the rank which failed first, where one did.

    Ranks that ended because we told them to are no cause. When the job was told to stop (`stop_signal`) and no rank
    failed by itself, it has stopped: with the script's own code where its handler chose one. Where nobody told it to,
    a rank that we ended is no success either.
    """
    bad = [end for end in ends if end.status != 0]
    own = [end for end in bad if not end.stopped]
    if stop_signal is not None and not own:
        return Outcome(next((end.exit_code for end in bad if end.status > 0), 0))
    if not bad:
        return Outcome(0)
    first = min(own or bad, key=lambda end: (_is_echo(end), end.failed_at))
    return Outcome(first.exit_code, explain(first))


def _is_echo(end: RankEnd) -> bool:
    return end.record is not None and is_collateral(end.record.cause)


def explain(end: RankEnd) -> str:
    """The failure text: cause, then place, then evidence, of which the end says most."""
    where = f"rank {end.rank} on {end.host}"
    if end.record:
        place = f"{where}, {end.record.frame}" if end.record.frame else where
        return _fit([end.record.cause, f"{place}, exit code {end.exit_code}"], _frames(end.record.trace))
    if end.status == -signal.SIGKILL and end.out_of_memory:
        cause = f"out of memory: the kernel killed {where}, exit code {end.exit_code}"
        return _fit([cause, _OUT_OF_MEMORY], end.tail)
    if end.status < 0:
        cause = f"killed by {_signal_name(-end.status)}: {where}, exit code {end.exit_code}"
        return _fit([cause, _advice(-end.status)], end.tail)
    return _fit([f"exit code {end.exit_code}: {where}"], end.tail)


def write_failure(path: Path, text: str) -> bool:
    """Put `text` into the failure file, whole, unless someone (the user's script) was there first.

    Returns whether it is ours. Raises OSError where the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, scratch = tempfile.mkstemp(prefix=".failure.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="replace") as out:
            out.write(text)
            out.flush()
            os.fsync(out.fileno())
        Path(scratch).chmod(0o644)
        os.link(scratch, path)  # unlike rename, it does not replace what is there
    except FileExistsError:
        return False
    finally:
        Path(scratch).unlink(missing_ok=True)
    return True


_OUT_OF_MEMORY = (
    "The ranks and their DataLoader workers together passed the host's memory limit. Try fewer workers or a smaller "
    "prefetch, load less at once, or use a larger instance."
)
_SECRETS = (
    re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"),
    re.compile(r"(?<=://)[^/\s@]+(?=@)"),
    re.compile(r"(?i)(?<=X-Amz-Signature=)[^&\s]+|(?<=X-Amz-Security-Token=)[^&\s]+|(?<=X-Amz-Credential=)[^&\s]+"),
    re.compile(r"(?i)(?<=bearer )[\w.~+/=-]{8,}"),
    re.compile(r"\b(?:hf_|gh[oprsu]_|github_pat_)\w{16,}|\bsk-[\w-]{20,}"),
)
_SECRET_NAME = re.compile(r"(?i)secret|token(?!i[sz])|passw|credential|api_?key|access_key")  # a tokenizer is none
_WHERE_IT_LIES = re.compile(r"(?i)_(file|path|dir|uri)$")  # of AWS_WEB_IDENTITY_TOKEN_FILE the value is no secret


def scrub(text: str, environ: Mapping[str, str] = os.environ) -> str:
    """`text` without credentials: known shapes, and the values of variables whose names say that they are secret."""
    secrets = {
        value
        for name, value in environ.items()
        if len(value) >= 8 and _SECRET_NAME.search(name) and not _WHERE_IT_LIES.search(name)
    }
    for value in sorted(secrets, key=len, reverse=True):  # one may be the beginning of another
        text = text.replace(value, "***")
    for shape in _SECRETS:
        text = shape.sub("***", text)
    return text


def _fit(head: Iterable[str], evidence: Iterable[str]) -> str:
    """Both within LIMIT and without secrets: the head first, however long; then as much of the evidence's end as fits.

    Scrubbed before it is cut: half a credential has no shape to know it by.
    """
    text = scrub("\n".join(head)).strip()
    rest = scrub("\n".join(evidence)).strip("\n")
    if len(text) > LIMIT:
        return text[: LIMIT - 1] + "…"
    room = LIMIT - len(text) - 2
    if not rest or room < 2:
        return text
    return f"{text}\n\n{rest if len(rest) <= room else '…' + rest[1 - room :]}"


def _frames(trace: str) -> list[str]:
    """The last frames of a traceback, without the message that stands above already."""
    if "\nSystemExit: " in trace:
        return []  # the script chose to end there; the frame above says where
    frames = [line for line in trace.splitlines() if line.startswith("  ")]
    return ["Traceback (most recent call last):", *frames[-12:]] if frames else []


def _signal_name(number: int) -> str:
    try:
        return f"{signal.Signals(number).name} (signal {number})"
    except ValueError:
        return f"signal {number}"


def _advice(number: int) -> str:
    advice: dict[int, str] = {
        signal.SIGKILL: "Nothing in the script can catch it; the usual sender is the kernel, out of memory. "
        "Look at the memory curve; try a smaller batch, fewer DataLoader workers, or a larger instance.",
        signal.SIGSEGV: "Native code crashed. The last Python frames are in the log above, from faulthandler.",
        signal.SIGBUS: "Often a full /dev/shm: give the container more shared memory, or use fewer DataLoader workers.",
        signal.SIGABRT: "Native code gave up (an assertion, NCCL, glibc). Its last words are in the log above.",
        signal.SIGILL: "The machine lacks an instruction that a library was built for.",
    }
    return advice.get(number, "")
