"""Running pip, and saying in words what it could not do.

No index address is ever an argument: it may hold a token, and arguments can be read by everybody. pip finds indexes
where it always does, in PIP_INDEX_URL and its kin, its own files, and the requirements. Nothing that pip prints is
passed on before credentials are taken out of it.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import re
import selectors
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from trainkit.code import codeartifact, network
from trainkit.code import requirements as required
from trainkit.code.environment import Environment
from trainkit.contract.secrets import scrub
from trainkit.errors import CodeError, StorageError

_ELSEWHERE = ("PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_USER", "PIP_PYTHON", "PIP_REQUIRE_VIRTUALENV", "PIP_LOG")
_STILL = 30.0  # seconds between two signs of life
_KEPT = 2000  # lines of pip's output
_SHOWN = 40  # of them in the log, where it fails
_UNREACHED = re.compile(
    r"NewConnectionError|ConnectTimeoutError|ReadTimeoutError|Max retries|name resolution|Name or service not known"
    r"|Network is unreachable|ProxyError|connection broken"
)
_ASKED = re.compile(r"^ +(The user requested (?!\(constraint\))(.+)|.+ depends on .+)$", re.MULTILINE)
_PINNED = re.compile(r"^ +The user requested \(constraint\) (\S+)$", re.MULTILINE)
_NOWHERE = re.compile(r"No matching distribution found for (.+)")
_BUILD_NEEDS = re.compile(r"^requires\s*=\s*\[([^\]]*)\]", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be installed, from where, and what is not to change."""

    folder: Path
    file: Path | None
    listed: Mapping[str, str]
    package: bool
    constraints: Sequence[str]


def run(made: Environment, wanted: Wanted, *, there: Mapping[str, str], say: Callable[[str], None]) -> None:
    """Install it. Raises CodeError where pip refuses, StorageError where no index can be reached."""
    environ = _environ(wanted)
    scratch = made.folder / "scratch"  # there, since what is not whole is removed when it is made anew
    scratch.mkdir()
    try:
        limits = scratch / "constraints.txt"
        limits.write_text("".join(f"{line}\n" for line in wanted.constraints), encoding="utf-8")
        unreached = _unreached(wanted, environ)
        environ["TMPDIR"] = str(scratch)  # a pip that is killed clears nothing up
        if unreached:
            environ["PIP_NO_INDEX"] = "1"  # what is there, or comes by --find-links, needs none
        hashed = required.is_hashed(wanted.listed)
        common = [*_command(made), "install", "--no-input", "--no-user", "--progress-bar=off", "--no-color"]
        common += ["--no-warn-script-location", "-c", str(limits)]
        targets = ["-r", str(wanted.file)] if wanted.file else []
        calls = [[*common, *targets]] if targets else []
        if wanted.package:
            own = [str(_copied(wanted.folder, scratch)), *_isolation(wanted.folder, there)]
            # What is hashed is all there shall be, and a folder has no hash.
            calls = [*calls, [*common, "--no-deps", *own]] if hashed else [[*common, *targets, *own]]
        for call in calls:
            code, lines = _watched(call, environ, cwd=wanted.folder, say=say)
            if code:
                for line in lines[-_SHOWN:]:
                    say(f"pip: {line}")
                raise _explained(lines, wanted, there, unreached=unreached)
            for line in lines:
                if " requires " in line and "but you have" in line:
                    said = line.removesuffix("which is incompatible.").rstrip(" ,.")
                    say(f"warning: {said}: what needs the other version may not work in this job")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _command(made: Environment) -> list[str]:
    if importlib.util.find_spec("pip") is None:
        return [str(made.python), "-P", "-m", "pip"]
    return [sys.executable, "-P", "-m", "pip", "--python", str(made.python)]


def _environ(wanted: Wanted) -> dict[str, str]:
    environ = {name: value for name, value in os.environ.items() if name not in _ELSEWHERE}
    environ.setdefault("PIP_RETRIES", "2")  # of what is down, pip would make five, each with its timeout
    environ |= {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PYTHONUNBUFFERED": "1"}
    if (arn := environ.get("CA_REPOSITORY_ARN")) and "PIP_INDEX_URL" not in environ:
        environ["PIP_INDEX_URL"] = codeartifact.index_url(arn)
    return environ


def _unreached(wanted: Wanted, environ: Mapping[str, str]) -> str | None:
    """The index, `host:port`, if there is one to be asked and it does not answer. pip itself would try for minutes."""
    said = "\n".join(wanted.listed.values())
    if environ.get("PIP_NO_INDEX") or "--no-index" in said or network.has_proxy(environ):
        return None
    if environ.get("PIP_CONFIG_FILE") != os.devnull and _has_config():
        return None  # it may name anything; pip will say
    named = re.search(r"^\s*(?:-i|--index-url)(?:\s+|=)(\S+)", said, re.MULTILINE)
    try:
        index = urlsplit(
            os.path.expandvars(named[1]) if named else environ.get("PIP_INDEX_URL") or "https://pypi.org/simple"
        )
        port = index.port or (443 if index.scheme == "https" else 80)
    except ValueError:  # its words may hold a part of the password
        where = f"the index that {wanted.file.name} names" if named and wanted.file else "PIP_INDEX_URL"
        raise CodeError(
            f"{where} is no address: it must be https://HOST[:PORT]/PATH. Of a user and a password before the host, "
            f"write each / as %2F, @ as %40, : as %3A, # as %23"
        ) from None
    if index.scheme not in ("http", "https") or not index.hostname:
        return None
    return None if network.answers(index.hostname, port) else f"{index.hostname}:{port}"


def _has_config() -> bool:
    home = Path(os.environ.get("HOME", "/"))
    places = [
        Path("/etc/pip.conf"),
        home / ".pip/pip.conf",
        home / ".config/pip/pip.conf",
        Path(sys.prefix, "pip.conf"),
    ]
    given = os.environ.get("PIP_CONFIG_FILE")
    for place in [*places, *([Path(given)] if given else [])]:
        try:
            text = place.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        if re.search(r"^\s*(?:index[-_]url|no[-_]index|proxy)\b", text, re.MULTILINE):
            return True
    return False


def _copied(folder: Path, scratch: Path) -> Path:
    """The source, elsewhere: a build writes beside what it builds, and channels are read-only."""

    def litter(_: str, names: list[str]) -> set[str]:
        return {name for name in names if required.is_litter(name)}

    return Path(shutil.copytree(folder, scratch / "source", symlinks=True, ignore=litter))


def _isolation(folder: Path, there: Mapping[str, str]) -> list[str]:
    """Build with what the image has where that is all it takes: an isolated build downloads even what is there."""
    try:
        declared = _BUILD_NEEDS.search((folder / "pyproject.toml").read_text(encoding="utf-8", errors="replace"))
    except OSError:
        declared = None
    needs = re.findall(r"[\"']\s*([A-Za-z0-9._-]+)", declared[1]) if declared else ["setuptools"]
    return ["--no-build-isolation"] if all(required.normal(name) in there for name in needs) else []


def _watched(
    call: Sequence[str], environ: Mapping[str, str], *, cwd: Path, say: Callable[[str], None]
) -> tuple[int, list[str]]:
    """Run it to its end. Returns its exit code and its lines, without credentials."""
    lines: list[str] = []
    with subprocess.Popen(
        call, env=environ, cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        preexec_fn=_end_with_us, start_new_session=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        try:
            _collect(process.stdout, lines, say)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)  # a build that goes on would write where we clear up
            raise
    return process.returncode, lines


def _collect(output: IO[bytes], lines: list[str], say: Callable[[str], None]) -> None:
    os.set_blocking(output.fileno(), False)
    rest, spoke = b"", time.monotonic()
    with selectors.DefaultSelector() as selector:
        selector.register(output, selectors.EVENT_READ)
        while True:
            if selector.select(max(0.0, spoke + _STILL - time.monotonic())):
                data = os.read(output.fileno(), 1 << 16)
                if not data:
                    lines += [scrub(rest.decode("utf-8", "replace"))] if rest else []
                    return
                *whole, rest = (rest + data).split(b"\n")
                lines += [scrub(line.decode("utf-8", "replace").rstrip()) for line in whole]
                del lines[:-_KEPT]
            if time.monotonic() >= spoke + _STILL:
                spoke = time.monotonic()
                say(f"still installing: {next((line for line in reversed(lines) if line.strip()), '')[:200]}")


def _end_with_us() -> None:
    """In pip's process: whatever ends us ends it, too."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def _explained(
    lines: Sequence[str], wanted: Wanted, there: Mapping[str, str], *, unreached: str | None
) -> CodeError | StorageError:
    """What pip said, as cause and remedy."""
    said = "\n".join(lines)
    name = wanted.file.name if wanted.file else f"the package in {wanted.folder}"
    evidence = "\n".join(line for line in lines if line.strip())[-1500:]
    if pins := _PINNED.findall(said):
        asked = "; ".join(f"it asks for {request}" if request else depends for depends, request in _ASKED.findall(said))
        names = list(dict.fromkeys(re.split("[=<>]", pin)[0] for pin in pins))
        has = ", ".join(f"{one} {there.get(required.normal(one), '')}".strip() for one in names)
        return CodeError(
            f"{name}: {asked or 'it asks for another'}; this image has {has}, which requirements may not replace\n"
            f"Take that line out, or widen it to what is there; TRAINKIT_ALLOW_REPLACE={','.join(names)} lets "
            f"them replace it\n\n{evidence}"
        )
    if "UnicodeDecodeError" in said and "parse_requirements" in said:
        return CodeError(f"{name} is not UTF-8 text. Save it, and what it names with -r and -c, as UTF-8")
    missing = _NOWHERE.search(said)
    if unreached or _UNREACHED.search(said):
        where = unreached or "its index"
        wants = f"{missing[1]} is not installed, and " if missing else ""
        return StorageError(f"{name}: {wants}{where} cannot be reached from here\n{network.remedy()}.\n\n{evidence}")
    hashes = [line for line in lines if "hash" in line.lower() and ("ERROR" in line or "MATCH" in line)]
    if hashes:
        why = hashes[0].removeprefix("ERROR: ")
        return CodeError(f"{name}: {why}\nPin each package with its hash, as pip-compile does\n\n{evidence}")
    if missing and "install build dependencies" in said:
        return CodeError(
            f"{name}: its build needs {missing[1]}, which is neither in the image nor in the indexes that were asked\n"
            f"Put it into the image, or list a wheel of what is to be built\n\n{evidence}"
        )
    if missing:
        return CodeError(
            f"{name}: there is no {missing[1]} for this Python in the indexes that were asked\n"
            f"Compare the name and the version; PIP_INDEX_URL or PIP_EXTRA_INDEX_URL names another index\n\n{evidence}"
        )
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return CodeError(f"{name}: pip failed: {errors[0] if errors else (lines or ['without a word'])[-1]}\n\n{evidence}")
