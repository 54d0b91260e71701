"""From what was typed to facts: the one place where a static check reads the disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainkit.check import artifact, code, image, request
from trainkit.check.facts import Facts, Place, local, place
from trainkit.check.image import Image
from trainkit.check.request import Call, Job, at
from trainkit.check.subjects.api import COMPOSED
from trainkit.contract.hyperparameters import decode
from trainkit.contract.settings import TABLE, Settings
from trainkit.contract.source import module_of
from trainkit.errors import UsageError


@dataclass(frozen=True, slots=True)
class Asked:
    """`trainkit check TARGET …` as typed."""

    target: Path | None
    code: Path | None = None
    image_root: Path | None = None
    channels: Mapping[str, str] = field(default_factory=dict)
    hyperparameters: Mapping[str, str] = field(default_factory=dict)


def gather(asked: Asked) -> Facts:
    """Raises UsageError where there is nothing to check."""
    root = _image(asked.image_root)
    target = asked.target
    if target is None:
        if root is None:
            raise UsageError("name a script, a request, a model or an image: trainkit check TARGET")
        return Facts(image=root, code=_inside(root))
    if not target.exists():
        is_url = target.parts[0].endswith(":")
        raise UsageError(f"there is no {target} here{': copy it to this machine first' if is_url else ''}")
    if not (target.is_file() or target.is_dir()):  # a pipe would be waited for
        raise UsageError(f"{target} is neither a file nor a directory")
    if target.suffix == ".json":
        return _of_request(target, asked, root)
    if target.suffix in (".py", ".sh"):
        return _of_script(target, asked, root)
    if target.is_dir() and (target / "etc").is_dir() and (target / "usr").exists():
        found = _image(target)
        return Facts(image=found, code=_inside(found) if found else None)
    if target.is_dir() or target.name.endswith((".tar.gz", ".tgz", ".tar")):
        return Facts(artifact=artifact.read(target), artifact_name=target.name)
    raise UsageError(f"{target} is no script (.py, .sh), request (.json), model (.tar.gz or directory) or image")


def _image(root: Path | None) -> Image | None:
    if root is not None and not root.is_dir():
        raise UsageError(
            f"--image-root {root} is no directory: unpack the image there (docker export CONTAINER | tar -x)"
        )
    return image.read(root) if root else None


def _inside(found: Image) -> code.Code | None:
    """The script that lies in the image itself."""
    script = found.root / "opt/ml/code" / Settings().script
    return code.read(script, python=_parsable(found)) if script.is_file() else None


def _parsable(found: Image | None) -> tuple[int, int] | None:
    return found.python if found else None


def _of_script(script: Path, asked: Asked, root: Image | None) -> Facts:
    channels = [_channel(name, where) for name, where in asked.channels.items()]
    composed = {"RoleArn": COMPOSED, "HyperParameters": dict(asked.hyperparameters), "InputDataConfig": channels}
    call = Call(request.TRAINING, composed, partial=True)
    read = code.read(script, folder=asked.code, python=_parsable(root))
    return Facts((call,), read, root, places=_places(asked.channels))


def _channel(name: str, where: str) -> dict[str, Any]:
    return {"ChannelName": name, "DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": where}}}


def _of_request(file: Path, asked: Asked, root: Image | None) -> Facts:
    calls = tuple(_with(call, asked.hyperparameters) for call in request.load(file))
    places = {}
    bare = Facts(calls)
    for job in bare.trainings:
        for _, channel in job.channels:
            name, uri = channel.get("ChannelName"), at(channel, "DataSource", "S3DataSource", "S3Uri", kind=str)
            if isinstance(name, str) and uri and uri.startswith("file://"):
                places[name] = uri if not uri.endswith("/") else uri[:-1]
    found = {**_places(places), **_places(asked.channels)}
    read, missing = _script_of(bare, file, asked, root)
    return Facts(calls, read, root, places=found, missing_script=missing)


def _with(call: Call, hyperparameters: Mapping[str, str]) -> Call:
    """The request with what --hp says instead."""
    if not hyperparameters:
        return call
    texts = {**(at(call.request, "HyperParameters", kind=dict) or {}), **hyperparameters}
    return Call(call.operation, {**call.request, "HyperParameters": texts}, call.key, call.partial)


def _script_of(bare: Facts, file: Path, asked: Asked, root: Image | None) -> tuple[code.Code | None, str]:
    """The script of the request's first training job, where its folder is known: --code, or the request's own."""
    job = next(iter(bare.trainings), None)
    if job is None:
        return None, ""
    if _setting(job, "command"):
        return None, ""
    key, name = _named(job)
    folder = asked.code or file.absolute().parent
    script = folder / _file(name)
    if script.is_file() and script.resolve().is_relative_to(folder.resolve()):
        return code.read(script, folder=folder, python=_parsable(root)), ""
    if asked.code is None or script.suffix not in (".py", ".sh"):  # a command, an installed module, a program
        return None, ""
    if not folder.is_dir():
        raise UsageError(f"--code {folder} is no directory")
    return code.read(script, folder=folder, python=_parsable(root)), f"{job.key}{key}" if key else name


def _file(name: str) -> str:
    """The script's path in its folder, where it is named as a module, too."""
    module = module_of(name)
    return name if module is None else f"{module.replace('.', '/')}.py"


def _named(job: Job) -> tuple[str, str]:
    """(key, script) as the job names it."""
    return _setting(job, "script") or ("", Settings().script)


def _setting(job: Job, name: str) -> tuple[str, str] | None:
    """(key, text) of one of our settings, where the job has it in one of the ways that `train` would see."""
    for row in (row for row in TABLE if row.name == name):
        for variable in (row.variable, row.environment):
            if variable and job.environment.get(variable):
                return f"Environment.{variable}", job.environment[variable]
        for key in (f"trainkit_{row.name}", row.hyperparameter):
            if key and (text := job.hyperparameters.get(key)):
                return f"{job.hyperparameters_key}.{key}", str(decode(text) if text.startswith('"') else text)
    return None


def _places(channels: Mapping[str, str]) -> dict[str, Place]:
    paths = {name: path for name, where in channels.items() if (path := local(where)) is not None}
    return {name: place(path) for name, path in paths.items()}
