"""Inputs that lie at URLs: looked at through `storage`, and fetched before the engine reads them.

    look ─▶ names and sizes from one listing, both ends of each object for the fingerprint: nothing else is read
    here ─▶ the objects as files in a scratch folder, several at once, as long as they fit on its disk; away afterwards

Fetched, and not read where they are: a run passes over its inputs three to five times, and duckdb's own client for S3
is an extension from the network, with other credentials and other errors than the rest of a job.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path

from trainkit.errors import DataError, StorageError
from trainkit.processing.features.tell import Tell, stage
from trainkit.storage import commit, files
from trainkit.storage.store import Entry, folder

AT_ONCE = 8
SPARE = 256 << 20  # bytes of the scratch folder's disk that are left to others


def is_url(place: Path | str) -> bool:
    return isinstance(place, str) and "://" in place


def look(name: str, url: str) -> dict[str, Entry]:
    """Every object below a URL by its path there; "." where the URL is one object. Raises StorageError."""
    entries = {one.url[len(folder(url)) :]: one for one in files.list(url)}
    if not entries and (one := files.head(url)) is not None:
        entries = {".": one}
    if not entries:
        raise StorageError(f"the input {name}: there is no object at {url}. Compare the URL, letter by letter")
    return entries


def ends(entries: Sequence[Entry], length: int) -> list[bytes]:
    """The first `length` bytes of each object, or fewer, and its last ones."""

    def both(one: Entry) -> bytes:
        least = min(length, one.size)
        return files.get_range(one.url, 0, least) + files.get_range(one.url, one.size - least, least)

    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="look") as pool:
        return list(pool.map(both, entries))


@contextmanager
def fetched(
    objects: Mapping[str, Mapping[str, Entry]], *, spill: Path | None, tell: Tell
) -> Iterator[Mapping[str, Mapping[str, Path]]]:
    """Yield the file of each object of each input. Raises StorageError, DataError."""
    if not objects:
        yield {}
        return
    scratch = Path(tempfile.mkdtemp(prefix="trainkit-inputs-", dir=spill))
    try:
        total = sum(one.size for each in objects.values() for one in each.values())
        free = shutil.disk_usage(scratch).free
        if total + SPARE > free:
            raise StorageError(
                f"the inputs {', '.join(objects)} are {total:,} bytes at their URLs, and {scratch.parent} has room for "
                f"{max(free - SPARE, 0):,}: name a folder on a larger disk, --spill DIR"
            )
        into = {
            name: {path: scratch / str(number) / path / one.url.rsplit("/", 1)[-1] for path, one in each.items()}
            for number, (name, each) in enumerate(objects.items())
        }
        wanted = [(one, into[name][path]) for name, each in objects.items() for path, one in each.items()]
        arrived = [0]
        with stage(f"fetching {total:,} bytes", rows=0, done=lambda: arrived[0] / max(total, 1), tell=tell):
            _fetch(wanted, arrived)
        yield into
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _fetch(wanted: Sequence[tuple[Entry, Path]], arrived: list[int]) -> None:
    def one(entry: Entry, path: Path) -> None:
        with commit.committed(path) as part, part.open("xb") as out:
            for chunk in files.read(entry.url):
                out.write(chunk)
                arrived[0] += len(chunk)  # for a progress line: that a thread may miss another's is no harm
            if out.tell() != entry.size:
                raise DataError(f"{entry.url} was {entry.size:,} bytes, and {out.tell():,} came: it was replaced")

    with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="fetch") as pool:
        running = [pool.submit(one, *each) for each in wanted]
        try:
            for done in wait(running, return_when=FIRST_EXCEPTION).done:
                done.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
