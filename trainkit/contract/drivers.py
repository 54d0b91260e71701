"""What a client of the SDK's version 3 asked for, from the channel `sm_drivers` that it sends along.

`ModelTrainer` starts its own script from that channel. A tuning job cannot: its API has no entrypoint, so the image's
`train` runs and the wishes would be lost. They lie in two files, and are heard here as settings, after all others:

    sourcecode.json    SourceCode(entry_script=, command=, args=, requirements=, source_dir=)
    distributed.json   Torchrun(process_count_per_node=) · MPI(…) · trainkit.sagemaker.Trainkit(any setting)

Where the SDK's own start script has come before us, it has installed the requirements and unpacked the code.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any, NamedTuple

from trainkit.contract import document
from trainkit.contract.dialect import DRIVERS_CHANNEL
from trainkit.contract.document import Number, plain
from trainkit.errors import Mistake

SOURCE_CODE, DISTRIBUTED = "sourcecode.json", "distributed.json"
VERSION_KEY = "trainkit"
"""In distributed.json it says that the rest of the file are settings of ours."""
STARTED = "SM_DISTRIBUTED_DRIVER_DIR"
"""A variable that the SDK's start script sets before it runs a driver."""
_TEXTS = ("entry_script", "command", "requirements", "source_dir")


class Said(NamedTuple):
    """A setting's text, and where it stands."""

    file: str
    key: str
    text: str


class Wishes(NamedTuple):
    """Settings by name, and what is worth telling about how they are met."""

    settings: Mapping[str, Said] = MappingProxyType({})
    notes: tuple[str, ...] = ()


def read(
    data: Path, *, channels: Collection[str], environ: Mapping[str, str], mistakes: list[Mistake],
    groups: Collection[str] = (),
) -> Wishes:  # fmt: skip
    """What `data`/sm_drivers asks for; nothing where there is no such channel, or no such files in it.

    `groups` are the job's instance groups: the SDK's own drivers start all hosts as one world, whatever their groups.
    """
    if DRIVERS_CHANNEL not in channels:
        return Wishes()
    folder = data / DRIVERS_CHANNEL
    source = document.read(folder / SOURCE_CODE, required=False, mistakes=mistakes)
    distributed = document.read(folder / DISTRIBUTED, required=False, mistakes=mistakes)
    if source is None and distributed is None:
        return Wishes()
    settings: dict[str, Said] = {}
    code = data / "code" if "code" in channels else None
    done = STARTED in environ
    _source_code(source or {}, folder / SOURCE_CODE, code=code, done=done, into=settings, mistakes=mistakes)
    notes = _distributed(distributed or {}, folder / DISTRIBUTED, groups=groups, into=settings, mistakes=mistakes)
    return Wishes(settings, notes)


def _source_code(
    raw: document.Document, file: Path, *, code: Path | None, done: bool, into: dict[str, Said],
    mistakes: list[Mistake],
) -> None:  # fmt: skip
    def say(setting: str, key: str, text: str) -> None:
        into[setting] = Said(str(file), key, text)

    for key, kind, called in (*((key, str, "text") for key in _TEXTS), ("args", list, "list")):
        if not isinstance(raw.get(key), kind | None):
            remedy = f"Write a {called}, as SourceCode({key}=…) of the SDK does, or leave it out"
            mistakes.append(Mistake(str(file), key, plain(raw[key]), f"is no {called}", remedy))
    given = {key: raw[key] for key in _TEXTS if isinstance(raw.get(key), str) and raw[key]}
    if "entry_script" in given:
        say("script", "entry_script", given["entry_script"])
    if "command" in given:  # in the SDK it comes before entry_script, and gets no hyperparameters
        import shlex  # most jobs have no sm_drivers

        args = raw["args"] if isinstance(raw.get("args"), list) else ()
        parts = [*given["command"].split(), *(shlex.quote(spelled(arg)) for arg in args)]
        say("command", "command", " ".join(parts))
    if done:
        say("requirements", "requirements", "")  # installed, and not to be looked for again
        return
    if "requirements" in given:
        automatic = given["requirements"] == "auto"
        say("requirements", "requirements", "requirements.txt" if automatic else given["requirements"])
    folder = given.get("source_dir", "")
    if code and folder.endswith(".tar.gz"):
        say("source", "source_dir", str(code / PurePosixPath(folder).name))
    elif not code and folder.startswith("s3://"):
        say("source", "source_dir", folder)  # any other is a folder of the client's machine


def _distributed(
    raw: document.Document, file: Path, *, groups: Collection[str], into: dict[str, Said], mistakes: list[Mistake]
) -> tuple[str, ...]:
    def wrong(key: str, value: object, problem: str, remedy: str) -> None:
        mistakes.append(Mistake(str(file), key, plain(value), problem, remedy))

    if VERSION_KEY in raw:
        for key, value in raw.items():
            if key != VERSION_KEY and value is not None:
                into[key] = Said(str(file), key, spelled(value))
        return ()
    if "command" in into:  # the SDK runs it once per host, whatever the distribution
        into["procs"] = into["command"]._replace(text="1")
        return ()
    if not raw:
        into["procs"] = Said(str(file), "", "1")
        return ("sm_drivers asks for no distribution, so each host runs one process: set procs, or use Torchrun()",)
    if "smp" not in raw and "mpi_additional_options" not in raw:
        keys = ", ".join(raw)
        wrong("", None, f"is of a driver that trainkit does not know (it has {keys})",
              "Use Torchrun(), MPI() or trainkit.sagemaker.Trainkit()")  # fmt: skip
        return ()
    if raw.get("smp"):
        wrong("smp", None, "asks for SageMaker's model parallelism (SMP), which trainkit does not have",
              "Use an image of AWS's that has it, or shard with torch's own FSDP and leave smp out")  # fmt: skip
    if len(groups) > 1:
        into["groups"] = Said(str(file), "", ",".join(groups))
    count = raw.get("process_count_per_node")
    if count is not None and plain(count) != 0:  # 0 is the SDK's word for "as many as there are"
        into["procs"] = Said(str(file), "process_count_per_node", spelled(count))
    if "mpi_additional_options" not in raw:
        return ()
    note = "sm_drivers asks for mpirun: trainkit starts the same ranks itself, with torchrun's environment"
    options = plain(raw["mpi_additional_options"])
    return (f"{note}; {' '.join(map(str, options))} is left out" if isinstance(options, list) and options else note,)


def spelled(value: Any) -> str:
    """As a setting is written: `a,b` for a list, a number as it stands."""
    if isinstance(value, list):
        return ",".join(map(spelled, value))
    return value.text if isinstance(value, Number) else value if isinstance(value, str) else document.spell(value)
