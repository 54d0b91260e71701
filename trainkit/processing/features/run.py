"""A run, from the inputs to what lies in the output.

OUTPUT/features/<hash>/    the artifact
       train/ … test/      rows, part-00000.parquet …, and the artifact once more, in _features/<hash>
       report/             report.json, report.html
       MANIFEST.json       the artifact's hash, rows and files of each split: written last, removed first

Where several hosts write what becomes one output, each has its own names: part-algo-2-00000.parquet, report/algo-2,
MANIFEST.algo-2.json.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainkit.contract.features import BESIDE, FILE, FOLDER, MANIFEST, carried, manifest
from trainkit.errors import ConfigError, DataError, Mistake
from trainkit.processing.features import artifact, engine, fit, report, sql, swap, write
from trainkit.processing.features.artifact import Applied
from trainkit.processing.features.declared import Features
from trainkit.processing.features.fit import Looked
from trainkit.processing.features.sums import Sums
from trainkit.processing.features.tell import Done, Tell, on_stderr, stage
from trainkit.storage import commit


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """What a command line decides. `memory`: bytes for the whole process; None: what there is."""

    artifact: Path | None = None
    fit_only: bool = False
    report: bool = True
    memory: int | None = None
    threads: int | None = None
    spill: Path | None = None
    once: bool = False
    """Whether an output that was made of the same is left as it is."""
    host: str = ""
    """The host whose share this is, where hosts share the rows among them; only with an artifact."""


def run(
    features: Features,
    inputs: Mapping[str, Path | str],
    output: Path,
    *,
    choices: Choices | None = None,
    tell: Tell = on_stderr,
) -> Applied:
    """Fit (or take `choices.artifact`), transform, report. Raises DataError where a check fails, after everything is
    written; ConfigError, before the data is read, where the definition does not fit it."""
    choices = choices or Choices()
    found = engine.find(features, inputs)
    output.mkdir(parents=True, exist_ok=True)
    given = given_artifact(features, choices.artifact)
    key = key_of(features, found, given)
    swap.settle(output)
    if choices.once and made_of(output) == key:
        tell(f"made before, of the same definition and inputs: {output}")
        return artifact.load(output)
    with (
        engine.here(found, spill=choices.spill, tell=tell) as lying,
        engine.opened(limit=choices.memory, threads=choices.threads, spill=choices.spill) as connection,
    ):
        kinds = engine.prepare(connection, features, lying, room=engine.room(choices.memory), tell=tell)
        if given and dict(given.kinds) != kinds:
            raise DataError(f"the artifact {given.hash} was fitted on {dict(given.kinds)}, and the table has {kinds}")
        looked, summed = _look(connection, features, kinds, choices, tell)
        applied = (
            given
            or reused(features, found, output, tell)
            or _fit(connection, features, kinds, looked, summed, found, output, tell)
        )
        folder = output / FOLDER / applied.hash
        if given and choices.artifact:
            shutil.copytree(carried(choices.artifact)[given.hash], folder, dirs_exist_ok=True)
        if choices.fit_only:
            tell(f"the artifact is {folder}")
            return applied
        bad = failed_checks(features, looked)
        with swap.replacing(output) as scratch:
            written = _transform(connection, features, applied, looked, scratch, choices, tell)
            for name in features.splits:
                shutil.copytree(folder, scratch / name / BESIDE / applied.hash)
            about = write.manifest(applied, written, key=key, report=choices.report, failed=bad)
            commit.write_whole(
                scratch / f"MANIFEST.{choices.host}.json" if choices.host else scratch / MANIFEST,
                artifact.canonical(about),
            )
    if bad:
        raise DataError("a check failed: " + "; ".join(bad) + ". The rows are written, and the report shows them")
    return applied


def key_of(features: Features, found: Mapping[str, engine.Input], given: Applied | None) -> str:
    """Everything that decides what an output is: definition, checks, inputs, and the artifact if one is given."""
    return artifact.digest_of(
        {
            "definition": features.described(), "checks": [[one.condition, one.allow] for one in features.checks],
            "inputs": {name: one.described() for name, one in found.items()}, "artifact": given and given.hash,
            "version": artifact.VERSION,
        }
    )  # fmt: skip


def made_of(output: Path) -> str | None:
    """The key of what lies there whole, with all checks passed; None where nothing does."""
    try:
        made = manifest(output / MANIFEST)
    except DataError:
        return None
    return None if made.get("failed_checks") else str(made.get("key"))


def given_artifact(features: Features, path: Path | None) -> Applied | None:
    if path is None:
        return None
    applied = artifact.load(path)
    mine, its = artifact.digest_of(features.described()), applied.document["definition_sha256"]
    if mine != its:
        problem = f"was made by another definition (its SHA-256 is {its[:12]}…, this one's {mine[:12]}…)"
        raise ConfigError(
            [
                Mistake(
                    "features.py", "--artifact", str(path), problem, "Use the features.py it was made by, or fit again"
                )
            ]
        )
    return applied


def _look(
    connection: Any, features: Features, kinds: Mapping[str, str], choices: Choices, tell: Tell
) -> tuple[dict[str, Looked], dict[int, Sums]]:
    with stage("looking at the table", rows=0, done=_progress(connection), tell=tell):
        looked, summed = fit.look(connection, features, kinds, moments=choices.artifact is None)
    tell("rows: " + ", ".join(f"{name} {seen.rows:,}" for name, seen in looked.items()))
    if choices.artifact is None:
        fit.refuse_empty(looked)
    return looked, summed


def _progress(connection: Any) -> Done:
    return lambda: float(connection.query_progress()) / 100


def reused(features: Features, found: Mapping[str, engine.Input], output: Path, tell: Tell) -> Applied | None:
    """The artifact of an earlier run with this definition and these inputs, if it is whole."""
    wanted = (artifact.digest_of(features.described()), {name: one.described() for name, one in found.items()})
    for file in sorted((output / "features").glob(f"*/{FILE}")):
        try:
            applied = artifact.load(file.parent)
        except DataError as error:
            tell(f"an artifact of an earlier run is passed over: {error}")
            continue
        if (applied.document["definition_sha256"], applied.document["inputs"]) == wanted:
            tell(f"fitted before, on the same input: {applied.hash}")
            return applied
    return None


def _fit(
    connection: Any, features: Features, kinds: Mapping[str, str], looked: Mapping[str, Looked],
    summed: Mapping[int, Sums], found: Mapping[str, engine.Input], output: Path, tell: Tell,
) -> Applied:  # fmt: skip
    rows = sum(seen.rows for seen in looked.values())
    fitted = {place: fit.moments(sums) for place, sums in summed.items()}
    if any(one.fits == "words" for one in features.transforms):
        with stage("counting words", rows=rows, done=_progress(connection), tell=tell):
            fitted |= fit.words(connection, features, kinds)
    every = range(len(features.transforms))
    folder = artifact.save(
        output / "features", definition=features.described(), columns=kinds, rows_fitted=looked["train"].rows,
        fitted=[fitted.get(place, sql.Fitted()) for place in every],
        counted=[counted_of(features, place, summed) for place in every],
        inputs={name: one.described() for name, one in found.items()},
    )  # fmt: skip
    tell(f"fitted: {folder}")
    return artifact.load(folder)


def counted_of(features: Features, place: int, summed: Mapping[int, Sums]) -> dict[str, int]:
    fits = features.transforms[place].fits
    return {"numbers": summed[place].count} if fits == "moments" else {"words": 0} if fits == "words" else {}


def _transform(
    connection: Any, features: Features, applied: Applied, looked: Mapping[str, Looked], into: Path,
    choices: Choices, tell: Tell,
) -> Mapping[str, write.Written]:  # fmt: skip
    rows, through = sum(seen.rows for seen in looked.values()), [0]

    def went(done: int) -> None:
        through[0] = done

    sampled = tuple(applied.kinds) if choices.report else ()
    with stage("transforming", rows=rows, done=lambda: through[0] / max(rows, 1), tell=tell):
        written = write.write(
            connection, applied, kept=features.kept, splits=features.splits, into=into, rows=rows,
            sampled=sampled, went=went, host=choices.host,
        )  # fmt: skip
    if choices.report:
        with stage("describing the table", rows=rows, done=_progress(connection), tell=tell):
            fit.facts(connection, features, applied.kinds, looked)
        report.write(into / "report" / choices.host, features, applied, looked, written)
    return written


def failed_checks(features: Features, looked: Mapping[str, Looked]) -> list[str]:
    """What is to be said of each check that did not pass."""
    rows = sum(seen.rows for seen in looked.values())
    bad = []
    for place, check in enumerate(features.checks):
        failed = sum(seen.failed[place] for seen in looked.values())
        if failed > check.allow * rows:
            bad.append(f"{check.condition} does not hold in {failed:,} of {rows:,} rows (allowed: {check.allow:.2%})")
    return bad
