from __future__ import annotations

from pathlib import Path

import pytest

from trainkit.contract import job
from trainkit.contract.paths import Paths
from trainkit.errors import ConfigError

TREES = Path(__file__).parents[1] / "trees"
TWO_HOSTS = Paths(TREES / "right-two-hosts-p4d-group-hosts-unsorted")


def test_the_config_may_lie_elsewhere_than_the_root(tmp_path: Path) -> None:
    read = job.read(Paths(tmp_path), environ={}, config=TWO_HOSTS.config)

    assert read.hosts == ("algo-1", "algo-2")
    assert read.channels[0].path == tmp_path / "input/data/training"


def test_the_name_of_the_job_is_the_platforms() -> None:
    assert job.read(TWO_HOSTS, environ={"TRAINING_JOB_NAME": "job-7"}).name == "job-7"
    assert job.read(TWO_HOSTS, environ={}).name == "local"


def test_flags_and_environment_are_read_with_the_files() -> None:
    read = job.read(TWO_HOSTS, environ={"TRAINKIT_PORT": "9000", "TRAINKIT_PROCS": "3"}, flags={"procs": "4"})

    assert (read.settings.port, read.settings.procs) == (9000, 4)


def test_a_source_that_was_asked_for_comes_before_the_code_channel() -> None:
    paths = Paths(TREES / "right-code-channel")

    assert job.read(paths, environ={}).source == paths.channels / "code"
    assert job.read(paths, environ={}, flags={"source": "/srv/code"}).source == Path("/srv/code")


def test_given_addresses_override_the_names_of_hosts() -> None:
    given = {"TRAINKIT_HOST_ADDRESSES": '{"algo-1": "127.0.0.1", "algo-2": "127.0.0.2"}'}

    assert job.read(TWO_HOSTS, environ=given).address("algo-2") == "127.0.0.2"
    assert job.read(TWO_HOSTS, environ={}).address("algo-2") == "algo-2"


@pytest.mark.parametrize(
    "text", ["algo-1", "[]", '{"algo-1": 1}', '{"algo-1": ""}', '{"algo-1": "127.0.0.1"}', "[" * 9999]
)
def test_addresses_that_do_not_name_every_host_are_a_mistake(text: str) -> None:
    with pytest.raises(ConfigError) as refused:
        job.read(TWO_HOSTS, environ={"TRAINKIT_HOST_ADDRESSES": text})

    assert [(m.file, m.key) for m in refused.value.mistakes] == [("environment", "TRAINKIT_HOST_ADDRESSES")]


def test_a_config_folder_that_is_a_file_or_holds_a_folder_is_explained(tmp_path: Path) -> None:
    (tmp_path / "input").mkdir()
    (tmp_path / "input/config").write_text("")
    with pytest.raises(ConfigError, match=r"resourceconfig.json cannot be read \(Not a directory\)"):
        job.read(Paths(tmp_path), environ={})

    (tmp_path / "input/config").unlink()
    (tmp_path / "input/config/resourceconfig.json").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"resourceconfig.json cannot be read \(Is a directory\)"):
        job.read(Paths(tmp_path), environ={})
