"""Every tree in tests/trees is an /opt/ml: each is read, and must give the facts or the mistakes that it expects."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from trainkit.contract import environ, job
from trainkit.contract.facts import Resources
from trainkit.contract.paths import Paths
from trainkit.errors import ConfigError

TREES = Path(__file__).parents[1] / "trees"
NAMES = sorted(tree.name for tree in TREES.iterdir() if tree.is_dir())


def listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("right-")])
def test_a_right_tree_is_read_as_it_is_meant(name: str) -> None:
    root = TREES / name
    expect = json.loads((root / "expect.json").read_text(encoding="utf-8").replace("{root}", str(root)))

    read = job.read(Paths(root), environ={})
    resources = Resources(cpus=4, gpus=0)
    variables, warnings = environ.variables(read, resources=resources, master=read.hosts[0], port=7777)

    facts = {
        "current_host": read.cluster.current_host,
        "hosts": list(read.hosts),
        "cluster_hosts": list(read.cluster.hosts),
        "host_rank": read.host_rank,
        "interface": read.cluster.interface,
        "instance_type": read.cluster.instance_type,
        "current_group": read.cluster.current_group,
        "topology": read.cluster.topology,
        "extra": read.cluster.extra,
        "checkpoints": str(read.checkpoints),
        "source": str(read.source),
        "arguments": list(environ.arguments(read)),
    }
    parts = {
        "settings": {row: listed(getattr(read.settings, row)) for row in expect.get("settings", {})},
        "texts": {key: read.hyperparameters.texts[key] for key in expect.get("texts", {})},
        "values": {key: read.hyperparameters[key] for key in expect.get("values", {})},
        "variables": {key: variables[key] for key in expect.get("variables", {})},
        "absent_variables": [key for key in expect.get("absent_variables", []) if key not in variables],
    }
    channels = expect.pop("channels", None)
    assert {**facts, **parts} | expect == {**facts, **parts}
    assert warnings == []
    if channels is not None:
        assert [channel.name for channel in read.channels] == list(channels)
        for channel in read.channels:
            for key, value in channels[channel.name].items():
                assert (str(channel.path) if key == "path" else getattr(channel, key)) == value


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("wrong-")])
def test_a_wrong_tree_is_refused_with_each_of_its_mistakes_and_its_remedy(name: str) -> None:
    root = TREES / name
    expected = json.loads((root / "expect.json").read_text(encoding="utf-8"))["mistakes"]

    with pytest.raises(ConfigError) as refused:
        job.read(Paths(root), environ={})

    said = {(Path(mistake.file).name, mistake.key, mistake.problem): mistake for mistake in refused.value.mistakes}
    assert len(said) == len(expected), str(refused.value)
    for right in expected:
        matching = [
            mistake
            for (file, key, problem), mistake in said.items()
            if (file, key) == (right["file"], right["key"]) and right["problem"] in problem
        ]
        assert len(matching) == 1, f"{right} is not said exactly once in:\n{refused.value}"
        assert right["remedy"] in matching[0].remedy
    lines = str(refused.value).split("\n")
    assert len(lines) == len(expected)
    assert all(line.isprintable() for line in lines)
    assert refused.value.exit_code == 78


def test_every_tree_says_which_kind_it_is() -> None:
    assert all(name.startswith(("right-", "wrong-")) for name in NAMES)
    assert all((TREES / name / "expect.json").is_file() for name in NAMES)


def test_the_first_line_of_many_mistakes_says_how_many_more_there_are() -> None:
    with pytest.raises(ConfigError) as refused:
        job.read(Paths(TREES / "wrong-five-mistakes-in-three-files"), environ={})

    assert str(refused.value).splitlines()[0].endswith("(and 4 more, below)")


READ_AS_NOBODY = """
import os, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from trainkit.contract import job
from trainkit.contract.paths import Paths
from trainkit.errors import ConfigError
if os.geteuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
try:
    job.read(Paths(Path(sys.argv[2])), environ={})
except ConfigError as error:
    print(error)
    sys.exit(error.exit_code)
"""


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """pytest's own temporary folders can be entered by their owner only."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.parametrize("folder_mode", [0o744, 0o755])
def test_config_that_only_root_can_read_is_explained_to_another_user(open_folder: Path, folder_mode: int) -> None:
    """0744 is how the service makes the folder: its names can be listed, and nothing in it opened."""
    config = open_folder / "input/config"
    shutil.copytree(TREES / "right-single-host-g4dn/input/config", config)
    (open_folder / "input").chmod(0o755)
    for file in config.iterdir():
        file.chmod(0o600 if os.geteuid() == 0 else 0o000)
    config.chmod(folder_mode)
    package = Path(job.__file__).parents[2]

    ran = subprocess.run(
        [sys.executable, "-c", READ_AS_NOBODY, str(package), str(open_folder)],
        capture_output=True,
        text=True,
        timeout=60,
    )

    uid = 65534 if os.geteuid() == 0 else os.geteuid()
    assert ran.returncode == 78, ran.stderr
    for name in ("resourceconfig", "inputdataconfig", "hyperparameters"):
        assert f"{name}.json cannot be read by uid {uid}" in ran.stdout
    assert "run the image as root (no USER line in its Dockerfile)" in ran.stdout
