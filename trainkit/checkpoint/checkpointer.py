"""What a script saves and restores with: job.checkpointer(…)."""

from __future__ import annotations

import hashlib
import os
import socket
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from trainkit.checkpoint import own, tiers
from trainkit.checkpoint.assignment import Assignment, Place
from trainkit.checkpoint.client import Answer, Client, End, new_key
from trainkit.checkpoint.holdings import Holders
from trainkit.checkpoint.restoring import Restored, Restorer
from trainkit.checkpoint.retain import Retention
from trainkit.checkpoint.schedule import Schedule
from trainkit.checkpoint.staging import Staging
from trainkit.checkpoint.subjects import Collected, of
from trainkit.checkpoint.world import World
from trainkit.contract import writers
from trainkit.errors import CheckpointError, PeerLost, StorageError

END_PATIENCE = 3600.0
"""Seconds that the end of a job waits for its last save to be written."""

NOTICE = 5.0
"""Seconds after which waiting is said."""
QUIET = 60.0
"""Seconds between two mentions of one and the same reason."""
EARLIER_PATIENCE = 10.0
"""Seconds that a restarted rank waits for what was being saved when the last one died: it is newer than all else."""


@dataclass(frozen=True, slots=True)
class Setup:
    """Where and when to save. `places`: the folder, then the URL if there is one; the last is the durable one."""

    job: str
    places: tuple[str, ...]
    schedule: Schedule
    retention: Retention
    resume_from: str | None = None
    stop_grace: float = 110.0
    """Seconds from SIGTERM to SIGKILL."""
    coordinator: str = "127.0.0.1"
    """The address of rank 0's host."""
    agent: bool = False
    """Whether the platform's agent copies the folder to a bucket."""


class Checkpointer:
    """The state of some objects, saved without holding up the training, and restored whole.

        ckpt = job.checkpointer(model=model, optimizer=optimizer, stream=stream)
        for step, batch in job.steps(stream, start=ckpt.restore()):
            …
            ckpt.step(step, loss=loss)

    Every rank makes one, and calls the same methods at the same steps.
    """

    def __init__(self, objects: Mapping[str, Any], setup: Setup, world: World, *, say: Callable[[str], None]) -> None:
        """Collective. Raises CheckpointError for what cannot be saved."""
        self._setup, self._world, self._say = setup, world, say
        self._subjects = of(objects)
        self._holders = Holders(rank=world.rank, ranks=world.ranks)
        self._tiers = [tiers.of(place) for place in setup.places]
        self._client, apart = self._start()
        self._staging = Staging(self._client, rank=world.rank, host_of=world.host_of, copies=apart)
        self._agreed: str | None = None
        """The digest of the plan that all ranks have."""
        self._next = 0
        self._restored = self._prepared = False
        self._done: int | None = None
        self._calls = 0
        self._metrics: Mapping[str, Any] = {}
        self._stalls: dict[str, float] = {}
        self._skipped: tuple[str | None, float] = (None, 0.0)
        self._warned = self._closed = False
        self._pid = os.getpid()

    @property
    def done(self) -> int | None:
        """Steps that had ended at the last call of `step` or `save`; None before it."""
        return self._done

    @property
    def calls(self) -> int:
        """How often `step` or `save` was called: whoever runs a loop sees whether it is the one that trains."""
        return self._calls

    def restore(self, *, without: Collection[str] = (), fresh: bool = False) -> int:
        """Go on from the newest whole checkpoint. Returns the step to begin with: 0 where there is none at all.

        Where the job has none, and was told to resume from another's (`--resume-from`), from the newest one there.
        `without`: names of objects that stay as they are. `fresh`: begin anew even where there are checkpoints; they
        are set aside: nothing restores or deletes them.

        Collective. Raises CheckpointError, on all ranks, where there are checkpoints and none can be used, where the
        newest one is of another model, or where what was given cannot be saved, as far as that is known before the
        first step; StorageError where a place cannot be listed; PeerLost where the ranks' writers do not meet.
        """
        self._check()
        step = self._restore(without=without, fresh=fresh)
        if not self._restored:
            self._meet()  # they have started meanwhile
        self._restored = True
        return step

    def _restore(self, *, without: Collection[str], fresh: bool) -> int:
        writers.wait_for_earlier(os.environ, patience=EARLIER_PATIENCE)
        self._world.gather(None)  # on all hosts
        if fresh:
            self._set_all_aside()
            return 0
        restorer = Restorer(self._world, self._subjects, self._holders, self._tell)
        began = time.monotonic()
        restored = restorer.restore(self._tiers, without=without)
        source = self._setup.resume_from
        if restored is None and source:
            restored = restorer.restore([tiers.of(source)], without=without, ours=False)
            if restored is None:
                raise CheckpointError(
                    f"{source} holds no checkpoint to resume from; compare the name, letter by letter"
                )
        if restored is None:
            return 0
        self._tell(_restored(restored, time.monotonic() - began))
        return restored.manifest.step

    def step(self, step: int, **metrics: Any) -> None:
        """Call this at the end of each step: it saves when a save is due. `metrics` are kept with it; rank 0's count.

        Saving copies the state, and leaves the rest to another process. A save that is due while the one before it is
        still being written is skipped. Raises CheckpointError, on all ranks, where the state cannot be saved.
        """
        self._begin(step, metrics)
        self._hear()
        if not self._prepared:  # before the first save, which is to be as quick as all others
            self._prepare()
        if step + 1 < self._next:
            return
        began = time.perf_counter()
        answer = self._client.ask(step + 1, metrics=self._numbers())
        self._next = answer.next
        if answer.why is not None:
            self._skip(step + 1, answer)
        elif answer.attempt and not answer.begun:
            self._stage(answer.attempt, step + 1, began)

    def save(self, step: int, **metrics: Any) -> bool:
        """Save now, due or not, and wait until it is committed in all places. Returns whether it is in the last one.

        `step` is the one that has just ended, as for `step`.
        """
        self._begin(step, metrics)
        return self._finish(step + 1, deadline=time.monotonic() + END_PATIENCE)

    def stop(self, *, left: float) -> bool:
        """Save the last step that ended, unless it is saved, within `left` seconds. Returns whether it is durable."""
        if self._done is None:
            return True
        return self._finish(self._done, deadline=time.monotonic() + left)

    def wait(self, *, patience: float = END_PATIENCE) -> None:
        """Wait until what was staged is committed, or is known to have failed."""
        if self._stalls and os.getpid() == self._pid:
            for attempt in list(self._stalls):
                if not self._client.end_of(attempt, patience=min(patience, NOTICE)):
                    self._tell("checkpoint: waiting until the last save is written")
                    self._client.end_of(attempt, patience=patience)
            self._hear()

    def close(self) -> None:
        """Wait for what is under way, and let the writer go."""
        self.wait()
        if os.getpid() == self._pid and not self._closed:
            self._closed = True
            self._client.close()

    def _start(self) -> tuple[Client, bool]:
        """This rank's writer, which takes its time to start; and whether hosts have folders apart from each other."""
        world, setup = self._world, self._setup
        apart = "://" not in setup.places[0] and not world.local and not self._shared(Path(setup.places[0]))
        folder, *urls = setup.places
        places = (Place(folder, apart=apart, agent=setup.agent), *map(Place, urls))
        client = Client(
            Assignment(
                rank=world.rank, job=setup.job, hosts=world.hosts, host_of=world.host_of, places=places,
                schedule=setup.schedule, retention=setup.retention,
            )
        )  # fmt: skip
        return client, apart

    def _meet(self) -> None:
        """Put all ranks' writers in touch with each other."""
        world = self._world
        if world.ranks == 1:
            return
        key, port, problem = new_key(), 0, None
        try:
            if world.rank == 0:
                port = self._client.listen(key)
        except (CheckpointError, PeerLost) as error:
            problem = str(error)
        key, port, problem = world.from_first((key, port, problem))
        if problem is None and world.rank:
            near = world.host_of[world.rank] == world.host_of[0]
            try:
                self._client.connect("127.0.0.1" if near else self._setup.coordinator, port, key)
            except PeerLost as error:
                problem = str(error)
        if problem := next(filter(None, world.gather(problem)), None):
            raise PeerLost(problem)

    def _shared(self, folder: Path) -> bool:
        """Whether all hosts see the same folder there."""
        name = self._world.from_first(f"trainkit-{socket.gethostname()}-{os.getpid()}{tiers.IGNORED}")
        probe = folder / name
        problem = None
        if self._world.rank == 0:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                probe.touch()
            except OSError as error:
                problem = f"no checkpoint can be written to {folder}: {error.strerror}"
        if problem := self._world.from_first(problem):
            raise CheckpointError(problem)
        seen = all(self._world.gather(os.access(probe, os.F_OK)))
        if self._world.rank == 0:
            probe.unlink(missing_ok=True)
        return seen

    def _begin(self, step: int, metrics: Mapping[str, Any]) -> None:
        """A step has ended."""
        if not self._restored:
            raise CheckpointError("call restore() before the first step; restore(fresh=True) begins anew in any case")
        self._done, self._metrics = step + 1, metrics
        self._calls += 1

    @torch.no_grad()
    def _collect(self) -> Collected:
        collected = Collected()
        for subject in self._subjects.values():
            subject.collect(collected, self._holders)
        return collected

    def _set_all_aside(self) -> None:
        """What is there is further on than what comes: it would be kept, and be restored, instead."""
        problem = None
        if self._world.rank == 0:
            try:
                for tier in self._tiers:
                    for one in tier.list():
                        if one.committed and not one.aside:
                            tier.set_aside(one.directory, "It is whole, but a later job was told to begin anew.\n")
            except StorageError as error:
                problem = str(error)
        if problem := self._world.from_first(problem):
            raise StorageError(problem)

    def _check(self) -> None:
        """Find out before hours have gone by, and on all ranks, that this cannot be saved."""
        problem, kinds = None, {}
        try:
            collected = self._collect()
            own.measure(collected.own)
            kinds = {held.name: f"{held.dtype} {list(held.shape)}" for held in collected.held}
        except CheckpointError as error:
            problem = f"rank {self._world.rank}: {error}"
        problem = next(filter(None, self._world.gather(problem)), None)
        if not problem and len(set(self._world.gather(_digest(kinds)))) > 1:
            first = self._world.from_first(kinds)
            odd = next((name for name in sorted(first.keys() | kinds) if first.get(name) != kinds.get(name)), None)
            told = odd and (
                f"rank {self._world.rank} has other tensors to save than rank 0: "
                f"{odd} is {kinds.get(odd, 'not there')} instead of {first.get(odd, 'not there')}"
            )
            problem = next(filter(None, self._world.gather(told)))
        if problem:
            raise CheckpointError(f"no checkpoint can be made of this: {problem}")

    def _prepare(self) -> None:
        """Plan, and have the arena's pages made beside the training: now there is a state of the optimizer, too."""
        self._prepared = True
        try:
            self._staging.lay_out(self._collect())
        except CheckpointError:
            pass  # the first save will say so, when all ranks listen
        except OSError as error:
            self._say(f"checkpoint: there is no memory for a copy of the state yet: {error}")

    def _stage(self, attempt: str, step: int, began: float) -> bool:
        """Copy the state for the writer. Returns whether it was."""
        try:
            collected = self._collect()
            if not self._staging.fits(collected):
                self._staging.lay_out(collected)
            if self._agreed != self._staging.plan.digest:
                if why := self._client.agree(attempt, self._staging.plan, waiting=self._waiting):
                    self._client.unable(attempt, why)  # it may be our patience only that has ended
                    self._say(f"checkpoint of step {step} was not made: {why}")
                    return False
                self._agreed = self._staging.plan.digest
            files, places = self._staging.copy(collected)
        except (CheckpointError, OSError) as error:
            self._client.unable(attempt, f"rank {self._world.rank}: {error}")
            if isinstance(error, OSError) or self._agreed:
                self._say(f"checkpoint of step {step} was not made: {error}")
                return False
            raise
        self._client.staged(attempt, step, self._staging.plan, files, places)
        self._stalls[attempt] = time.perf_counter() - began
        return True

    def _waiting(self) -> None:
        self._say(
            f"checkpoint: rank {self._world.rank} waits for the first save of the others; "
            "all ranks must call the checkpointer at the same steps"
        )

    def _finish(self, step: int, *, deadline: float) -> bool:
        """Save this step and wait for it."""
        began = time.perf_counter()
        answer = self._client.ask(step, must=True, metrics=self._numbers(), patience=deadline - time.monotonic())
        if answer.attempt is None:
            self._say(f"checkpoint of step {step} was not made: {answer.why}")
            return False
        if not answer.begun and not self._stage(answer.attempt, step, began):
            return False
        self._next = answer.next
        # What is over was told before the answer: where nothing is known of it by now, nothing ever will be.
        end = self._client.end_of(answer.attempt, patience=0 if answer.over else deadline - time.monotonic())
        self._hear()
        return end is not None and len(self._tiers) - 1 in end.committed

    def _hear(self) -> None:
        """Say what has become of earlier saves."""
        for end in self._client.news():
            stall = self._stalls.pop(end.attempt, 0.0)
            self._tell(_told(end, self._setup.places, stall))
            self._warn_of_stop(max(end.committed.values(), default=0.0))
        for remark in self._client.remarks:
            self._say(f"checkpoint: {remark}")
        self._client.remarks.clear()

    def _warn_of_stop(self, seconds: float) -> None:
        """Say, once, that a save that takes so long does not fit between SIGTERM and SIGKILL."""
        grace = self._setup.stop_grace
        if seconds > grace and not self._warned:
            self._warned = True
            self._tell(
                f"checkpoint: a save took {seconds:.0f} s, and a stop leaves {grace:.0f} s: what was done since the "
                "last save will be lost then. Save more often, or make saves shorter: more ranks, a nearer bucket"
            )

    def _skip(self, step: int, answer: Answer) -> None:
        """Say so, but not at each step, where it is the same each time."""
        why, until = self._skipped
        if answer.why != why or time.monotonic() > until:
            self._skipped = (answer.why, time.monotonic() + QUIET)
            self._tell(f"checkpoint of step {step} skipped ({answer.skipped} so far): {answer.why}")

    def _numbers(self) -> dict[str, float]:
        """What the script measured, as far as it is numbers: a tensor on a GPU is only looked at when it is saved."""
        numbers = {}
        for name, value in self._metrics.items():
            try:
                number = float(value.detach() if hasattr(value, "detach") else value)
            except (TypeError, ValueError, RuntimeError):
                continue
            if number == number and abs(number) != float("inf"):
                numbers[name] = number
        return numbers

    def _tell(self, text: str) -> None:
        """Once for all ranks."""
        if self._world.rank == 0:
            self._say(text)


def _told(end: End, places: Sequence[str], stall: float) -> str:
    """What became of a save, where."""
    done = [f"{places[tier]} after {seconds:.1f} s" for tier, seconds in end.committed.items()]
    failed = [f"not in {places[tier]}: {why}" for tier, why in end.failed.items()]
    where = "; ".join([*(["in " + ", ".join(done)] if done else []), *failed])
    return f"checkpoint of step {end.step} {where or 'was not made'} (held up the step for {stall:.2f} s)"


def _digest(kinds: Mapping[str, str]) -> str:
    return hashlib.sha256(repr(sorted(kinds.items())).encode()).hexdigest()


def _restored(restored: Restored, seconds: float) -> str:
    whole = restored.manifest
    newer = "".join(f"; passed over: {why}" for why in restored.passed_over)
    return f"checkpoint of step {whole.step} restored ({whole.ranks} ranks wrote it, {seconds:.1f} s){newer}"
