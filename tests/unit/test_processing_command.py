"""What a container is given, in all the shapes that SDKs send."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from harness import unprivileged

from trainkit.errors import ScriptMissing, TrainkitError, UsageError
from trainkit.plan import command, spark
from trainkit.plan.clusters import spark as clusters
from trainkit.plan.definition import ENTRY
from trainkit.plan.launch import BOOTSTRAP

RANK = str(BOOTSTRAP / "rank.py")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("prep.py", "features.py", "runproc.sh", "app.py"):
        (tmp_path / name).touch()
    return tmp_path


def resolve(folder: Path, *arguments: str, hosts: int = 1, cluster: str | None = None, **environ: str) -> Any:
    given = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", **environ}
    script = environ.get("script")
    return command.resolve(arguments, folders=(folder,), environ=given, script=script, hosts=hosts, cluster=cluster)


def test_a_folder_that_the_image_s_user_may_not_enter_is_named_and_another_one_still_looked_into(
    open_path: Path,
) -> None:
    for name in ("closed", "open"):
        (open_path / name).mkdir()
        (open_path / name / "prep.py").touch()
    (open_path / "closed").chmod(0o700)
    with unprivileged():
        folders = [open_path / "closed", open_path / "open"]
        assert command.find("prep.py", folders=folders) == open_path / "open/prep.py"
        for words in (("prep.py",), ()):
            with pytest.raises(ScriptMissing, match=rf"^uid \d+ may not enter {open_path}/closed, .*\n.*chmod"):
                resolve(open_path / "closed", *words)


@pytest.mark.parametrize("prefix", [(), ("process",), ("train",), ("trainkit", "process"), ("process", "process")])
def test_a_script_runs_under_our_bootstrap_with_its_arguments(folder: Path, prefix: tuple[str, ...]) -> None:
    found = resolve(folder, *prefix, "prep.py", "--x", "it's $(id)")

    assert found.argv == (sys.executable, RANK, str(folder / "prep.py"), "--x", "it's $(id)")
    assert (found.label, found.is_shell) == ("prep.py", False)


def test_python_with_a_script_does_so_too_and_keeps_the_interpreter_that_was_named(folder: Path) -> None:
    assert resolve(folder, "python3", "-u", "prep.py", "-u").argv == (
        "python3", "-u", RANK, str(folder / "prep.py"), "-u",
    )  # fmt: skip
    assert resolve(folder, "python3", "-m", "prep").argv == ("python3", "-m", "prep")
    assert resolve(folder, "python3", "-c", "print(1)").argv == ("python3", "-c", "print(1)")


DEFINITION = "from trainkit.processing import Features{alias}\nfeatures{kind} = {call}({arguments})\n{more}"


@pytest.mark.parametrize(
    ("is_one", "parts"),
    [
        (True, {}),
        (True, {"alias": " as F", "call": "F"}),
        (True, {"call": "processing.Features"}),
        (True, {"kind": ": Features", "call": "made"}),
        (True, {"arguments": "surely=not_run()"}),
        (False, {"call": "load_features"}),
        (False, {"more": "if __name__ == '__main__':\n    print(features)\n"}),
        (False, {"arguments": "("}),
        (False, {"kind": "_of_the_day"}),
    ],
)
def test_a_file_that_declares_features_has_them_made_and_is_not_run_to_find_out(
    folder: Path, is_one: bool, parts: dict[str, str]
) -> None:
    text = DEFINITION.format(**{"alias": "", "kind": "", "call": "Features", "arguments": "", "more": ""} | parts)
    (folder / "features.py").write_text(text)
    starter = str(ENTRY) if is_one else RANK

    assert resolve(folder, "features.py", "--n").argv == (sys.executable, starter, str(folder / "features.py"), "--n")
    assert resolve(folder, "python3", "-u", "features.py").argv[:3] == ("python3", "-u", starter)
    assert ENTRY.is_file()


def test_a_shell_is_known_for_one_so_that_what_it_runs_hears_signals(folder: Path) -> None:
    bash = resolve(folder, "bash", "runproc.sh", "--x")
    assert (bash.argv, bash.label, bash.is_shell) == (("bash", "runproc.sh", "--x"), "runproc.sh", True)
    assert resolve(folder, "runproc.sh").argv == ("bash", str(folder / "runproc.sh"))
    (folder / "runproc.sh").chmod(0o755)
    assert resolve(folder, "runproc.sh").argv == (str(folder / "runproc.sh"),)


def test_without_a_script_it_is_the_setting_or_process_py_or_features_py(folder: Path) -> None:
    assert resolve(folder, "--n", "3").argv[2:] == (str(folder / "features.py"), "--n", "3")
    (folder / "process.py").touch()
    assert resolve(folder).argv[2:] == (str(folder / "process.py"),)
    assert resolve(folder, "--n", script="prep.py").argv[2:] == (str(folder / "prep.py"), "--n")


def test_what_is_not_there_is_said_with_the_places_that_were_searched(folder: Path) -> None:
    with pytest.raises(ScriptMissing, match=rf"there is no script nowhere.py: looked for {folder}/nowhere.py"):
        resolve(folder, "nowhere.py")
    with pytest.raises(ScriptMissing, match="there is no program 'frobnicate'"):
        resolve(folder, "frobnicate", "x")
    (folder / "features.py").unlink()
    with pytest.raises(ScriptMissing, match="no script was named"):
        resolve(folder)


def test_a_submission_is_taken_apart_as_spark_would() -> None:
    call = spark.parse(
        ["--py-files", "a.py,b.py", "--verbose", "--conf=k=v", "--local-spark-event-logs-dir", "/logs", "app.py", "-x"]
    )

    assert call == (("--py-files", "a.py,b.py", "--verbose", "--conf", "k=v"), "/logs", "app.py", ("-x",))
    with pytest.raises(UsageError, match="no application is named"):
        spark.parse(["--verbose"])
    with pytest.raises(UsageError, match="--py-files needs a value"):
        spark.parse(["--py-files"])


def test_spark_that_is_not_installed_is_named_with_its_extra(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clusters.importlib.util, "find_spec", lambda name: None)

    with pytest.raises(TrainkitError, match=r"app.py needs Spark.*install trainkit\[spark\]"):
        resolve(folder, "smspark-submit", "--py-files", "a.py", "app.py")


@pytest.fixture
def bin_folder(folder: Path) -> Path:
    """A folder of programs, with Spark's and a java."""
    for name in ("spark-submit", "spark-class", "java"):
        program = folder / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
    return folder / "bin"


def test_spark_runs_in_local_mode_on_one_host_and_in_a_cluster_on_two(folder: Path, bin_folder: Path) -> None:
    submit = str(bin_folder / "spark-submit")
    app = str(folder / "app.py")

    alone = resolve(folder, "smspark-submit", "--name", "n", "app.py", "1", PATH=str(bin_folder))
    both = resolve(folder, "smspark-submit", "--name", "n", "app.py", "1", PATH=str(bin_folder), hosts=2)
    each = resolve(folder, "smspark-submit", "app.py", PATH=str(bin_folder), hosts=2, cluster="none")

    assert alone.argv[2:] == (submit, "--master", "local[*]", "--name", "n", app, "1")
    assert alone.argv[:2] == ("env", f"PYSPARK_PYTHON={sys.executable}")
    assert (both.argv[2:], both.cluster) == ((submit, "--name", "n", app, "1"), "spark")
    assert (each.argv[2:], each.cluster) == ((submit, "--master", "local[*]", app), None)


def test_a_submission_that_names_another_cluster_is_refused_on_several_hosts(folder: Path, bin_folder: Path) -> None:
    with pytest.raises(UsageError, match=r"submitted with --master on 2 hosts.*leave --master out"):
        resolve(folder, "smspark-submit", "--master", "yarn", "app.py", PATH=str(bin_folder), hosts=2)
    with pytest.raises(UsageError, match="TRAINKIT_CLUSTER=ray is no Spark"):
        resolve(folder, "smspark-submit", "app.py", PATH=str(bin_folder), cluster="ray")


def test_spark_without_java_is_said_before_anything_starts(folder: Path, bin_folder: Path) -> None:
    (bin_folder / "java").unlink()
    with pytest.raises(TrainkitError, match=r"Spark needs Java, and there is none .*: install a Java 17 runtime"):
        resolve(folder, "smspark-submit", "app.py", PATH=str(bin_folder))
