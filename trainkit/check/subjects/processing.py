"""Processing jobs: paths, and the script among the inputs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from trainkit.check.facts import Facts
from trainkit.check.finding import AT_START, REFUSED, Finding
from trainkit.check.request import Job, at, objects

_ROOT = PurePosixPath("/opt/ml/processing")


def processing(facts: Facts) -> Iterator[Finding]:
    for job in facts.jobs:
        if not job.trains:
            yield from _paths(job)
            yield from _script(job)


def _places(job: Job) -> list[tuple[str, str, dict[str, Any]]]:
    """(key, its name, part) for each input and output with a path."""
    listed = [
        ("ProcessingInputs", "InputName", "S3Input", one, i) for i, one in objects(job.definition, "ProcessingInputs")
    ]
    listed += [("ProcessingOutputConfig.Outputs", "OutputName", "S3Output", one, i)
               for i, one in objects(job.definition, "ProcessingOutputConfig", "Outputs")]  # fmt: skip
    return [
        (f"{job.key}{part}[{i}].{inner}", str(one.get(name)), one[inner])
        for part, name, inner, one, i in listed
        if isinstance(one.get(inner), dict) and not one.get("AppManaged")
    ]


def _paths(job: Job) -> Iterator[Finding]:
    places = _places(job)
    for kind in ("S3Input", "S3Output"):
        names = Counter(name for key, name, _ in places if key.endswith(kind))
        for name in [name for name, count in names.items() if count > 1]:
            yield Finding(
                "processing-name-twice", "error", job.key.rstrip("."), f"two of them are called {name!r}", REFUSED,
                "Name each differently",
            )  # fmt: skip
    taken: dict[str, str] = {}
    for key, _, part in places:
        local = part.get("LocalPath")
        if not isinstance(local, str):
            continue
        path = PurePosixPath(local)
        if not path.is_relative_to(_ROOT) or ".." in path.parts:
            yield Finding(
                "processing-path", "error", f"{key}.LocalPath", f"{local} is not below {_ROOT}", REFUSED,
                f"Use {_ROOT}/input/… and {_ROOT}/output/…",
            )  # fmt: skip
        elif str(path) in taken:
            yield Finding(
                "processing-path-twice", "error", f"{key}.LocalPath", f"{local} is that of {taken[str(path)]}, too",
                f"{REFUSED}, or the files of the two lie in one folder", "Give each a folder of its own",
            )  # fmt: skip
        taken.setdefault(str(path), key)
        gzip = part.get("S3CompressionType") == "Gzip" and part.get("S3InputMode") != "Pipe"
        if gzip:
            yield Finding(
                "gzip-mode", "error", f"{key}.S3CompressionType", "Gzip goes with S3InputMode Pipe only", REFUSED,
                "Set it to None, or use Pipe",
            )  # fmt: skip


def _script(job: Job) -> Iterator[Finding]:
    """A script that is named must have come with an input; what lies elsewhere may be the image's own."""
    words = [*(at(job.definition, "AppSpecification", "ContainerEntrypoint", kind=list) or []),
             *(at(job.definition, "AppSpecification", "ContainerArguments", kind=list) or [])]  # fmt: skip
    folders = [PurePosixPath(str(part.get("LocalPath"))) for key, _, part in _places(job) if key.endswith("S3Input")]
    for word in words:
        path = PurePosixPath(str(word))
        ours = path.is_relative_to(_ROOT / "input") and path.suffix in (".py", ".sh")
        if ours and not any(path.is_relative_to(folder) for folder in folders):
            yield Finding(
                "processing-script", "error", f"{job.key}AppSpecification.ContainerEntrypoint",
                f"{path} comes with no input", f"{AT_START}: no such file",
                f"Add an input whose LocalPath is {path.parent}",
            )  # fmt: skip
