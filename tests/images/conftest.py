"""The daemon and the images that these tests share, and the figures that they print at the end."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from images import base
from images.daemon import Docker, Unavailable, daemon

BUILDING = 1800  # seconds
CACHE = base.ROOT / ".bench-data/images"
DOCKERFILES = base.ROOT / "images"
TORCH_THERE = "2.12.0+base"
# An image built around a torch of its own: it is ours under another version, so that whoever replaces it is seen.
_WITH_TORCH = f"""
ARG BASE
FROM ${{BASE}}
COPY constraints.txt /tmp/
RUN pip install -c /tmp/constraints.txt --extra-index-url {{index}} torch \\
 && cd "$(python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" \\
 && mv torch-2*.dist-info torch-{TORCH_THERE}.dist-info \\
 && sed -i 's/^Version: .*/Version: {TORCH_THERE}/' torch-{TORCH_THERE}.dist-info/METADATA \\
 && rm /tmp/constraints.txt
ENTRYPOINT ["/bin/false"]
"""
_figures: list[str] = []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for line in _figures:
        terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def figures() -> list[str]:
    """Lines for the end of the report."""
    return _figures


@pytest.fixture(scope="session")
def docker() -> Iterator[Docker]:
    if not os.environ.get("TRAINKIT_TEST_IMAGES"):
        pytest.skip("builds the images and runs them, for minutes: make images")
    try:
        with daemon(CACHE / "docker") as found:
            yield found
    except Unavailable as reason:
        pytest.exit(str(reason), returncode=1)


@pytest.fixture(scope="session")
def cpu_base(docker: Docker) -> str:
    try:
        return base.base_for(DOCKERFILES / "cpu/Dockerfile", docker=docker, cache=CACHE)
    except Unavailable as reason:
        pytest.exit(str(reason), returncode=1)


@pytest.fixture(scope="session")
def cpu(docker: Docker, cpu_base: str) -> str:
    return _build(docker, "cpu", DOCKERFILES / "cpu/Dockerfile", cpu_base)


@pytest.fixture(scope="session")
def processing(docker: Docker, cpu_base: str) -> str:
    """The cpu image for jobs that make features and train nothing."""
    return _build(docker, "processing", DOCKERFILES / "cpu/Dockerfile", cpu_base, "EXTRAS=features")


@pytest.fixture(scope="session")
def gpu(docker: Docker, cpu_base: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    dockerfile = tmp_path_factory.mktemp("with-torch") / "Dockerfile"
    dockerfile.write_text(_WITH_TORCH.replace("{index}", base.default(DOCKERFILES / "cpu/Dockerfile", "TORCH_INDEX")))
    return _build(docker, "gpu", DOCKERFILES / "gpu/Dockerfile", _build(docker, "with-torch", dockerfile, cpu_base))


def _build(docker: Docker, name: str, dockerfile: Path, upon: str, *arguments: str) -> str:
    """As images/README.md says, from the top of the repository."""
    tag = f"trainkit-test:{name}"
    given = [option for argument in (f"BASE={upon}", *arguments) for option in ("--build-arg", argument)]
    docker.tell("build", "--file", dockerfile, "--tag", tag, *given, base.ROOT, deadline=BUILDING)
    return tag
