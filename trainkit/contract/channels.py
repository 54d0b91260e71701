"""The input channels: inputdataconfig.json as frozen values."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainkit.contract.document import Document, plain
from trainkit.errors import Mistake

FILE = "inputdataconfig.json"
MODES = ("File", "FastFile", "Pipe")
DISTRIBUTIONS = ("FullyReplicated", "ShardedByS3Key")
_KNOWN = {"TrainingInputMode", "S3DistributionType", "RecordWrapperType", "ContentType", "CompressionType"}


@dataclass(frozen=True, slots=True)
class Channel:
    """One input of the job. `path` is its directory; in Pipe mode, the stem of its FIFOs (`<path>_<epoch>`)."""

    name: str
    path: Path
    mode: str = "File"
    distribution: str = "FullyReplicated"
    content_type: str | None = None
    compression: str | None = None
    record_wrapper: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


def read(raw: Document, *, data: Path, source: Path, mistakes: list[Mistake]) -> tuple[Channel, ...]:
    """The channels in the file's order, their directories below `data`."""
    channels = []
    for name, entry in raw.items():

        def wrong(key: str, value: object, problem: str, remedy: str, name: str = name) -> None:
            mistakes.append(Mistake(str(source), f"{name}.{key}" if key else name, plain(value), problem, remedy))

        if not re.fullmatch(r"[A-Za-z0-9._-]{1,64}", name) or name in (".", ".."):
            wrong("", None, "is no channel name", "Use letters, digits, '.', '-' and '_', 64 at most")
            continue
        if not isinstance(entry, dict):
            wrong("", entry, "must be an object", 'Write {"TrainingInputMode": "File"}')
            continue
        mode = entry.get("TrainingInputMode") or "File"
        if mode not in MODES:
            wrong("TrainingInputMode", mode, f"is none of {', '.join(MODES)}", "Use one of them")
        distribution = entry.get("S3DistributionType") or "FullyReplicated"
        if distribution not in DISTRIBUTIONS:
            wrong("S3DistributionType", distribution, f"is none of {', '.join(DISTRIBUTIONS)}", "Use one of them")
        channels.append(
            Channel(
                name=name,
                path=data / name,
                mode=mode,
                distribution=distribution,
                content_type=_optional(entry, "ContentType"),
                compression=_optional(entry, "CompressionType"),
                record_wrapper=_optional(entry, "RecordWrapperType"),
                extra={key: plain(value) for key, value in entry.items() if key not in _KNOWN},
            )
        )
    return tuple(channels)


def with_splits(raw: tuple[Channel, ...], splits: Iterable[str], *, folder: Path) -> tuple[Channel, ...]:
    """The channels and, in place of those of the same name, the splits of features that lie in `folder`."""
    made = {name: Channel(name, folder / name, content_type="application/x-parquet") for name in splits}
    return (*(one for one in raw if one.name not in made), *made.values())


def _optional(entry: Mapping[str, Any], key: str) -> str | None:
    """The service writes the word "None" where it means nothing."""
    value = entry.get(key)
    return None if value in (None, "None") else str(plain(value))
