"""The object that `trainkit.job()` gives: one per process."""

from __future__ import annotations

import atexit
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import ExitStack, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final, TypeVar, overload
from urllib.parse import unquote, urlsplit

from trainkit.contract.board import Board
from trainkit.contract.environ import CHANNEL_URL, RUN_DIR
from trainkit.contract.failing import failing
from trainkit.contract.hyperparameters import Hyperparameters
from trainkit.contract.names import alias
from trainkit.data import MEMORY
from trainkit.errors import ConfigError, Mistake
from trainkit.job import facts, metrics, rehearsal, streams
from trainkit.job.asked import Asked
from trainkit.job.checkpoints import Checkpoints
from trainkit.job.convert import check, convert
from trainkit.job.facts import Facts
from trainkit.job.progress import Progress
from trainkit.job.rehearsal import Rehearsal
from trainkit.job.signals import Stop

if TYPE_CHECKING:
    import pyarrow as pa
    import torch

    from trainkit.checkpoint.checkpointer import Checkpointer
    from trainkit.data.batches import Kind
    from trainkit.data.fetch.fetcher import Name
    from trainkit.data.mixture import Mixture, Source, Until
    from trainkit.data.piped import PipeStream
    from trainkit.data.share import Tail
    from trainkit.data.stream import Stream

T = TypeVar("T")
D = TypeVar("D", bool, int, float, str)
CHECKPOINT_SECONDS = 600.0
CODE = "code"
"""The channel with the script itself, which is no data."""
_REQUIRED: Final = object()
_the_one: Context | None = None


def current() -> Context:
    """This process's context; the first call reads the job."""
    global _the_one
    if _the_one is None:
        read = facts.read(os.environ, argv=sys.argv[1:], cwd=Path.cwd())
        board = Board.find(os.environ.get(RUN_DIR))
        stop = Stop(board, local_rank=read.world.local_rank)
        _the_one = Context(read, stop=stop, rehearsal=Rehearsal.find(os.environ))
        atexit.register(_the_one._at_exit)
    return _the_one


def say(text: str) -> None:
    """One line to stdout, at once and in one write, so that lines of several ranks do not mix."""
    line = f"{text}\n"
    try:
        sys.stdout.write(line)
    except UnicodeEncodeError:  # a terminal or locale without `·`
        sys.stdout.write(line.encode(sys.stdout.encoding, "replace").decode(sys.stdout.encoding))
    sys.stdout.flush()


def mention(text: str) -> None:
    """`say` for what is not worth ending a training: stdout may be closed, or a pipe that nobody reads."""
    with suppress(OSError, ValueError, AttributeError):
        say(text)


class Context:
    """This rank's view of its job. Scripts get it from `trainkit.job()`."""

    def __init__(self, facts: Facts, *, stop: Stop, rehearsal: Rehearsal | None = None) -> None:
        self._facts = facts
        self._stop = stop
        self._rehearsal = rehearsal
        self._step: int | None = None
        self._in_steps = False
        self._logged: Mapping[str, metrics.Number] = {}
        self._fresh_file = facts.fresh
        self._asked = Asked()
        self._checkpoints = Checkpoints(facts, say=mention)
        self._told_unread = False
        self._pid = os.getpid()

    def __repr__(self) -> str:
        return f"<job {self.name!r}, rank {self.rank} of {self.world_size} on {self.host}>"

    @property
    def name(self) -> str:
        """The training job's name; "local" where it has none."""
        return self._facts.name

    @property
    def hyperparameters(self) -> Hyperparameters:
        """Name → decoded JSON value, with the original texts in `.texts`."""
        self._asked.all_at_once = True
        return self._facts.hyperparameters

    @overload
    def hp(self, name: str) -> Any: ...
    @overload
    def hp(self, name: str, default: None) -> Any: ...
    @overload
    def hp(self, name: str, default: D) -> D: ...
    def hp(self, name: str, default: Any = _REQUIRED) -> Any:
        """The hyperparameter `name`, its text converted to the type of `default` (bool, int, float or str).

        Without a default it is required. Then, and where the default is None, it comes as its decoded JSON value.
        A name with '-' is found under '_' too, as argparse does it. What no call asked for is told at the end.
        Raises ConfigError where it is missing, or where its text is of another type; TypeError for another default.
        """
        self._asked.by_hp = True
        return self._hyperparameter(name, default)

    def _hyperparameter(self, name: str, default: Any) -> Any:
        typed = default is not _REQUIRED and default is not None
        if typed:
            check(default, name=name)
        self._asked.names.add(name)
        texts = self._facts.hyperparameters.texts
        found = next((key for key in (name, name.replace("_", "-"), name.replace("-", "_")) if key in texts), None)
        if found is None and default is _REQUIRED:
            problem = f"is missing; there are {', '.join(texts) or 'none'}"
            remedy = f"Give it as a hyperparameter, or on the command line: --{name} VALUE"
            raise ConfigError([Mistake(self._facts.hyperparameters_from, name, None, problem, remedy)])
        if found is None:
            return default
        if typed:
            return convert(texts[found], like=default, name=found, source=self._facts.hyperparameters_from)
        return self._facts.hyperparameters[found]

    @property
    def channels(self) -> tuple[str, ...]:
        """The names of the job's input channels, without `code`."""
        return tuple(name for name in self._facts.channels if name != CODE)

    def channel(self, name: str) -> Path:
        """The directory (or file) with the channel's data.

        Raises ConfigError where there is no such channel, or where its data is not in a directory here.
        """
        source, variable = self._source(name), CHANNEL_URL + alias(name)
        if source is None:
            raise self._no_channel(name)
        path, problem = _local(source.where), ""
        if path is None:
            problem = "is a URL, and channel() gives directories"
        elif source.mode == "Pipe" and source.said_by != variable:
            problem = "is in Pipe mode: its data comes through FIFOs, not in a directory"
        elif not path.exists():
            problem = "does not exist"
        if path is None or problem:
            remedy = f"Use a channel in File or FastFile mode, or set {variable} to a directory on this machine"
            raise ConfigError([Mistake(source.said_by, name, source.where, problem, remedy)])
        return path

    def stream(
        self,
        name: str,
        *,
        batch_size: int,
        shuffle: bool = False,
        columns: Sequence[str] | None = None,
        transform: Callable[[pa.Table], Any] | None = None,
        tail: Tail = "drop",
        kind: Kind = "torch",
        seed: int | None = None,
        lanes: int | None = None,
        memory: int = MEMORY,
        processes: int = 0,
        fetcher: Name | None = None,
        cache: str | Path | None = None,
        cache_bytes: int | None = None,
    ) -> Stream | PipeStream:
        """Batches of a channel, read while training: this rank's part of each global batch. See docs/data.md.

            for batch in stream: ...                                    # one epoch; a dict of tensors
            stream.state_dict(), stream.load_state_dict(...)            # exact, on any number of ranks

        `name`: a channel, or any path or URL. `batch_size`: rows of one rank. `columns`: those to decode; all by
        default. `transform`: gets the rows as an Arrow table, in a thread beside the training; a table that it returns,
        of any number of rows, becomes the batch, and anything else is the batch. `tail`: "drop" leaves out what does
        not fill a global batch, "pad" fills it up with the epoch's first rows, "exact" makes the last batches smaller;
        all ranks have as many batches in any case. `kind`: "torch", "numpy" or "arrow". `seed`: by default the job's.
        `lanes`: blocks that are mixed, in all ranks together; by default as many as half of `memory` (bytes, of each
        rank) holds, and then part of the state. `processes`: run `transform` in so many processes instead of a thread,
        where it is Python that computes; the batches are the same. `fetcher`: "http", "boto3" or "fsspec"; by default
        the URL decides. `cache`: a folder on a local disk in which blocks are kept, so that later epochs read them from
        there; of `cache_bytes` at most, by default half of what is free. A channel in Pipe mode gives what a pipe can:
        no len(), nothing kept, threads only, and a resumed epoch is read again.

        Raises ConfigError, StorageError or DataError with what to do; ValueError for choices that make no sense.
        """
        from trainkit.data.open import Keep
        from trainkit.data.stream import Choices

        if cache_bytes is not None and (cache is None or cache_bytes < 1):
            raise ValueError(f"cache_bytes is {cache_bytes}: must be 1 or more, and goes with cache, a folder")
        keep = None if cache is None else Keep(str(cache), cache_bytes)
        chosen = Choices(
            batch_size=batch_size, shuffle=shuffle, seed=self.seed if seed is None else seed, tail=tail, lanes=lanes,
            columns=None if columns is None else tuple(columns), transform=transform, kind=kind, memory=memory,
            processes=processes,
        )  # fmt: skip
        source = self._source(name)
        if source is None and "://" not in name and not Path(name).exists():
            raise self._no_channel(name)
        return streams.open_channel(
            name, source, chosen, world=self._facts.world, run_dir=os.environ.get(RUN_DIR), fetcher=fetcher, keep=keep
        )

    def mixture(
        self, streams: Mapping[str, tuple[Source, float]], *, until: Until = "last", seed: int | None = None
    ) -> Mixture:
        """Several streams as one: each step takes a batch of one of them, by weight, the same one on every rank.

            both = job.mixture({"web": (job.stream("web", …), 0.7), "books": (job.stream("books", …), 0.3)})
            for batch in both: ...                                      # both.source: which one it is from

        `until`: where a pass ends: "last" when every stream has been through, "first" when one has, or after so many
        steps. Streams that are through begin their next epoch. `seed`: by default the job's. See docs/data.md.

        Raises ValueError for choices that make no sense.
        """
        from trainkit.data.open import open_mixture

        return open_mixture(streams, until=until, seed=self.seed if seed is None else seed)

    @property
    def rank(self) -> int:
        return self._facts.world.rank

    @property
    def local_rank(self) -> int:
        return self._facts.world.local_rank

    @property
    def world_size(self) -> int:
        return self._facts.world.world_size

    @property
    def local_world_size(self) -> int:
        return self._facts.world.local_world_size

    @property
    def hosts(self) -> tuple[str, ...]:
        """The hosts that train together, in rank order. Without a job they are called host-0, host-1, …"""
        return self._facts.world.hosts

    @property
    def host_rank(self) -> int:
        return self._facts.world.host_rank

    @property
    def host(self) -> str:
        return self.hosts[self.host_rank]

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, the one that writes what is written once."""
        return self.rank == 0

    @property
    def seed(self) -> int:
        """The hyperparameter `seed`, else 0. Setting the generators with it is the script's choice."""
        return int(self._hyperparameter("seed", 0))

    @property
    def device(self) -> torch.device:
        """This rank's GPU where there is CUDA, else the CPU."""
        import torch

        return torch.device("cuda", self.local_rank) if torch.cuda.is_available() else torch.device("cpu")

    @property
    def model_dir(self) -> Path:
        """What lies here at the end is the job's model. Made when it is asked for, as the next two."""
        return _made(self._facts.model)

    @property
    def output_dir(self) -> Path:
        """Other results: SageMaker keeps them as output.tar.gz."""
        return _made(self._facts.output_data)

    @property
    def checkpoint_dir(self) -> Path:
        """SageMaker copies this directory to S3 while the job runs, where the job asks for it."""
        return _made(self._facts.checkpoints)

    def checkpointer(
        self,
        *,
        every: int | None = None,
        seconds: float | None = None,
        keep: int = 2,
        best: int = 0,
        metric: str | None = None,
        highest: bool = False,
        keep_every: int | None = None,
        **objects: Any,
    ) -> Checkpointer:
        """Saves and restores these objects, on any number of ranks and hosts. See docs/checkpoints.md.

            ckpt = job.checkpointer(model=model, optimizer=optimizer, scheduler=scheduler, stream=stream)
            for step, batch in job.steps(stream, start=ckpt.restore()):
                …
                ckpt.step(step, loss=loss)

        `objects`: models, optimizers, and whatever has state_dict and load_state_dict; None is left out. The random
        number generators of each rank come with them. `every`: a save every so many steps; `seconds`: when so many
        have gone by since the last; by default 600 seconds. job.steps saves at a stop, too. `keep`: how many stay, and
        with `best` as many more whose `metric` (of ckpt.step) is lowest, or `highest`; and each `keep_every`th step.

        Saves go to checkpoint_dir, and with the setting checkpoint_url below that URL too. Collective. Raises
        CheckpointError where something has no state, ValueError for choices that make no sense.
        """
        from trainkit.checkpoint.retain import Retention
        from trainkit.checkpoint.schedule import Schedule

        if best and metric is None:
            raise ValueError("best=… needs to know by which metric=… of ckpt.step")
        for name, number in (("every", every), ("seconds", seconds), ("keep", keep), ("keep_every", keep_every)):
            if number is not None and not number > 0:
                raise ValueError(f"{name}={number}: must be more than 0")
        schedule = Schedule(every, CHECKPOINT_SECONDS if every is None and seconds is None else seconds)
        retention = Retention(last=keep, best=best, metric=metric, highest=highest, every=keep_every)
        return self._checkpoints.make(objects, schedule=schedule, retention=retention)

    def should_stop(self) -> bool:
        """Whether the job was asked to stop (SIGTERM at any host), and this is the step at which all ranks do.

        All ranks answer yes at the same step: under the harness, and without it where there is a process group with a
        TCPStore, as torchrun's; else each rank answers for itself. Each call counts as a boundary between two steps,
        so every rank must ask, once a step: job.steps does. Until one of them is first called, SIGTERM does what it
        always does: a script that never asks is simply ended by it. It may wait, for seconds, until the ranks agree.
        """
        return self._stop.at_boundary()

    def _boundary(self, step: int, *, waited: float) -> bool:
        """Between two steps of job.steps: whether to end here."""
        over = self._stop.at_boundary(step=step, waited=waited)
        if self._rehearsal and not over:
            self._rehearsal.reach(step, rank=self.rank, host=self.host, local_rank=self.local_rank)
        return over

    def steps(self, iterable: Iterable[T], *, start: int = 0, total: int | None = None) -> Iterator[tuple[int, T]]:
        """Yield (step, item) for each item, and show progress on rank 0.

        The first step yielded is `start`; no items are skipped for it: when resuming, give the items that are left.
        `total` is the step count at the end, for the time left; by default start + len(iterable), where it has one.
        Ends early, after the current item, when should_stop() is true; where the script calls a checkpointer's step
        only every few items, because gradients add up between, after the next such call. Inside another job.steps it
        shows no progress, and when it ends, the outer loop's step is the step again.
        """
        if total is None and (length := _length(iterable)) is not None:
            total = start + length
        outer, nested, done = self._step, self._in_steps, start
        progress = None
        if self.is_first and not nested:
            progress = Progress(done, total=total, terminal=_on_terminal(), clock=time.monotonic, say=mention)
        rehearsed = rehearsal.steps(os.environ)
        enough = None if rehearsed is None else start + rehearsed
        items: Iterator[T] | None = None
        waited, complete, stopped, since = 0.0, False, False, self._checkpoints.calls
        self._in_steps = True
        try:
            while True:
                stopped = self._boundary(done, waited=waited) or (enough is not None and done >= enough)
                if stopped and not self._checkpoints.within_step(done, since=since, age=self._stop.age):
                    break
                began = time.perf_counter()
                items = iter(iterable) if items is None else items  # a DataLoader starts its workers here
                try:
                    item = next(items)
                except StopIteration:
                    break
                waited += time.perf_counter() - began
                self._step = done
                yield done, item
                done += 1
                if progress:
                    progress.after(done, self._logged, waited=waited)
            if stopped and not nested:
                self._checkpoints.stop(done, since=since, age=self._stop.age)
            complete = True
        finally:  # also where the script leaves its loop
            self._in_steps = nested
            if nested:
                self._step = outer
            else:
                self._stop.leave(complete=complete)
            if rehearsed is not None and self.is_first and not nested:
                mention(f"rehearsal: steps {start} to {done}")
            if progress:
                why = f"stopping: {self._stop.signal.name}" if self._stop.signal else ""
                progress.end(done, self._logged, waited=waited, why=why)

    def log(self, *, step: int | None = None, **values: object) -> None:
        """Record metrics: one line on stdout and one in <output_dir>/metrics.jsonl, both by rank 0 only.

        `step` is by default that of job.steps (0 before it). Values are numbers, or scalars of numpy or torch; other
        ranks' values are not looked at, so reduce first what is to be a mean over ranks. See docs/metrics.md.

        Raises TypeError for a value that is no single number, ValueError for a name no regex could find, StorageError
        where the file cannot be written, RuntimeError in a process that is not the rank (a DataLoader's worker).
        """
        if os.getpid() != self._pid or _in_worker():
            raise RuntimeError(
                "job.log was called in a DataLoader worker or another child of this rank: "
                "return the value to the training loop, and log it there"
            )
        if not self.is_first:
            return
        step = (self._step or 0) if step is None else int(step)
        self._logged = metrics.numbers(values)
        say(metrics.line(step=step, values=self._logged))
        text = metrics.record(step=step, time=time.time(), values=self._logged)
        metrics.append(self._facts.output_data / metrics.FILE, text, fresh=self._fresh_file)
        self._fresh_file = False

    def save_model(
        self,
        model: torch.nn.Module,
        *,
        files: Mapping[str, str | bytes] | None = None,
        features: str | os.PathLike[str] | None = None,
    ) -> None:
        """Write the model into model_dir, whole or not at all. All ranks must call it; all return or raise together.

        Takes plain modules, DDP, FSDP2 (fully_shard), DTensor parameters, compiled and accelerate-wrapped ones. Rank 0
        writes model.safetensors (tied weights once), `files` beside it (name → content, e.g. config.json), and last
        the manifest trainkit.json. Several ranks without a process group: rank 0 writes, the others return.
        Where a channel carries what its features were fitted with (docs/features.md), at a path or a URL, or `features`
        names such a place, that lies in features/<hash> then.

        Raises StorageError on every rank where rank 0 could not write, TrainkitError for a model that cannot be saved.
        """
        from trainkit.artifact.model import save

        # Not self.model_dir, and no folder for what is fetched: making one can fail, which the other ranks must hear.
        with ExitStack() as away:
            save(
                model, self._facts.model, rank=self.rank, files=files or {}, job=self.name, step=self._step,
                features=lambda: self._fitted(features, away),
            )  # fmt: skip
        self._tell_unread()

    def _fitted(self, named: str | os.PathLike[str] | None, away: ExitStack) -> Path | None:
        from trainkit.job import fitted

        scratch = TemporaryDirectory(prefix="trainkit-fitted-", ignore_cleanup_errors=True)
        into = Path(away.enter_context(scratch))
        if named is not None:
            return fitted.named(os.fspath(named), into)
        known = [one.where for one in self._facts.channels.values() if one.mode != "Pipe"]
        return fitted.carried([_local(one) or one for one in known], into, say=mention)

    def _source(self, name: str) -> facts.Source | None:
        known = self._facts.channels
        return known.get(name) or next((known[other] for other in known if alias(other) == alias(name)), None)

    def _no_channel(self, name: str) -> ConfigError:
        problem = f"is no channel of this job; there are {', '.join(self.channels) or 'none'}"
        remedy = f"Add it to the job's InputDataConfig, or set {CHANNEL_URL + alias(name)} to a directory"
        return ConfigError([Mistake("channels", name, None, problem, remedy)])

    def _tell_unread(self) -> None:
        """Say once which hyperparameters nobody asked for."""
        if self._told_unread or not self.is_first or os.getpid() != self._pid:
            return
        self._told_unread = True
        if unread := self._asked.unread(self._facts.hyperparameters):
            mention(unread)

    def _at_exit(self) -> None:
        failed = failing()
        if not failed:  # else much is unread, since the script did not come that far
            self._tell_unread()
        if os.getpid() == self._pid:
            self._checkpoints.close(failed=failed)


def _local(where: str) -> Path | None:
    """The path that a path or file:// URL names; None for any other URL."""
    if "://" not in where:
        return Path(where)
    url = urlsplit(where)
    return Path(unquote(url.path)) if url.scheme == "file" and url.netloc in ("", "localhost") else None


def _made(directory: Path) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def _length(iterable: Iterable[object]) -> int | None:
    """How many items there are; None where nobody knows, as with a DataLoader over a stream."""
    try:
        return len(iterable) if isinstance(iterable, Sized) else None
    except TypeError:
        return None


def _on_terminal() -> bool:
    try:
        return sys.stdout.isatty()
    except (AttributeError, ValueError):  # there is none, or it is closed
        return False


def _in_worker() -> bool:
    """Whether this is a DataLoader's worker; one that was spawned has a context and a process id of its own."""
    data = sys.modules.get("torch.utils.data")
    return data is not None and data.get_worker_info() is not None
