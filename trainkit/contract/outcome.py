"""How a job ended, in the places where SageMaker and people look: the failure file and the exit code.

Each rank that raises leaves a record (a JSON file in torch elastic's format, so that `@record` and torchrun read it
too). The supervisor gathers the ranks' ends and blames the one that failed first: what follows is mostly collateral.
"""

from __future__ import annotations

import json
import os
import signal
import tempfile
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from trainkit.contract.advice import OUT_OF_MEMORY, remedy, signal_remedy
from trainkit.contract.blame import aborted_with, is_collateral, last_raised, unwrapped
from trainkit.contract.secrets import scrub

LIMIT = 900
"""Characters of the failure file. The service shows 1,024 and adds words of its own."""
_WORTH_SAYING = 40  # characters: less of a sentence is noise


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
    step: int | None = None  # the step its loop was in
    shm_bytes: int | None = None  # the size of /dev/shm on its host
    solo: bool = False  # it is all that its host runs, in a processing job

    @property
    def who(self) -> str:
        """What it is called in front of people."""
        return "the script" if self.solo else f"rank {self.rank}"

    @property
    def exit_code(self) -> int:
        """What a shell would say; but a rank that raised, and was killed because it was slow to leave, has its own."""
        return self.record.exit_code if self.record and self.status < 0 else shell_code(self.status)

    @property
    def failed_at(self) -> float:
        return self.record.time if self.record else self.time


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of a job on one host: the exit code for PID 1, and the failure text, or None; and who is blamed."""

    exit_code: int
    failure: str | None = None
    rank: int | None = None
    step: int | None = None
    alone: bool = False
    """Whether this host had to judge without the first one, which then says nothing itself."""
    stopped: bool = False
    """Whether this host was told to stop, however the job ended."""

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


def judge(ends: Collection[RankEnd], *, stop_signal: int | None = None) -> Outcome:
    """Whose end is the job's: that of the rank which failed first, where one did.

    Ranks that ended because we told them to are no cause. When the job was told to stop (`stop_signal`) and no rank
    failed by itself, it has stopped: with the script's own code where its handler chose one. Where nobody told it to,
    a rank that we ended is no success either. Where all that failed met the absence of one that had ended well, it is
    that one's leaving.
    """
    bad = [end for end in ends if end.status != 0]
    own = [end for end in bad if not end.stopped]
    if stop_signal is not None and not own:
        return Outcome(next((end.exit_code for end in bad if end.status > 0), 0))
    if not bad:
        return Outcome(0)
    first = min(own or bad, key=lambda end: (_is_echo(end), end.failed_at))
    failed = Outcome(first.exit_code, explain(first), first.rank, first.step)
    early = left_early(ends)
    if early and _is_echo(first) and early.before(first.failed_at):
        return early.blamed_for(failed)
    return failed


class Early(NamedTuple):
    """A rank that ended with exit code 0, unasked, while others may have gone on. `at` as in RankEnd."""

    rank: int
    host: str
    step: int | None
    at: float

    def before(self, failed_at: float) -> bool:
        """Whether that may be why others failed. They notice before we do: its connections close before it is gone."""
        return self.at < failed_at + _NOTICED

    def blamed_for(self, echo: Outcome) -> Outcome:
        """The job's outcome where the others' failures are but echoes of this rank's leaving."""
        step = "" if self.step is None else f" in step {self.step}"
        text = f"rank {self.rank} on {self.host} ended with exit code 0{step}, while others still trained"
        head, _, evidence = (echo.failure or "").partition("\n\n")
        parts = [text, _TOGETHER, *head.split("\n")[:2], "", evidence]
        return Outcome(echo.exit_code, "\n".join(parts).strip()[:LIMIT], self.rank, self.step)


def left_early(ends: Iterable[RankEnd]) -> Early | None:
    """The first rank that did so, of these."""
    left = [Early(end.rank, end.host, end.step, end.time) for end in ends if end.status == 0 and not end.stopped]
    return min(left, key=lambda early: early.at, default=None)


_NOTICED = 2.0
_TOGETHER = "All ranks must take the same number of steps: give each as much data, or leave the loop together."


def _is_echo(end: RankEnd) -> bool:
    said = unwrapped(end.record.cause, end.record.trace)[0] if end.record else _last_words(end)
    return is_collateral(said)


def _last_words(end: RankEnd) -> str:
    return aborted_with(end.tail) if end.status == -signal.SIGABRT else ""


def explain(end: RankEnd) -> str:
    """The failure text: cause, place, remedy, then evidence, of which the end says most."""
    where = f"{end.who} on {end.host}" + (f", step {end.step}" if end.step is not None else "")
    code = f"exit code {end.exit_code}"
    if end.record:
        cause, trace = unwrapped(end.record.cause, end.record.trace)
        place = ", ".join(filter(None, (where, end.record.frame, code)))
        advice = remedy(cause, shm_bytes=end.shm_bytes)
        return _fit(cause, place, advice, _frames(trace))
    if end.status == -signal.SIGKILL and end.out_of_memory:
        return _fit(f"out of memory: the kernel killed {where}, {code}", "", OUT_OF_MEMORY, end.tail)
    if end.status < 0:
        said = _last_words(end)
        advice = remedy(said, shm_bytes=end.shm_bytes) or signal_remedy(-end.status, shm_bytes=end.shm_bytes)
        # On the first line, by which hosts tell each other's causes from echoes.
        cause = f"killed by {_signal_name(-end.status)}: {where}, {code}" + (f": {said}" if said else "")
        return _fit(cause, "", advice, end.tail)
    if end.solo and (raised := last_raised(end.tail)):  # its Python did: runproc.sh is such a script
        return _fit(raised, f"{where}, {code}", remedy(raised, shm_bytes=end.shm_bytes), end.tail[:-1])
    # A shell script's Python leaves no record, but says the same on its last line.
    advice = remedy(end.tail[-1], shm_bytes=end.shm_bytes) if end.tail else ""
    return _fit(f"exit code {end.exit_code}: {where}", "", advice, end.tail)


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


def _fit(cause: str, place: str, advice: str, evidence: Iterable[str]) -> str:
    """All within LIMIT and without secrets: the cause's first line, the place, the advice, the rest of the cause,
    and then as much of the evidence's end as fits.

    Scrubbed before it is cut: half a credential has no shape to know it by.
    """
    headline, _, more = scrub(cause).strip().partition("\n")
    place, advice = _clip(scrub(place), LIMIT // 3), scrub(advice)
    text = "\n".join(filter(None, (_clip(headline, LIMIT - len(place) - 1), place)))
    for part in (advice, more):
        room = LIMIT - len(text) - 1
        if part.strip() and room > _WORTH_SAYING:
            text += "\n" + _clip(part.strip("\n"), min(room, LIMIT // 3))
    rest = scrub("\n".join(evidence)).strip("\n")
    room = LIMIT - len(text) - 2
    if not rest or room < 2:
        return text
    return f"{text}\n\n{rest if len(rest) <= room else '…' + rest[1 - room :]}"


def _clip(text: str, room: int) -> str:
    return text if len(text) <= room else text[: room - 1] + "…"


def _frames(trace: str) -> list[str]:
    """The last frames of a traceback, without the message that stands above already, and the underlining."""
    if "\nSystemExit: " in trace:
        return []  # the script chose to end there; the frame above says where
    frames = [line for line in trace.splitlines() if line.startswith("  ") and line.strip(" ~^")]
    return ["Traceback (most recent call last):", *frames[-12:]] if frames else []


def _signal_name(number: int) -> str:
    try:
        return f"{signal.Signals(number).name} (signal {number})"
    except ValueError:
        return f"signal {number}"
