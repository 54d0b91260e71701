"""Kills ranks that save all the time, and looks at what is left: python -m faults.killer '{"where": …}'

    life: fork the ranks ─ each starts its writer ─ they save ─ SIGKILL ─ what would a restart resume from? ─ next life

One process does one series of lives over the leftovers of those before, and prints a line of JSON for each kill. It is
the reaper of all that it starts, so no writer can be left behind unseen.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from faults import agent
from faults.saver import TENSORS, Life, Meeting, content_of, said, started, state_of, told
from trainkit.checkpoint import choose, manifest, tiers
from trainkit.checkpoint.boxes import Box
from trainkit.checkpoint.read import Reader, Wanted
from trainkit.errors import CheckpointError, StorageError

PATIENCE = 60.0
"""Seconds for anything that has to happen: the machine may be busy."""
VICTIMS = ("rank", "writer", "coordinator", "all")
PHASES = ("no file yet", "first files", "files whole", "manifest", "committed", "deleting")


@dataclass(frozen=True, slots=True)
class Series:
    """`where` is a local folder or a URL; `order` that of the agent that copies the folder, if there is one."""

    where: str
    scratch: str
    kills: int
    seed: int
    order: str | None = None
    ranks: int = 2


@dataclass(slots=True)
class Kill:
    """One kill, and what was found after it. `newest` is the newest step known to be committed, `found` the chosen."""

    victim: str
    phase: str
    newest: int = -1
    found: int = -1
    torn: str = ""
    odd: str = ""


class Killer:
    def __init__(self, series: Series) -> None:
        self.series = series
        self.dice = random.Random(series.seed)
        self.log = Path(series.scratch) / "log"
        self.local = "://" not in series.where
        self.place = tiers.of(series.where)
        self.number = 0
        self.start = 0
        self.read_from = self.place

    def run(self) -> Iterator[Kill]:
        while self.series.kills > 0:
            yield from self._life()
        self._wait_for_all()

    def _life(self) -> Iterator[Kill]:
        """Some kills of writers, and the one that ends the life."""
        self.number += 1
        series = self.series
        keep = self.dice.choice((2, 3) if series.order else (1, 2, 3))
        life = Life(
            self.number, series.ranks, self.start, (series.where,), self.log, last=keep, agent=bool(series.order)
        )
        meeting, pids = started(life)
        copier = agent.started(Path(series.where), self._copy, series.order, self.dice) if series.order else None
        try:
            self._until(lambda: len(self._writers()) == series.ranks, "writers", pids)
            if self.dice.random() < 0.9:  # the others die in their first save
                self._until(lambda: self._committed(life=self.number) >= 0, "a first commit", pids)
                for _ in range(self.dice.choice((0, 0, 1, 2) if self.local else (0, 0, 1))):
                    yield self._kill_writer(meeting, pids)
            yield self._end(pids, copier)
        finally:
            for pid in [*pids, *([copier] if copier else [])]:
                _kill(pid)
                _reap(pid)

    def _kill_writer(self, meeting: Meeting, pids: list[int]) -> Kill:
        """The ranks go on, start another one, and save again."""
        victim = self.dice.choice(("writer", "coordinator"))
        writers = self._writers()
        phase = self._moment()
        _kill(writers[0 if victim == "coordinator" else self.dice.randrange(1, len(writers))])
        kill = Kill(victim, phase or self._phase())
        self.series = Series(**{**asdict(self.series), "kills": self.series.kills - 1})
        step = meeting.step
        self._until(lambda: self._committed(life=self.number) > step, "a save after a writer was killed", pids)
        with self._still([*pids, *self._writers().values()]):
            kill.newest = kill.found = self._committed()
            if self.series.order is None:
                kill.found = -1
                self._examine(kill, beside=not self.local)  # a server still does what it was asked
        return kill

    def _end(self, pids: list[int], copier: int | None) -> Kill:
        victim = "all" if copier else self.dice.choice(("rank", "all"))
        writers = list(self._writers().values())
        phase = self._moment()
        if victim == "all":
            for pid in [*([copier] if copier else []), *pids, *writers]:
                _kill(pid)
        else:  # as a launcher does: one is dead, and the others are killed a moment later
            _kill(self.dice.choice(pids))
            time.sleep(self.dice.choice((0.0, self.dice.uniform(0, 0.05))))
            for pid in pids:
                _kill(pid)
        kill = Kill(victim, phase or self._phase())
        self.series = Series(**{**asdict(self.series), "kills": self.series.kills - 1})
        for pid in [*pids, *(writers if victim == "all" else ())]:
            _reap(pid)
        beside = victim == "rank" and self.dice.random() < 0.5  # the next life starts while they commit and delete
        if not beside:
            self._wait_for_all(except_for=copier)
        if copier:
            _reap(copier)
            self._replace_by_copy(kill)
        else:
            kill.newest = self._committed()
        self._examine(kill, beside=beside)
        self.start = max(kill.found, 0)
        return kill

    @contextmanager
    def _still(self, pids: list[int]) -> Iterator[None]:
        """An instant: whoever reads more slowly than others save and delete has nothing left to read."""
        try:
            for pid in pids:
                _send(pid, signal.SIGSTOP)
            deadline = time.monotonic() + PATIENCE
            while not all(map(_stands, pids)):
                assert time.monotonic() < deadline, f"they cannot be stopped: {self._last_words()}"
                time.sleep(0.001)
            yield
        finally:
            for pid in pids:
                _send(pid, signal.SIGCONT)

    def _moment(self) -> str:
        """Wait for a moment to kill at: a phase that shows in the folder, or anyone."""
        wanted = self.dice.choice(("", "", *PHASES)) if self.local else ""
        if not wanted:
            time.sleep(self.dice.uniform(0, 0.2))
            return ""
        deadline = time.monotonic() + 3
        while self._phase() != wanted and time.monotonic() < deadline:
            pass
        return wanted if time.monotonic() < deadline else ""

    def _phase(self) -> str:
        if not self.local:
            return "at random"
        return phase(Path(self.series.where), files=2 * self.series.ranks)

    @property
    def _copy(self) -> Path:
        return Path(self.series.scratch) / "copy"

    def _replace_by_copy(self, kill: Kill) -> None:
        """The instance is gone, and the next one begins with what is in the bucket."""
        complete = [one.step for one in tiers.LocalTier(self._copy).list() if _complete(self._copy / one.directory)]
        kill.newest = max(complete, default=-1)
        if kill.newest < self.start > 0:
            kill.odd = f"the bucket had step {self.start} whole, and has {kill.newest}"
        shutil.rmtree(self.series.where, ignore_errors=True)
        shutil.copytree(self._copy, self.series.where)

    def _examine(self, kill: Kill, *, beside: bool) -> None:
        """What a restart would do: choose, read all of it, and go back further where that fails.

        `beside`: writers still work, and may delete what was chosen, once they have committed a newer one.
        """
        without: set[str] = set()
        while True:
            choice = choose.choose([self.place], without=without)
            if choice.damaged and self.series.order is None:
                kill.odd = f"damaged: {choice.damaged}"
            if choice.manifest is None:
                break
            try:
                torn, step = self._read(choice.manifest)
            except (CheckpointError, StorageError) as error:
                if self.series.order is None and not beside:
                    kill.odd = f"passed over: {error}"
                without.add(choice.manifest.directory)
                continue
            kill.found, kill.torn = step, torn
            break

    def _read(self, whole: manifest.Manifest) -> tuple[str, int]:
        """What is wrong with it, and the step that its elements say."""
        listed = {one.directory: set(one.sizes) for one in self.place.list()}
        present = listed.get(whole.directory, set())  # ranks that go on delete, too
        arrays = [np.zeros((*shape, 8), np.uint8) for shape in TENSORS]

        def into(array: Any) -> Callable[[Box, Any], None]:
            def put(part: Box, content: Any) -> None:
                array[part.within(Box((0,) * len(part.offsets), array.shape[:-1]))] = content

            return put

        reader = Reader(whole, [self.place], [present])
        reader.read([Wanted(f"t{n}", Box.whole(shape), into(arrays[n])) for n, shape in enumerate(TENSORS)])
        numbers = [array.reshape(-1).view(np.uint64) for array in arrays]
        step, life = said(int(numbers[0][0]))
        if step != whole.step:
            return f"its manifest says step {whole.step}, and its elements {step}", step
        for tensor, shape in enumerate(TENSORS):
            if not np.array_equal(numbers[tensor], content_of(step, life, tensor, Box.whole(shape).volume)):
                return f"t{tensor} is not that of step {step}", step
        for rank in range(whole.ranks):
            if reader.state(rank) != state_of(step, life, rank):
                return f"the state of rank {rank} is not that of step {step}", step
        return "", step

    def _writers(self) -> dict[int, int]:
        return {rank: pid for life, rank, what, pid, _ in told(self.log) if what == "writer" and life == self.number}

    def _committed(self, *, life: int | None = None) -> int:
        """The newest step that a rank was told is committed."""
        steps = (step for of, _, what, step, _ in told(self.log) if what == "committed" and life in (None, of))
        return max(steps, default=-1)

    def _until(self, met: Callable[[], bool], what: str, pids: list[int]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not met():
            for pid in pids:
                if os.waitpid(pid, os.WNOHANG)[0]:
                    raise AssertionError(f"rank {pids.index(pid)} ended by itself before {what}: {self._last_words()}")
            assert time.monotonic() < deadline, f"{what} did not come: {self._last_words()}"
            time.sleep(0.002)

    def _last_words(self) -> str:
        crashes = [path.read_text() for path in self.log.parent.glob("crash-*.txt")]
        lines = self.log.read_text().splitlines()[-20:] if self.log.exists() else []
        return "\n".join([*crashes, *lines])

    def _wait_for_all(self, *, except_for: int | None = None) -> None:
        """Until every writer has ended, whatever it had to finish."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                assert time.monotonic() < deadline, f"writers are left behind: {children()}: {self._last_words()}"
                if set(children()) <= {except_for}:
                    return
                time.sleep(0.005)


def phase(folder: Path, *, files: int) -> str:
    """How far the newest attempt is, as its folder shows it."""
    attempts = [name for name in _names(folder) if manifest.step_of(name) is not None]
    if not attempts:
        return PHASES[0]
    newest = max(attempts)
    names = _names(folder / newest)
    if manifest.FILE in names:
        older = [name for name in attempts if name != newest and manifest.FILE not in _names(folder / name)]
        return PHASES[5] if older else PHASES[4]
    if manifest.FILE + tiers.IGNORED in names:
        return PHASES[3]
    whole = [name for name in names if not name.endswith(tiers.IGNORED)]
    return PHASES[2] if len(whole) == files else PHASES[1] if names else PHASES[0]


def children() -> list[int]:
    found = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return [int(pid) for pid in found]


def _complete(directory: Path) -> bool:
    """Whether all that its manifest names is there: as a reader who trusts nothing but sizes would say."""
    with suppress(OSError, CheckpointError):
        whole = manifest.parse((directory / manifest.FILE).read_bytes())
        return all((directory / file.name).stat().st_size == file.size for file in whole.files)
    return False


def _names(folder: Path) -> list[str]:
    try:
        return [path.name for path in folder.iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _kill(pid: int) -> None:
    _send(pid, signal.SIGKILL)


def _send(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _stands(pid: int) -> bool:
    """Whether all of its threads do, or it is gone: one that waits for a disk stops when it has its answer."""
    try:
        states = [
            (task / "stat").read_text().rpartition(")")[2].split()[0] for task in Path(f"/proc/{pid}/task").iterdir()
        ]
    except OSError:  # it ends, or a thread of it
        return not Path(f"/proc/{pid}").exists()
    return set(states) <= set("TtZX")


def _reap(pid: int) -> None:
    with suppress(ChildProcessError):
        os.waitpid(pid, 0)


def main(series: Series) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER
    Path(series.scratch).mkdir(parents=True, exist_ok=True)
    try:
        for kill in Killer(series).run():
            print(json.dumps(asdict(kill)), flush=True)
    finally:
        for pid in children():
            _kill(pid)
        while children():
            _reap(children()[0])


if __name__ == "__main__":
    main(Series(**json.loads(sys.argv[1])))
