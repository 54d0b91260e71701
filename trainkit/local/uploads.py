"""What the service copies from the hosts: EndOfJob outputs when they have ended, Continuous ones beside them, too.

All hosts' folders of one output become one, as on S3. There the last of two hosts that write one name wins without a
word; here that is an error which names both.
"""

from __future__ import annotations

import filecmp
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from trainkit.contract.paths import Paths
from trainkit.contract.processing import placed
from trainkit.errors import DataError
from trainkit.local import objects
from trainkit.local.isolation import Host
from trainkit.local.meanwhile import Meanwhile
from trainkit.storage.commit import is_scratch


@dataclass(frozen=True, slots=True)
class Destination:
    """Where one output goes: `target` is a directory here, or the URL of a folder."""

    name: str
    local_path: str
    target: Path | str
    continuous: bool


class _Stamp(NamedTuple):
    changed: int  # nanoseconds
    size: int


class Uploads:
    """Copies new and changed files; `begin`, then `end` once all hosts have ended."""

    def __init__(self, destinations: Sequence[Destination], hosts: Sequence[Host]) -> None:
        self._destinations = destinations
        self._hosts = hosts
        self._copied: dict[Path, _Stamp] = {}
        self._seen: dict[Path, _Stamp] = {}
        self._owners: dict[tuple[str, str], tuple[str, Path]] = {}
        continuous = [one for one in destinations if one.continuous]
        self._meanwhile = Meanwhile((partial(self._pass, one, last=False) for one in continuous), name="uploads")
        self.links: list[str] = []
        """Symbolic links that were found: the service follows none."""

    def begin(self) -> None:
        """From now on, copy what Continuous outputs have, beside the hosts."""
        self._meanwhile.begin()

    def end(self, *, all_of_them: bool) -> None:
        """The hosts have ended. Copy what is left; without `all_of_them`, of Continuous outputs only.

        Raises DataError where two hosts wrote one name differently, OSError and StorageError where a copy fails.
        """
        self.stop()
        clashes = [
            clash for one in self._destinations if all_of_them or one.continuous for clash in self._pass(one, last=True)
        ]
        if clashes:
            first, *more = clashes
            raise DataError(f"{first}{f' (and {len(more)} more)' if more else ''}")

    def stop(self) -> None:
        """No copy is made any more beside the job."""
        self._meanwhile.stop()

    def _pass(self, one: Destination, *, last: bool) -> list[str]:
        """Copy what is new. Returns, the last time, what two hosts wrote differently."""
        clashes = []
        for host in self._hosts:
            folder = placed(one.local_path, Paths(host.root))
            for path, stamp in self._files(folder, last=last):
                name = path.relative_to(folder).as_posix()
                owner, own = self._owners.setdefault((str(one.target), name), (host.name, path))
                if own != path:
                    if last and not filecmp.cmp(own, path, shallow=False):
                        clashes.append(
                            f"output {one.name}: {owner} and {host.name} both wrote {name}, differently. On S3 one "
                            f"would silently replace the other: put the host's name (SM_CURRENT_HOST) into the file's"
                        )
                elif self._copied.get(path) != stamp and (last or self._seen.get(path) == stamp):
                    self._copy(path, one.target, name)
                    self._copied[path] = stamp
                self._seen[path] = stamp
        return clashes

    def _files(self, folder: Path, *, last: bool) -> Iterator[tuple[Path, _Stamp]]:
        for root, folders, names in os.walk(folder):
            folders.sort()
            for name in sorted([*names, *(inner for inner in folders if Path(root, inner).is_symlink())]):
                path = Path(root, name)
                if path.is_symlink():
                    self.links += [str(path)] if last else []
                elif not is_scratch(name) and path.is_file():
                    try:
                        facts = path.stat()
                    except FileNotFoundError:
                        continue  # the script took it away meanwhile
                    yield path, _Stamp(facts.st_mtime_ns, facts.st_size)

    def _copy(self, path: Path, target: Path | str, name: str) -> None:
        objects.put(path, objects.below(target, name))


def destinations(listed: Sequence[Mapping[str, Any]], *, places: Mapping[str, Path | str]) -> list[Destination]:
    """One for each of a request's outputs; `places` has their targets by name."""
    return [
        Destination(
            name=one["OutputName"],
            local_path=one["S3Output"]["LocalPath"],
            target=places[one["OutputName"]],
            continuous=one["S3Output"]["S3UploadMode"] == "Continuous",
        )
        for one in listed
    ]
