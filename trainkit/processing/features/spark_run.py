"""A run on Spark, as run.py has it on duckdb: the same output, written by all hosts of a cluster (see spread.py)."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trainkit.contract.features import BESIDE, FOLDER, MANIFEST, carried
from trainkit.errors import DataError, UsageError
from trainkit.processing.features import artifact, engine, fit, spark, spark_fit, spread, sql, swap, transpiled, write
from trainkit.processing.features.artifact import Applied
from trainkit.processing.features.declared import Features
from trainkit.processing.features.engine import Input
from trainkit.processing.features.fit import Looked
from trainkit.processing.features.run import Choices, counted_of, failed_checks, given_artifact, key_of, reused
from trainkit.processing.features.spread import Spread
from trainkit.processing.features.tell import Tell, on_stderr, stage
from trainkit.processing.features.write import Written
from trainkit.storage import commit


def run(
    features: Features, inputs: Mapping[str, Path | str], output: Path, *, choices: Choices, cluster: bool,
    hosts: Sequence[str], first: str, tell: Tell = on_stderr,
) -> Applied:  # fmt: skip
    """As run.run. `cluster`: all `hosts` are in it, and `first` is this one; else Spark runs in this process."""
    folders = _folders(inputs)
    found = engine.find(features, folders)
    spark.refuse_strange(found)
    output.mkdir(parents=True, exist_ok=True)
    given = given_artifact(features, choices.artifact)
    swap.settle(output)
    with engine.opened() as connection:
        kinds = engine.prepare(connection, features, found, tell=tell)
        if given and dict(given.kinds) != kinds:
            raise DataError(f"the artifact {given.hash} was fitted on {dict(given.kinds)}, and the table has {kinds}")
        table = transpiled.table(
            features.table, columns=tuple(kinds), checks=[one.condition for one in features.checks],
            schema=spark.schema(connection, features),
        )  # fmt: skip
        with spark.opened(
            cluster=cluster, limit=choices.memory, threads=choices.threads, spill=choices.spill
        ) as session:
            everywhere = Spread(session, tuple(hosts), first, output.absolute(), secrets.token_hex(8))
            try:
                described = {name: one.described() for name, one in found.items()}
                sharing = everywhere.begin(features, {k: v.absolute() for k, v in folders.items()}, described)
                spark.lay(session, found, kinds, table)
                looked = _look(session, features, kinds, tell)
                applied = (
                    _taken(given, choices.artifact, output)
                    or reused(features, found, output, tell)
                    or _fit(session, features, kinds, looked, found, output, tell)
                )
                if choices.fit_only:
                    tell(f"the artifact is {output / FOLDER / applied.hash}")
                    return applied
                schema = write.schema_of(connection, applied, kept=features.kept)
                parts = _transform(everywhere, features, applied, schema, looked, tell)
                bad, key = failed_checks(features, looked), key_of(features, found, given)
                _replace(everywhere, features, applied, schema, parts, sharing, key=key, bad=bad)
            finally:
                shutil.rmtree(everywhere.staged, ignore_errors=True)
    if choices.report:
        tell("there is no report: only duckdb makes it")
    if bad:
        raise DataError("a check failed: " + "; ".join(bad) + ". The rows are written")
    return applied


def _folders(inputs: Mapping[str, Path | str]) -> dict[str, Path]:
    for name, place in inputs.items():
        if isinstance(place, str):
            raise UsageError(
                f"the input {name} is a URL, {place}, and on Spark every host reads files of its own: give it as an "
                f"input of the job (FullyReplicated), as a folder, or make features on one host (--engine duckdb)"
            )
    return {name: Path(place) for name, place in inputs.items()}


def _taken(given: Applied | None, path: Path | None, output: Path) -> Applied | None:
    """The artifact that was given, laid into the output."""
    if given and path:
        shutil.copytree(carried(path)[given.hash], output / FOLDER / given.hash, dirs_exist_ok=True)
    return given


def _look(session: Any, features: Features, kinds: Mapping[str, str], tell: Tell) -> dict[str, Looked]:
    with stage("looking at the table", rows=0, done=_unknown, tell=tell):
        looked = spark_fit.counted(session, features, kinds)
    tell("rows: " + ", ".join(f"{name} {seen.rows:,}" for name, seen in looked.items()))
    return looked


def _unknown() -> float:
    return -1.0


def _fit(
    session: Any, features: Features, kinds: Mapping[str, str], looked: Mapping[str, Looked],
    found: Mapping[str, Input], output: Path, tell: Tell,
) -> Applied:  # fmt: skip
    fit.refuse_empty(looked)
    with stage("summing", rows=0, done=_unknown, tell=tell):
        summed = spark_fit.summed(session, features, kinds)
    fitted = {place: fit.moments(sums) for place, sums in summed.items()}
    for place, one in enumerate(features.transforms):
        if one.fits == "words":
            with stage(f"counting {one.column}", rows=0, done=_unknown, tell=tell):
                fitted[place] = spark_fit.words(session, features, kinds, place)
    every = range(len(features.transforms))
    folder = artifact.save(
        output / FOLDER, definition=features.described(), columns=kinds, rows_fitted=looked["train"].rows,
        fitted=[fitted.get(place, sql.Fitted()) for place in every],
        counted=[counted_of(features, place, summed) for place in every],
        inputs={name: one.described() for name, one in found.items()},
    )  # fmt: skip
    tell(f"fitted: {folder}")
    return artifact.load(folder)


def _transform(
    everywhere: Spread, features: Features, applied: Applied, schema: Any, looked: Mapping[str, Looked], tell: Tell
) -> list[spread.Part]:
    spark.lay_words(everywhere.session, applied)
    rows = sum(seen.rows for seen in looked.values())
    with stage("transforming", rows=rows, done=_unknown, tell=tell):
        parts = everywhere.write(spark.statement(features, applied), applied, schema, features.splits)
    for name, seen in looked.items():
        made = sum(one.splits[name].rows for one in parts if name in one.splits)
        if made != seen.rows:
            raise DataError(
                f"{name} has {made:,} rows, and {seen.rows:,} were counted before: the inputs have changed meanwhile, "
                f"or the SQL does not give the same rows twice"
            )
    return parts


def _replace(
    everywhere: Spread, features: Features, applied: Applied, schema: Any, parts: Sequence[spread.Part],
    sharing: frozenset[str], *, key: str, bad: Sequence[str],
) -> None:  # fmt: skip
    """Everything into its place, the manifest last."""
    output = everywhere.output
    moves, written = spread.places(parts, hosts=len(everywhere.hosts), splits=features.splits)
    with swap.replacing(output) as scratch:
        for host in sharing & moves.keys():
            for name, final, _ in moves[host]:
                (scratch / final).parent.mkdir(exist_ok=True)
                (everywhere.staged / name).rename(scratch / final)
        _empty(applied, schema, written, scratch)
        folder = output / FOLDER / applied.hash
        for name in features.splits:
            shutil.copytree(folder, scratch / name / BESIDE / applied.hash)
        about = write.manifest(applied, written, key=key, report=False, failed=bad)
        commit.write_whole(scratch / MANIFEST, artifact.canonical(about))
        if sharing != set(everywhere.hosts):
            # From here on others replace what the old one spoke of.
            (output / MANIFEST).unlink(missing_ok=True)
        everywhere.publish(moves, sharing)


def _empty(applied: Applied, schema: Any, written: dict[str, Written], into: Path) -> None:
    """A split without rows is a file without rows, as duckdb's are."""
    lacking = [name for name, one in written.items() if not one.files]
    written |= write.through([engine.empty(schema)], applied, splits=lacking, into=into) if lacking else {}
