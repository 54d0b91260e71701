"""Work on all hosts of a Spark cluster: what its tasks write where they run, and how that becomes one output.

every host    visit: are the inputs the same, and is the output the first host's own folder (a shared one)?
tasks         part ─▶ OUTPUT/.spark-<run>.part/<partition>.<attempt>/<split>/part-00000.parquet, on the host they run on
first host    of each partition the one attempt that Spark took: its files get their names, its rows are counted
other hosts   publish: those files into OUTPUT/<split>, the rest away
first host    its own files, and MANIFEST.json, by swap.replacing

Spark's own writer is not used: it commits by renames that the driver makes, in a folder that only its own host sees.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa

from trainkit.errors import DataError, TrainkitError
from trainkit.processing.features import engine, spark, write
from trainkit.processing.features.artifact import Applied
from trainkit.processing.features.declared import Features
from trainkit.processing.features.engine import empty
from trainkit.processing.features.write import Written
from trainkit.storage import commit

PATIENCE = 60.0
"""Seconds in which Spark must have run something on each host: its executors register one by one."""
MARK = "first"
Moves = tuple[tuple[str, str, int], ...]
"""(path below the staging folder, path below the output, bytes)."""


def staging(output: Path, run: str) -> Path:
    return output / f".spark-{run}.part"


@dataclass(frozen=True, slots=True)
class Part:
    """What one task wrote."""

    host: str
    folder: str
    splits: Mapping[str, Written]


# On the hosts


def seen(_: Iterator[Any], *, features: Features, folders: Mapping[str, Path], output: Path, run: str) -> Iterator[Any]:
    """(host, how it has each input or why not, whether its output is the first host's), and no old leavings."""
    for old in output.glob(staging(output, "*").name):
        if old != staging(output, run):
            shutil.rmtree(old, ignore_errors=True)
    found: dict[str, Any] | str
    try:
        found = {name: one.described() for name, one in engine.find(features, folders).items()}
    except TrainkitError as error:
        found = str(error)
    yield _here(), found, (staging(output, run) / MARK).exists()


def part(
    batches: Iterable[pa.RecordBatch], *, applied: Applied, schema: pa.Schema, splits: Sequence[str], staged: Path
) -> Iterator[pa.RecordBatch]:
    """Write one partition's rows; tells of it in one row of JSON."""
    from pyspark import TaskContext

    context = TaskContext.get()
    # A second attempt, after a failure or beside a slow one, must not meet the first one's files.
    name = f"{context.partitionId():06}.{context.taskAttemptId()}"
    alike = (pa.RecordBatch.from_arrays([batch[one.name].cast(one.type) for one in schema], schema=schema)
             for batch in batches)  # fmt: skip
    written = write.through(chain([empty(schema)], alike), applied, splits=splits, into=staged / name)
    told = {
        split: {"rows": one.rows, "files": one.files, "bytes": one.bytes}
        for split, one in written.items() if one.rows
    }  # fmt: skip
    for split in written.keys() - told.keys():
        shutil.rmtree(staged / name / split)
    line = json.dumps({"host": _here(), "folder": name, "splits": told})
    yield pa.RecordBatch.from_pydict({"told": [line]})


def published(_: Iterator[Any], *, output: Path, run: str, moves: Mapping[str, Moves]) -> Iterator[Any]:
    """(host, None or what is wrong). Asked twice, a host has nothing more to do."""
    host = _here()
    if host not in moves:
        return
    wanted = {output / final for _, final, _ in moves[host]}
    for old in output.glob(f"*/part-{host}-*.parquet"):
        if old not in wanted:
            old.unlink()
    for name, final, size in moves[host]:
        source, place = staging(output, run) / name, output / final
        if source.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            source.rename(place)
            commit.sync(place.parent)
        if not place.exists() or place.stat().st_size != size:
            yield host, f"{place} is not there as it was written"
            return
    shutil.rmtree(staging(output, run), ignore_errors=True)
    yield host, None


def _here() -> str:
    return os.environ.get("SM_CURRENT_HOST", "")


# On the first host


@dataclass(frozen=True, slots=True)
class Spread:
    """One run on all hosts of a cluster, or in this process, which is then the only host."""

    session: Any
    hosts: tuple[str, ...]
    first: str
    output: Path
    run: str

    @property
    def staged(self) -> Path:
        return staging(self.output, self.run)

    def begin(self, features: Features, folders: Mapping[str, Path], mine: Mapping[str, Any]) -> frozenset[str]:
        """The hosts whose output is our own folder. Raises DataError where one has other inputs than this one."""
        for old in self.output.glob(staging(self.output, "*").name):
            shutil.rmtree(old)
        self.staged.mkdir(parents=True)
        (self.staged / MARK).touch()
        if len(self.hosts) == 1:
            return frozenset(self.hosts)
        look = partial(seen, features=features, folders=folders, output=self.output, run=self.run)
        sharing = {self.first}
        for host, found, shares in self._visit(look, set(self.hosts)).values():
            if found != mine:
                why = found if isinstance(found, str) else _difference(mine, found)
                raise DataError(
                    f"{host} has not the inputs that {self.first} has: {why}. On Spark every host reads all of each "
                    f"input by the same path: FullyReplicated, or a folder that all mount"
                )
            sharing |= {host} if shares else set()
        return frozenset(sharing)

    def write(self, statement: str, applied: Applied, schema: pa.Schema, splits: Sequence[str]) -> list[Part]:
        """Transform everything. Of each partition the attempt that Spark took."""
        task = partial(part, applied=applied, schema=schema, splits=tuple(splits), staged=self.staged)
        with spark.telling("transforming"):
            told = self.session.sql(statement).mapInArrow(task, "told string").collect()
        parts = [json.loads(row["told"]) for row in told]
        return [
            Part(one["host"] if len(self.hosts) > 1 else self.first, one["folder"],
                 {name: Written(**each) for name, each in one["splits"].items()})
            for one in sorted(parts, key=lambda one: one["folder"])
        ]  # fmt: skip

    def publish(self, moves: Mapping[str, Moves], sharing: frozenset[str]) -> None:
        """On hosts with an output of their own, each file into its place. Raises DataError where one is lost."""
        others = {host: moves.get(host, ()) for host in self.hosts if host not in sharing}
        if not others:
            return
        place = partial(published, output=self.output, run=self.run, moves=others)
        for host, wrong in self._visit(place, set(others)).values():
            if wrong:
                raise DataError(f"{host}: {wrong}. Run the job again")

    def _visit(self, task: Callable[[Iterator[Any]], Iterator[Any]], wanted: set[str]) -> dict[str, tuple[Any, ...]]:
        """What `task` tells on each of the hosts: at least once on each, since Spark chooses where tasks run."""
        found: dict[str, tuple[Any, ...]] = {}
        until = time.monotonic() + PATIENCE
        while missing := wanted - found.keys():
            if time.monotonic() > until:
                raise DataError(
                    f"Spark has run nothing on {', '.join(sorted(missing))} in {PATIENCE:.0f} s. Look at its log"
                )
            # A barrier has all tasks run at once, so that one executor cannot take them one after the other.
            everywhere = self.session.sparkContext.parallelize(range(len(self.hosts)), len(self.hosts)).barrier()
            with spark.telling("visiting every host"):
                found |= {told[0]: told for told in everywhere.mapPartitions(task).collect()}
        return found


def places(parts: Sequence[Part], *, hosts: int, splits: Sequence[str]) -> tuple[dict[str, Moves], dict[str, Written]]:
    """(of each host, which staged file gets which name; what each split has then, in the order of partitions)."""
    moves: dict[str, list[tuple[str, str, int]]] = {one.host: [] for one in parts}
    written = {split: Written() for split in splits}
    numbers: dict[tuple[str, str], int] = {}
    for one in parts:
        for split, each in one.splits.items():
            written[split].rows += each.rows
            for file, size in zip(each.files, each.bytes, strict=True):
                number = numbers[one.host, split] = numbers.get((one.host, split), -1) + 1
                name = f"part-{one.host}-{number:05}.parquet" if hosts > 1 else f"part-{number:05}.parquet"
                moves[one.host].append((f"{one.folder}/{split}/{file}", f"{split}/{name}", size))
                written[split].files.append(name)
                written[split].bytes.append(size)
    return {host: tuple(each) for host, each in moves.items()}, written


def _difference(mine: Mapping[str, Any], its: Mapping[str, Any]) -> str:
    name = next(name for name in mine if its.get(name) != mine[name])
    return f"of {name} there are {its.get(name)}, and here {mine[name]}"
