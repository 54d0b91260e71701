"""What a job reads, on its way to the hosts: found before anything starts, laid as the service would.

request ─▶ survey: every object's name and place ─▶ fetch what is far ─▶ a shard, or all, per host ─▶ links (File)
                                                                                          ├─────▶ the same, read-only
                                                                                          └─────▶ FIFOs (Pipe)

Links, and not copies: a job on 50 GB starts at once, and what a script adds or deletes stays its host's own. Only one
that rewrites an input file in place reaches the original, which no job should do.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from trainkit.contract.paths import Paths
from trainkit.contract.processing import placed
from trainkit.errors import UsageError
from trainkit.launch.processes import kill_group, spawn
from trainkit.local import claim, manifests, objects, stage
from trainkit.local.isolation import Host
from trainkit.local.manifests import Item, Part
from trainkit.local.objects import Place
from trainkit.local.sources import Source
from trainkit.storage.commit import write_whole


@dataclass(frozen=True, slots=True)
class Found:
    """What a source holds: objects, in the order of their keys or of their manifest, or records of a manifest."""

    source: Source
    items: tuple[Item, ...] = ()
    records: tuple[tuple[Part, ...], ...] = ()
    base: Place | None = None
    """The folder of all of them, where they have one."""

    def share(self, host: str, all_hosts: Sequence[str]) -> tuple[int, int] | None:
        """Which of how many shares `host` gets, or None where it gets nothing at all."""
        hosts = self.source.hosts if self.source.hosts is not None else all_hosts
        if host not in hosts:
            return None
        return (list(hosts).index(host), len(hosts)) if self.source.sharded else (0, 1)


def survey(
    sources: Sequence[Source], *, base: Path, covered: Path | None, output: Path, warn: Callable[[str], None]
) -> list[Found]:
    """Every object of every source. Nothing is changed yet: here a job is refused that cannot run.

    Paths are relative to `base`; `covered` is what the hosts do not see of this machine. Raises TrainkitError.
    """
    places = {source.name: objects.place(source.url, base=base) for source in sources}
    for source in sources:
        at = places[source.name]
        if isinstance(at, Path):
            if not at.exists():
                raise UsageError(f"there is no {at}: name an existing file, directory or URL")
            _check(source.what, at, covered=covered, output=output)
    apart = [at for name, at in places.items() if isinstance(at, Path)]

    def skip(error: OSError) -> None:
        warn(f"warning: {error.filename} is left out of the code: {error.strerror}")

    found = []
    for source in sources:
        at = places[source.name]
        if source.kind == "AugmentedManifestFile":
            one = Found(source, records=tuple(manifests.augmented(at, source.attributes, base=base)))
        elif source.kind == "ManifestFile":
            one = Found(source, tuple(manifests.listed(at, base=base)))
        elif isinstance(at, Path):
            listing = stage.code(at, without=[*apart, output], unreadable=skip) if source.code else stage.data(at)
            items = [Item(path.relative_to(listing.base).as_posix(), path) for path in listing.files]
            one = Found(source, _in_order(items), base=at)
        else:
            one = _listed(source, at)
            _tell_siblings(source, at, warn)
        for path in {item.place for item in one.items if isinstance(item.place, Path) and one.base is None}:
            _check(source.what, path, covered=covered, output=output)
        found.append(one)
    return found


def fetch(found: Found, *, into: Path) -> Found:
    """The same with every object on this machine; those of a pipe are read where they are."""
    if found.source.mode == "Pipe" or all(isinstance(item.place, Path) for item in found.items):
        return found
    folder = into / found.source.name
    folder.mkdir(parents=True, exist_ok=True)
    far = [item for item in found.items if isinstance(item.place, str)]
    if isinstance(found.base, str):
        from trainkit.storage import files

        files.download(found.base, folder)  # several at once
    else:
        for item in far:
            objects.put(item.place, folder / item.name)
    if found.source.mode == "FastFile":
        for item in far:
            (folder / item.name).chmod(0o444)
    here = [Item(item.name, folder / item.name) if isinstance(item.place, str) else item for item in found.items]
    return replace(found, items=tuple(here), base=folder)


def lay(found: Found, hosts: Sequence[Host], *, read_only: bool) -> None:
    """Each host's share, in a real directory of its own, or the first FIFO of a pipe.

    With `read_only`, directories in FastFile mode lose their permission to be written, until `unlock`.
    """
    names = [host.name for host in hosts]
    for host in hosts:
        share = found.share(host.name, names)
        if share is None:
            continue
        target = placed(found.source.path, Paths(host.root))
        target.parent.mkdir(parents=True, exist_ok=True)
        if found.source.mode == "Pipe":
            os.mkfifo(target.with_name(f"{target.name}_0"))
            continue
        target.mkdir(exist_ok=True)
        made = {target}
        for item in found.items[share[0] :: share[1]]:
            path = target / item.name
            if path.parent not in made:
                path.parent.mkdir(parents=True, exist_ok=True)
                made.add(path.parent)
            if found.source.copied:
                shutil.copy(item.place, path)
            else:
                path.symlink_to(Path(item.place).absolute())
        if read_only and found.source.mode == "FastFile":
            _permit(target, 0o555)


def unlock(found: Sequence[Found], hosts: Sequence[Host]) -> None:
    """Directories in FastFile mode can be removed again."""
    for one in found:
        for host in hosts:
            target = placed(one.source.path, Paths(host.root))
            if one.source.mode == "FastFile" and target.is_dir():
                _permit(target, 0o755)


def mounted(found: Sequence[Found], host: str, hosts: Sequence[str], *, fetched: Path) -> tuple[str, ...]:
    """What a host with mounts of its own sees read-only: channels in FastFile mode, and what their links lead to."""
    seen: list[str] = []
    for one in found:
        if one.source.mode == "FastFile" and one.share(host, hosts) is not None:
            seen += [one.source.path, str(one.base if isinstance(one.base, Path) else fetched / one.source.name)]
    return tuple(seen)


class Pipes:
    """Programs that fill the FIFOs: one per host and input in Pipe mode. They end with us, however we end."""

    def __init__(self, found: Sequence[Found], hosts: Sequence[Host], environ: Mapping[str, str]) -> None:
        self._running: list[int] = []
        names = [host.name for host in hosts]
        for one in [one for one in found if one.source.mode == "Pipe"]:
            for host in hosts:
                if share := one.share(host.name, names):
                    spec = host.root / "run" / f"pipe-{len(self._running)}.json"
                    write_whole(spec, json.dumps(_feed(one, host, share)))
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


def _feed(one: Found, host: Host, share: tuple[int, int]) -> dict[str, object]:
    places = [[Part("place", str(item.place))] for item in one.items]
    return {
        "stem": str(placed(one.source.path, Paths(host.root))),
        "records": one.records or places,
        "share": share,
        "seed": one.source.seed,
        "gzip": one.source.gzip,
        "recordio": one.source.recordio,
    }


def _listed(source: Source, url: str) -> Found:
    from trainkit.storage import files
    from trainkit.storage.store import folder

    entries = [entry.url for entry in files.list(url) if not entry.url.endswith("/")]
    if entries:
        items = [Item(manifests.inner(one[len(folder(url)) :], one), one) for one in entries]
        return Found(source, _in_order(items), base=folder(url))
    if not url.endswith("/") and files.head(url):
        return Found(source, (Item(url.rpartition("/")[2], url),))
    raise UsageError(f"there is no object {url}, and none in such a folder: compare the name, letter by letter")


def _tell_siblings(source: Source, url: str, warn: Callable[[str], None]) -> None:
    """The service takes a prefix for the beginning of names, and what it makes of the longer ones nobody wants."""
    from trainkit.storage import files

    if not url.endswith("/") and (others := files.siblings(url)):
        warn(
            f"warning: {source.what}: the service takes {', '.join(others[:3])} for part of {url} too, and hosts here "
            f"do not get it: end it with a slash"
        )


def _in_order(items: Sequence[Item]) -> tuple[Item, ...]:
    return tuple(sorted(items, key=lambda item: os.fsencode(item.name)))


def _permit(folder: Path, mode: int) -> None:
    for path in [folder, *folder.rglob("*")]:
        if path.is_dir() and not path.is_symlink():
            path.chmod(mode)


def _check(what: str, path: Path, *, covered: Path | None, output: Path) -> None:
    if any(path.resolve().is_relative_to((output / made).resolve()) for made in claim.REPLACED):
        raise UsageError(
            f"{what} is {path}, a result of an earlier job that this one would replace: name another --output"
        )
    unseen(what, path, covered=covered)


def unseen(what: str, path: Path, *, covered: Path | None) -> None:
    """Raises UsageError where the hosts could not see `path`."""
    if covered and any(one.is_relative_to(covered) for one in (path.absolute(), path.resolve())):
        raise UsageError(
            f"{what} is {path}, but every host has a {covered} of its own there and cannot see it: name another "
            f"path, or use --isolation process"
        )
