"""An image's `train`: there, executable, whole, and whose."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from trainkit.check.facts import Facts
from trainkit.check.finding import AT_START, Finding
from trainkit.check.image import Executable, Image, command
from trainkit.check.request import at

_X86_64 = 62
_MACHINES = {183: "arm64", 40: "arm", 3: "i386", 243: "riscv64", 62: "x86-64"}


def image(facts: Facts) -> Iterator[Finding]:
    found = facts.image
    if not found:
        return
    entrypoints = [
        at(job.definition, "AlgorithmSpecification", "ContainerEntrypoint", kind=list) for job in facts.trainings
    ]
    named = [str(words[0]) for words in entrypoints if words]
    for name in dict.fromkeys(named) if named and all(entrypoints) else ["train"]:
        yield from _command(found, name)
    if found.hidden:
        yield Finding(
            "image-hidden",
            "warning",
            found.hidden[0],
            f"{len(found.hidden)} files lie where the service mounts its own",
            "They are gone when the container runs",
            "Keep the image's own files outside /opt/ml; /opt/ml/code may stay",
        )
    if {"trainkit", "sagemaker-training"} <= found.distributions:
        yield Finding(
            "image-two-trains",
            "warning",
            found.train.path if found.train else "train",
            "the image has trainkit and sagemaker-training, and each brings a `train`",
            "The one that was installed last runs",
            "pip uninstall sagemaker-training, or install trainkit after it",
        )


def _command(found: Image, name: str) -> Iterator[Finding]:
    program = command(found, name)
    if program is None:
        yield Finding(
            "image-no-train", "error", name, f"there is no `{name}` on the image's PATH",
            f'{AT_START}: exec: "{name}": executable file not found in $PATH', "pip install trainkit in the image",
        )  # fmt: skip
        return
    if not program.on_path:
        yield Finding(
            "image-path", "warning", program.path, "lies where only an image with a PATH of its own finds it",
            f'{AT_START}: exec: "{name}": executable file not found in $PATH, unless ENV PATH names its folder',
            f"ENV PATH={program.path.rpartition('/')[0]}:$PATH in the Dockerfile",
        )  # fmt: skip
    if not program.executable:
        yield Finding(
            "image-not-executable", "error", program.path, "is not executable", f"{AT_START}: permission denied",
            f"RUN chmod +x {program.path}",
        )  # fmt: skip
    yield from _elf(program) if program.head.startswith(b"\x7fELF") else _text(found, program)


def _elf(program: Executable) -> Iterator[Finding]:
    (machine,) = struct.unpack_from("<H", program.head, 18) if len(program.head) >= 20 else (0,)
    if machine != _X86_64:
        yield _foreign(program.path, machine)


def _foreign(path: str, machine: int) -> Finding:
    return Finding(
        "image-architecture", "error", path, f"is built for {_MACHINES.get(machine, 'another machine')}",
        f"{AT_START}: exec format error. Training instances are x86-64",
        "docker build --platform linux/amd64",
    )  # fmt: skip


def _text(found: Image, program: Executable) -> Iterator[Finding]:
    first, _, _ = program.head.partition(b"\n")
    if not first.startswith(b"#!"):
        begins = "a byte order mark" if first.startswith(b"\xef\xbb\xbf") else f"{first[:20]!r}" if first else "nothing"
        yield Finding(
            "image-no-shebang", "error", program.path, f"begins with {begins}, and no #! line",
            f"{AT_START}: exec format error", "Begin it with #!/usr/bin/env python3, at the first byte",
        )  # fmt: skip
        return
    if first.endswith(b"\r"):
        yield Finding(
            "image-crlf", "error", f"{program.path}:1", "has Windows line ends (CRLF)",
            f"{AT_START}: no such file or directory, though the file is there",
            "dos2unix it, and write `* text=auto eol=lf` into .gitattributes",
        )  # fmt: skip
    words = first[2:].strip().decode("utf-8", "replace").split()
    through_env = bool(words) and words[0].endswith("/env")
    wanted = [word for word in words[1:] if not word.startswith("-")][:1] if through_env else words[:1]
    for word in [*words[:1], *wanted] if through_env else wanted:
        interpreter = command(found, word)
        if interpreter is None:
            yield Finding(
                "image-interpreter", "error", f"{program.path}:1", f"its interpreter {word} is not in the image",
                f"{AT_START}: no such file or directory", "Install it, or name the one that there is",
            )  # fmt: skip
        elif interpreter.head.startswith(b"\x7fELF"):
            yield from _elf(interpreter)
    if whose := _whose(program):
        yield Finding(
            "image-train", "note", program.path, whose, "It runs the job", "None, if it is the one that you mean"
        )


def _whose(program: Executable) -> str:
    if b"trainkit" in program.head:
        return ""
    return (
        "is the `train` of sagemaker-training" if b"sagemaker_training" in program.head else "is neither ours nor AWS's"
    )


def matches(facts: Facts) -> Iterator[Finding]:
    """An image beside the request that runs it."""
    found = facts.image
    for job in facts.trainings if found else ():
        arguments = " ".join(
            map(str, at(job.definition, "AlgorithmSpecification", "ContainerArguments", kind=list) or [])
        )
        if found and "sm_train.sh" in arguments and command(found, "/bin/bash") is None:
            yield Finding(
                "image-no-bash", "error", f"{job.key}AlgorithmSpecification.ContainerEntrypoint",
                "the SDK starts the job with /bin/bash, which the image lacks", AT_START, "Install bash",
            )  # fmt: skip
