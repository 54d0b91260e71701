"""The agent that keeps a host's checkpoints and their prefix alike."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from harness import DEADLINE

from trainkit.local import agent
from trainkit.local.agent import Agent
from trainkit.local.isolation import Host

LOCAL = "/opt/ml/checkpoints"


def hosts(folder: Path, count: int = 1) -> list[Host]:
    made = [Host(f"algo-{number}", "127.0.0.1", folder / f"algo-{number}") for number in range(1, count + 1)]
    for host in made:
        host.root.mkdir()
    return made


def seen(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def until(test: Any) -> None:
    deadline = time.monotonic() + DEADLINE
    while not test():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_what_is_there_comes_to_every_host_and_goes_back_only_where_it_changes(tmp_path: Path) -> None:
    there = tmp_path / "there"
    write(there, a="A", deep__b="B")
    both = hosts(tmp_path, 2)
    syncing = Agent(LOCAL, there, both)
    syncing.download()
    first, second = (host.root / "checkpoints" for host in both)
    assert seen(first) == seen(second) == {"a": "A", "deep/b": "B"}
    write(there, later="not fetched")
    write(first, deep__b="changed", new="N", half__x="H")
    (first / "new.sagemaker-ignore").write_text("half-written")
    syncing.end()
    assert seen(there) == {"a": "A", "deep/b": "changed", "new": "N", "half/x": "H", "later": "not fetched"}
    assert "new" not in seen(second)


def test_what_a_host_deletes_is_gone_there_though_another_host_still_has_it(tmp_path: Path) -> None:
    there = tmp_path / "there"
    write(there, a="A", step__b="B")
    both = hosts(tmp_path, 2)
    syncing = Agent(LOCAL, there, both)
    syncing.download()
    (both[0].root / "checkpoints/step/b").unlink()
    syncing.end()
    assert seen(there) == {"a": "A"}
    assert not (there / "step").exists()


def test_a_lost_host_has_nothing_more_to_say(tmp_path: Path) -> None:
    both = hosts(tmp_path, 2)
    syncing = Agent(LOCAL, tmp_path / "there", both)
    syncing.download()
    write(both[0].root / "checkpoints", lost="L")
    write(both[1].root / "checkpoints", kept="K")
    syncing.end(lost=["algo-1"])
    assert seen(tmp_path / "there") == {"kept": "K"}


def test_files_are_copied_beside_the_job_and_marked(tmp_path: Path) -> None:
    there, (host,) = tmp_path / "there", hosts(tmp_path)
    folder = host.root / "checkpoints"
    syncing = Agent(LOCAL, there, [host])
    syncing.download()
    syncing.begin()
    try:
        write(folder, one="1")
        (folder / "two.sagemaker-ignore").write_text("2")
        until(lambda: (folder / "one.sagemaker-uploaded").exists())
        assert seen(there) == {"one": "1"}
        assert not (folder / "one.sagemaker-uploading").exists()
        (folder / "two.sagemaker-ignore").rename(folder / "two")
        (folder / "one").unlink()
        until(lambda: there.is_dir() and seen(there) == {"two": "2"})
        until(lambda: not (folder / "one.sagemaker-uploaded").exists())
    finally:
        syncing.stop()


def test_it_goes_to_s3_and_comes_from_there(tmp_path: Path, s3: Any) -> None:
    from trainkit.storage import files

    url = f"{s3.bucket}/checkpoints"
    files.put_new(f"{url}/deep/old", b"OLD")
    agent.seed(url, tmp_path / "stand-in")
    assert seen(tmp_path / "stand-in") == {"deep/old": "OLD"}
    (host,) = hosts(tmp_path)
    syncing = Agent(LOCAL, f"{url}/", [host])
    syncing.download()
    (host.root / "checkpoints/deep/old").unlink()
    write(host.root / "checkpoints", deep__new="NEW")
    syncing.end()
    assert [entry.url for entry in files.list(url)] == [f"{url}/deep/new"]
    write(tmp_path / "stand-in", mine="M")
    agent.seed(url, tmp_path / "stand-in")
    assert seen(tmp_path / "stand-in") == {"deep/old": "OLD", "mine": "M"}, "it stands for the URL from then on"


@pytest.mark.parametrize("count", [1, 2])
def test_nothing_there_is_a_fresh_start(tmp_path: Path, count: int) -> None:
    made = hosts(tmp_path, count)
    Agent(LOCAL, tmp_path / "nowhere", made).download()
    assert all((host.root / "checkpoints").is_dir() for host in made)
