"""Features inside a training job: made of its channels before the ranks start, and then channels themselves.

    no URL    every host makes them for itself, of whole tables, with one thread: the same bytes everywhere, which the
              hosts' supervisors compare
    a URL     make: the first host makes them and puts them there, or takes what is there; the others come to the same
                    key, the hash of definition, checks and inputs, or the hosts do not agree
              fetch: the others take them from there

        URL/<key>/<attempt>/train/part-00000.parquet …
        URL/<key>/MANIFEST.json         written last, by one attempt only: what lies there is whole

What was made before, of the same definition and inputs, is neither made nor fetched again.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from trainkit.contract.environ import RUN_DIR
from trainkit.contract.features import MANIFEST, SAID, manifest
from trainkit.contract.paths import Paths
from trainkit.contract.settings import Settings
from trainkit.errors import DataError, StorageError
from trainkit.processing.features import around, engine, swap
from trainkit.processing.features.artifact import canonical
from trainkit.processing.features.declared import Features
from trainkit.processing.features.run import Choices, key_of, made_of, run
from trainkit.processing.features.tell import on_stderr
from trainkit.storage import files
from trainkit.storage.store import ObjectExists, folder

STEPS = ("make", "fetch")
CHUNK = 8 << 20


def make(features: Features, environ: Mapping[str, str], *, step: str) -> None:
    """This host's part of a step. Raises TrainkitError."""
    job, settings = around.of_training(environ)
    output, inputs = Paths.of(environ).features, job.chosen(features, {})
    around.whole(job, inputs)
    if not settings.features_url:
        run(features, inputs, output, choices=Choices(once=True, threads=1))
    else:
        _through(features, inputs, output, job, settings, step=step)
    if step == "make" and settings.features_url and len(job.hosts) > 1:
        said = f"definition and inputs {key_of(features, engine.find(features, inputs), None)}"
    else:
        said = _made(output)
    if job.host == job.hosts[0] and (output / "report").is_dir():
        shutil.copytree(output / "report", Paths.of(environ).output_data / "features", dirs_exist_ok=True)
    if run_dir := environ.get(RUN_DIR):
        (Path(run_dir) / SAID).write_text(said, encoding="utf-8")


def _through(
    features: Features,
    inputs: Mapping[str, Path | str],
    output: Path,
    job: around.Around,
    settings: Settings,
    *,
    step: str,
) -> None:
    """By way of the URL: the first host makes, the others fetch."""
    key = key_of(features, engine.find(features, inputs), None)
    place = f"{folder(str(settings.features_url))}{key}"
    output.mkdir(parents=True, exist_ok=True)
    swap.settle(output)
    first = job.host == job.hosts[0]
    if first != (step == "make"):
        return
    there = files.head(f"{place}/{MANIFEST}") is not None
    if made_of(output) == key and (there or not first):
        on_stderr(f"made before, of the same definition and inputs: {output}")
        return
    if not there:
        if not first:
            raise StorageError(
                f"{place}/{MANIFEST} is not there, and the first host has put it there: is it one place?"
            )
        run(features, inputs, output, choices=Choices(once=True))
        there = not _put(output, place)
    if there:
        _fetch(place, output)


def _put(output: Path, place: str) -> bool:
    """Put an output there. Returns False where another attempt was first: its rows are then everybody's."""
    attempt = secrets.token_hex(8)
    about = manifest(output / MANIFEST)
    names = [*about["splits"], f"features/{about['artifact']}", *(["report"] if about["report"] else [])]
    sent = 0
    for file in sorted(one for name in names for one in (output / name).rglob("*") if one.is_file()):
        url = f"{place}/{attempt}/{file.relative_to(output).as_posix()}"
        sent += files.put_stream(url, _chunks(file), replace=True).size
    try:
        files.put_new(f"{place}/{MANIFEST}", canonical({**about, "attempt": attempt}))
    except ObjectExists:
        on_stderr(f"another attempt was first at {place}: its rows are taken")
        return False
    on_stderr(f"put {sent:,} bytes to {place}")
    return True


def _fetch(place: str, output: Path) -> None:
    about = json.loads(files.get(f"{place}/{MANIFEST}"))
    if about.get("failed_checks"):
        raise DataError(f"{place}: a check failed: {'; '.join(about['failed_checks'])}. Make them again, elsewhere")
    with swap.replacing(output) as scratch:
        files.download(f"{place}/{about.pop('attempt')}", scratch)
        (scratch / MANIFEST).write_bytes(canonical(about))
    on_stderr(f"fetched from {place}")


def _made(output: Path) -> str:
    """What this host trains on, in words that are the same only where the rows are."""
    raw = (output / MANIFEST).read_bytes()
    about = manifest(output / MANIFEST)
    return f"artifact {about['artifact'][:16]}, rows {hashlib.sha256(raw).hexdigest()[:16]}"


def _chunks(file: Path) -> Iterator[bytes]:
    with file.open("rb") as content:
        while chunk := content.read(CHUNK):
            yield chunk
