"""What the images are built from: their own base where a registry answers, else one that is made here.

Made here it is Debian 12 with its Python 3.11 and pip, whose configuration points to a folder of wheels in the image:
then the same Dockerfiles build without any network. Debian and the wheels are fetched once, and kept in `cache`.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import tomllib
import urllib.error
import urllib.request
from pathlib import Path

from images.daemon import Docker, Unavailable

ROOT = Path(__file__).parents[2]
EXTRAS = ("torch", "features")
FETCHING = 1800  # seconds
OWN = "trainkit-test/base"
_DEBIAN = ("--variant=minbase", "--include=python3,python3-pip,python-is-python3,ca-certificates", "bookworm")
# Debian's pip wants to be asked before it touches Debian's Python, and python:3.11-slim's does not.
_PIP = "[global]\nno-index = true\nfind-links = /opt/wheels\nbreak-system-packages = true\n"
_DOCKERFILE = 'FROM scratch\nADD rootfs.tar /\nCOPY pip.conf /etc/pip.conf\nCOPY wheels /opt/wheels\nCMD ["python3"]\n'


def base_for(dockerfile: Path, *, docker: Docker, cache: Path) -> str:
    """An image to build `dockerfile` upon. Raises Unavailable where there is none to be had."""
    own = default(dockerfile, "BASE")
    if docker.host is None and docker.ask("pull", own, deadline=FETCHING).returncode == 0:
        return own
    return _made(docker, cache)


def default(dockerfile: Path, argument: str) -> str:
    """What the Dockerfile itself says of an ARG."""
    found = re.search(rf"^ARG {argument}=(\S+)$", dockerfile.read_text(encoding="utf-8"), re.MULTILINE)
    assert found, f"{dockerfile} has no ARG {argument}"
    return found[1]


def _made(docker: Docker, cache: Path) -> str:
    wanted = _requirements()
    tag = f"{OWN}:{hashlib.sha256(wanted.encode() + (ROOT / 'constraints.txt').read_bytes()).hexdigest()[:12]}"
    if docker.ask("image", "inspect", tag).returncode == 0:
        return tag
    context = cache / tag.rpartition(":")[2]
    context.mkdir(parents=True, exist_ok=True)
    _fetch_wheels(wanted, context / "wheels")
    _fetch_debian(cache / "rootfs.tar")
    (context / "rootfs.tar").unlink(missing_ok=True)
    (context / "rootfs.tar").hardlink_to(cache / "rootfs.tar")
    (context / "pip.conf").write_text(_PIP)
    (context / "Dockerfile").write_text(_DOCKERFILE)
    docker.tell("build", "--tag", tag, context, deadline=FETCHING)
    return tag


def _requirements() -> str:
    """All that the images may install, and what builds the package."""
    everything = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project = everything["project"]
    extras = [line for extra in EXTRAS for line in project["optional-dependencies"][extra]]
    return "\n".join([*project["dependencies"], *extras, *everything["build-system"]["requires"]]) + "\n"


def _fetch_wheels(wanted: str, folder: Path) -> None:
    """For the base's Python, whatever runs here; whole, or not there."""
    if folder.exists():
        return
    scratch = folder.with_name("wheels.part")
    shutil.rmtree(scratch, ignore_errors=True)
    (folder.parent / "wanted.txt").write_text(wanted)
    index = default(ROOT / "images/cpu/Dockerfile", "TORCH_INDEX")
    _run(
        sys.executable, "-m", "pip", "download", "--quiet", "--only-binary", ":all:", "--python-version", "3.11",
        *(("--extra-index-url", index) if _answers(index) else ()), "--constraint", str(ROOT / "constraints.txt"),
        "--requirement", str(folder.parent / "wanted.txt"), "--dest", str(scratch),
    )  # fmt: skip
    scratch.rename(folder)


def _answers(url: str) -> bool:
    """Whether an index is there. pip would ask one that is not for every package, and wait each time."""
    try:
        urllib.request.urlopen(f"{url}/torch/", timeout=10).close()
    except (urllib.error.URLError, TimeoutError):
        return False
    return True


def _fetch_debian(archive: Path) -> None:
    if archive.exists():
        return
    if not shutil.which("mmdebstrap"):
        raise Unavailable("No registry answers, so a base is to be made here: apt-get install mmdebstrap")
    scratch = archive.with_name("part.rootfs.tar")
    _run("mmdebstrap", "--quiet", *_DEBIAN, str(scratch))
    scratch.rename(archive)


def _run(*command: str) -> None:
    ran = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=FETCHING, check=False
    )
    if ran.returncode:
        raise Unavailable(f"{' '.join(command[:4])} … failed:\n{ran.stdout}{ran.stderr}"[-4000:])
