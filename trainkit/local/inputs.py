"""The inputs of a processing job on their way to its hosts: found before anything starts, laid as the service would.

request ─▶ find: every object's name and place ─▶ fetch what is far ─▶ a shard, or all, per host ─▶ links (File)
                                                                                            └─────▶ FIFOs (Pipe)
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from trainkit.contract.paths import Paths
from trainkit.contract.processing import placed
from trainkit.errors import UsageError
from trainkit.launch.processes import kill_group, spawn
from trainkit.local import claim, processing_request, stage
from trainkit.local.isolation import Host
from trainkit.local.request import Request
from trainkit.storage.commit import write_whole

Place = Path | str
"""A file here, or a URL."""


@dataclass(frozen=True, slots=True)
class Item:
    """One object: its name below the input's directory, and where it is."""

    name: str
    place: Place


@dataclass(frozen=True, slots=True)
class Found:
    """What one input holds, in the order of its keys, and how it is to be laid."""

    name: str
    local_path: str
    items: tuple[Item, ...]
    sharded: bool
    piped: bool
    gzip: bool

    def share(self, index: int, count: int) -> tuple[Item, ...]:
        """What the `index`-th of `count` hosts gets: all, or every `count`-th key. AWS does not say how it deals."""
        return self.items[index::count] if self.sharded else self.items


def survey(job: Request, *, base: Path, covered: Path | None, output: Path) -> list[Found]:
    """Every object of every input. Nothing is changed yet: here a job is refused that cannot run.

    Paths are relative to `base`; `covered` is what the hosts do not see of this machine. Raises TrainkitError.
    """
    found = []
    for one in processing_request.inputs(job):
        source = one["S3Input"]
        items = _items(source["S3Uri"], base=base, manifest=source["S3DataType"] == "ManifestFile")
        what = f"input {one['InputName']}"
        for path in {item.place for item in items if isinstance(item.place, Path)}:
            _check(what, path, covered=covered, output=output)
        found.append(
            Found(
                name=one["InputName"],
                local_path=source["LocalPath"],
                items=tuple(sorted(items, key=lambda item: item.name.encode())),
                sharded=source.get("S3DataDistributionType") == "ShardedByS3Key",
                piped=source.get("S3InputMode") == "Pipe",
                gzip=source.get("S3CompressionType") == "Gzip",
            )
        )
    return found


def fetch(found: Found, *, into: Path) -> Found:
    """The same input with every object on this machine; those of a pipe are read where they are."""
    if found.piped or all(isinstance(item.place, Path) for item in found.items):
        return found
    from trainkit.storage import files

    here = []
    for item in found.items:
        path = item.place
        if isinstance(path, str):
            path = into / found.name / item.name
            write_whole(path, files.get(item.place))
        here.append(Item(item.name, path))
    return Found(found.name, found.local_path, tuple(here), found.sharded, found.piped, found.gzip)


def lay(found: Found, hosts: Sequence[Host]) -> None:
    """Links to each host's share, in a real directory of its own."""
    for index, host in enumerate(hosts):
        target = placed(found.local_path, Paths(host.root))
        target.parent.mkdir(parents=True, exist_ok=True)
        if found.piped:
            os.mkfifo(target.with_name(f"{target.name}_0"))
            continue
        target.mkdir(exist_ok=True)
        for item in found.share(index, len(hosts)):
            path = target / item.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.symlink_to(Path(item.place).absolute())


class Pipes:
    """Programs that fill the FIFOs: one per host and input in Pipe mode. They end with us, however we end."""

    def __init__(self, found: Sequence[Found], hosts: Sequence[Host], environ: Mapping[str, str]) -> None:
        self._running: list[int] = []
        for one in [one for one in found if one.piped]:
            for index, host in enumerate(hosts):
                places = [str(item.place) for item in one.share(index, len(hosts))]
                stem = str(placed(one.local_path, Paths(host.root)))
                spec = host.root / "run" / f"pipe-{len(self._running)}.json"
                write_whole(spec, json.dumps({"stem": stem, "places": places, "gzip": one.gzip}))
                output = os.dup(2)
                command = (sys.executable, "-m", "trainkit.local.feed", str(spec))
                self._running.append(spawn(command, environ=environ, cwd=Path.cwd(), output=output))
                os.close(output)

    def close(self) -> None:
        import signal

        for pid in self._running:
            kill_group(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        self._running.clear()


def _items(url: str, *, base: Path, manifest: bool) -> list[Item]:
    place = _place(url, base=base)
    if manifest:
        return _listed(place, base=base)
    if isinstance(place, Path):
        if not place.exists():
            raise UsageError(f"there is no {place}: name an existing file, directory or URL")
        listing = stage.data(place)
        return [Item(path.relative_to(listing.base).as_posix(), path) for path in listing.files]
    from trainkit.storage import files
    from trainkit.storage.store import folder

    entries = [entry.url for entry in files.list(place) if not entry.url.endswith("/")]
    if entries:
        return [Item(_inner(one[len(folder(place)) :], one), one) for one in entries]
    if not place.endswith("/") and files.head(place):
        return [Item(place.rpartition("/")[2], place)]
    raise UsageError(f"there is no object {place}, and none in such a folder: compare the name, letter by letter")


def _listed(place: Place, *, base: Path) -> list[Item]:
    """What a manifest lists: [{"prefix": "s3://…"}, "name", …]."""
    try:
        if isinstance(place, Path):
            raw = place.read_bytes()
        else:
            from trainkit.storage import files

            raw = files.get(place)
        first, *names = json.loads(raw)
        prefix = first["prefix"]
        if not isinstance(prefix, str) or not all(isinstance(name, str) for name in names):
            raise TypeError
    except OSError as error:
        raise UsageError(f"cannot read the manifest {place}: {error.strerror}") from None
    except (ValueError, TypeError, KeyError):
        raise UsageError(f'{place} is no manifest: write [{{"prefix": "s3://bucket/folder/"}}, "name", …]') from None
    items = [Item(_inner(name, place), _place(prefix + name, base=base)) for name in names]
    for item in items:
        if isinstance(item.place, Path) and not item.place.is_file():
            raise UsageError(f"{place} lists {item.name}, and there is no {item.place}")
    return items


def _inner(name: str, of: Place) -> str:
    if any(part in ("", ".", "..") or "\0" in part for part in name.split("/")):
        raise UsageError(f"{name!r}, of {of}, is no path inside a folder: no part may be empty, '.' or '..'")
    return name


def _place(url: str, *, base: Path) -> Place:
    parts = urlsplit(url)
    if parts.scheme == "file":
        return stage.path(url)
    return base / Path(url).expanduser() if len(parts.scheme) < 2 else url


def _check(what: str, path: Path, *, covered: Path | None, output: Path) -> None:
    if any(path.resolve().is_relative_to((output / made).resolve()) for made in claim.REPLACED):
        raise UsageError(
            f"{what} is {path}, a result of an earlier job that this one would replace: name another --output"
        )
    if covered and any(one.is_relative_to(covered) for one in (path.absolute(), path.resolve())):
        raise UsageError(
            f"{what} is {path}, but every host has a {covered} of its own there and cannot see it: name another "
            f"path, or use --isolation process"
        )
