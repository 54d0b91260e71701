"""Laying input data and code into a host, and collecting what it leaves."""

from __future__ import annotations

import datetime
import math
import os
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
from harness import unprivileged

from trainkit.errors import UsageError
from trainkit.launch.output import Console
from trainkit.local import archive, claim, inputs, layout, objects, request, screen, stage, status
from trainkit.local.sources import Source


def lay(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return root


def seen(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def refuse(error: OSError) -> None:
    raise error


def test_a_channel_is_a_directory_of_links(tmp_path: Path) -> None:
    source = lay(tmp_path / "data", "a", "deep/b c", "deep/er/ü")
    stage.link(stage.data(source), into=tmp_path / "in")
    assert seen(tmp_path / "in") == ["a", "deep/b c", "deep/er/ü"]
    (tmp_path / "in/deep/b c").unlink()
    (tmp_path / "in/new").touch()
    assert seen(source) == ["a", "deep/b c", "deep/er/ü"]


def test_a_single_file_is_a_channel_too(tmp_path: Path) -> None:
    lay(tmp_path, "one.csv", "other.csv")
    stage.link(stage.data(tmp_path / "one.csv"), into=tmp_path / "in")
    assert seen(tmp_path / "in") == ["one.csv"]


def test_linked_folders_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    source = lay(tmp_path / "data", "a/x")
    (source / "b").symlink_to("a")
    (source / "a/up").symlink_to("..")
    os.mkfifo(source / "pipe")
    stage.link(stage.data(source), into=tmp_path / "in")
    assert seen(tmp_path / "in") == ["a/x", "b/x"]


def test_code_comes_without_what_is_no_code(tmp_path: Path) -> None:
    folder = lay(
        tmp_path / "project", "train.py", "pkg/m.py", "conf/.hidden", ".git/config", "pkg/__pycache__/m.pyc",
        "env/pyvenv.cfg", "env/lib/x.py", "data/rows", "runs/describe.json", "runs/hosts/algo-1/x", "trainkit-output/y",
    )  # fmt: skip
    found = stage.code(folder, without=[folder / "data", folder], unreadable=refuse)
    stage.link(found, into=tmp_path / "in")
    assert seen(tmp_path / "in") == ["conf/.hidden", "pkg/m.py", "train.py"]


def test_a_home_directory_is_not_taken_for_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "_MOST_CODE", 3)
    folder = lay(tmp_path / "home", "1", "2", "3", "4")
    with pytest.raises(UsageError, match="holds over 3 files"):
        stage.code(folder, without=[], unreadable=refuse)


def test_an_output_directory_of_someone_else_is_not_touched(tmp_path: Path) -> None:
    for content in (None, "{", '{"model": "mine"}', "[]"):
        output = lay(tmp_path / f"out-{content}", "model/mine")
        if content:
            (output / "describe.json").write_text(content)
        with pytest.raises(UsageError, match="no earlier job of ours"), claim.claimed(output):
            claim.clear(output)
        assert (output / "model/mine").exists()


def test_an_earlier_jobs_output_is_cleared_but_for_its_checkpoints(tmp_path: Path) -> None:
    output = lay(tmp_path / "out", "model/old", "channels/train/old", "hosts/algo-1/x", "checkpoints/step-1", "failure")
    (output / "describe.json").write_text("{}")
    with claim.claimed(output):
        claim.clear(output)
    (output / ".lock").unlink()
    assert seen(output) == ["checkpoints/step-1", "describe.json"]


def test_hosts_models_are_merged_whole_and_clashes_are_named(tmp_path: Path) -> None:
    first = lay(tmp_path / "1", "model.bin", "same", "clash", ".trainkit-model.part/half", ".x.part")
    second = lay(tmp_path / "2", "other.bin", "same")
    (second / "clash").write_text("else")
    (first / "link").symlink_to("model.bin")
    packed, clashes = archive.collect([first, second], into=tmp_path / "model", compress=True)
    assert packed == tmp_path / "model.tar.gz"
    assert clashes == ["clash"]
    with tarfile.open(packed) as tar:
        assert sorted(tar.getnames()) == ["clash", "link", "model.bin", "other.bin", "same"]
        assert all(member.isreg() for member in tar.getmembers())
        assert tar.extractfile("clash").read() == b"clash"  # type: ignore[union-attr]
    plain, _ = archive.collect([first, second], into=tmp_path / "model", compress=False)
    assert plain == tmp_path / "model"
    assert seen(tmp_path / "model") == ["clash", "link", "model.bin", "other.bin", "same"]


def test_no_files_make_no_archive(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert archive.collect([tmp_path / "empty"], into=tmp_path / "model", compress=True) == (None, [])
    assert not (tmp_path / "model.tar.gz").exists()


def test_what_cannot_be_read_is_an_error_for_data_and_a_warning_for_code(open_path: Path) -> None:
    source = lay(open_path / "data", "a", "secret/b")
    (source / "secret").chmod(0)
    skipped: list[OSError] = []
    with unprivileged():
        with pytest.raises(UsageError, match=r"cannot read .*secret.*: Permission denied"):
            stage.data(source)
        found = stage.code(source, without=[], unreadable=skipped.append)
    (source / "secret").chmod(0o700)
    assert found.files == (source / "a",)
    assert {Path(error.filename).name for error in skipped} <= {"secret", "describe.json", "pyvenv.cfg"}
    assert skipped


def test_what_the_service_would_take_for_part_of_a_prefix_is_warned_of(tmp_path: Path, s3: Any) -> None:
    from trainkit.storage import files

    for name in ("train/1", "train2/1", "train.csv", "trail/1"):
        files.put_new(f"{s3.bucket}/{name}", b"x")

    def warned(url: str) -> list[str]:
        said: list[str] = []
        source = Source("channel c", "c", "/opt/ml/input/data/c", url)
        (found,) = inputs.survey([source], base=tmp_path, covered=None, output=tmp_path / "out", warn=said.append)
        assert [item.name for item in found.items] == ["1"]
        return said

    (said,) = warned(f"{s3.bucket}/train")
    assert f"channel c: the service takes {s3.bucket}/train2/, {s3.bucket}/train.csv for part of" in said
    assert said.endswith("end it with a slash")
    assert warned(f"{s3.bucket}/train/") == warned(f"{s3.bucket}/trail") == []


def test_a_folder_of_any_name_is_found_by_its_url(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9 #1?")
    assert objects.place(folder.as_uri(), base=Path("/elsewhere")) == folder
    assert objects.place("s3://bucket/x", base=tmp_path) == "s3://bucket/x"
    assert objects.place("data", base=tmp_path) == tmp_path / "data"


def test_a_directory_for_a_job_is_nobody_elses(tmp_path: Path) -> None:
    made = [claim.fresh(tmp_path / "out", "train-1") for _ in range(3)]
    assert [path.name for path in made] == ["train-1", "train-1-2", "train-1-3"]
    with claim.claimed(made[0]), pytest.raises(UsageError, match="a job is running in"), claim.claimed(made[0]):
        pass
    with claim.claimed(made[0]):
        claim.clear(made[0])


def ask(script: Path, **channels: str) -> dict[str, Any]:
    shorthand = request.Shorthand(script, channels=channels, environment={"TRAINKIT_ENGINE": "spawn"})
    return request.compose(shorthand, output=Path("/out"), now=datetime.datetime(2026, 1, 2))


@pytest.mark.parametrize(
    ("name", "place"), [("../../x", "/tmp"), ("..", "/tmp"), ("a b", "/tmp"), ("x" * 65, "/"), ("t", "")]
)
def test_a_channel_that_is_none_is_refused(name: str, place: str) -> None:
    with pytest.raises(UsageError, match="--channel"):
        ask(Path("train.py"), **{name: place})


def test_of_a_linked_script_the_folder_is_that_of_the_real_file(tmp_path: Path) -> None:
    lay(tmp_path / "real", "train.py")
    (tmp_path / "linked.py").symlink_to("real/train.py")
    job = ask(tmp_path / "linked.py")
    assert request.sources(job)[-1].url == (tmp_path / "real").as_uri()
    assert job["Environment"]["TRAINKIT_SCRIPT"] == "train.py"


def test_the_environment_is_the_callers_less_what_speaks_of_another_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/usr")
    theirs = {"RANKING_MODEL": "r", "ROLE_ARN": "a", "GROUP_NAME": "g", "MASTER_KEY": "k", "TRAINING_JOB_KIND": "t"}
    settings = {"TRAINKIT_PEER_WAIT": "9", "TRAINKIT_PORT": "1234", "TRAINKIT_ENGINE": "fork"}
    another_job = {"RANK": "3", "MASTER_ADDR": "x", "SM_HOSTS": "[]", "TRAINKIT_RUN_DIR": "/x", "TRAINKIT_SOURCE": "/y"}
    seen = layout.environment(
        ask(Path("train.py")), {**theirs, **settings, **another_job, "PYTHONPATH": "lib:/abs:../opt"}
    )
    assert theirs.items() <= seen.items()
    assert (seen["TRAINKIT_PEER_WAIT"], seen["TRAINKIT_PORT"]) == ("9", "1234")
    assert seen["TRAINKIT_ENGINE"] == "spawn"  # the request's own word
    assert not another_job.keys() & seen.keys()
    assert seen["PATH"].startswith(str(Path(sys.executable).parent))
    assert seen["PYTHONPATH"] == "/usr/lib:/abs:/usr/../opt"


def test_what_the_hosts_cannot_see_or_the_job_would_replace_is_refused(tmp_path: Path) -> None:
    lay(tmp_path, "code/train.py", "out/model/old", "covered/rows")

    def survey(**channels: str) -> list[inputs.Found]:
        sources = request.sources(ask(tmp_path / "code/train.py", **channels), code="code")
        return inputs.survey(sources, base=tmp_path, covered=tmp_path / "covered", output=tmp_path / "out", warn=print)

    assert [one.source.name for one in survey()] == ["code"]
    with pytest.raises(UsageError, match=r"every host has a .*covered of its own"):
        survey(train=str(tmp_path / "covered/rows"))
    with pytest.raises(UsageError, match="a result of an earlier job that this one would replace"):
        survey(train=str(tmp_path / "out/model"))


def test_a_description_is_json_whatever_the_metrics_are(tmp_path: Path) -> None:
    told = status.Status(ask(Path("train.py")), tmp_path / "describe.json")
    told.enter("Completed")
    metrics = {"loss": math.nan, "peak": math.inf, "accuracy": 0.5}
    document = told.document(model=None, reason=None, metrics=metrics)
    assert [(one["MetricName"], one["Value"]) for one in document["FinalMetricDataList"]] == [("accuracy", 0.5)]


def test_a_log_that_cannot_be_written_is_no_end_of_the_job(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    log = screen.Screen(Console(), colour=False).host(Path("/dev/full"))
    for line in (b"one\n", b"two\n"):
        log.write(line)
    log.close()
    out = capfdbinary.readouterr().out.decode()
    assert (
        out == "one\n[local] warning: /dev/full is cut off, the log goes on here only: No space left on device\ntwo\n"
    )
