"""What a container is given, in all the shapes that SDKs send."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from trainkit.errors import ScriptMissing, TrainkitError, UsageError
from trainkit.plan import command, spark
from trainkit.plan.definition import ENTRY
from trainkit.plan.launch import BOOTSTRAP

RANK = str(BOOTSTRAP / "rank.py")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("prep.py", "features.py", "runproc.sh", "app.py"):
        (tmp_path / name).touch()
    return tmp_path


def resolve(folder: Path, *arguments: str, hosts: int = 1, **environ: str) -> Any:
    given = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", **environ}
    return command.resolve(arguments, folders=(folder,), environ=given, script=environ.get("script"), hosts=hosts)


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
    monkeypatch.setattr(spark.importlib.util, "find_spec", lambda name: None)

    with pytest.raises(TrainkitError, match=r"app.py needs Spark.*install trainkit\[spark\]"):
        resolve(folder, "smspark-submit", "--py-files", "a.py", "app.py")


def test_spark_runs_in_local_mode_on_one_host_and_is_refused_on_two(folder: Path) -> None:
    submit = folder / "bin/spark-submit"
    submit.parent.mkdir()
    submit.write_text("#!/bin/sh\n")
    submit.chmod(0o755)

    found = resolve(folder, "smspark-submit", "--name", "n", "app.py", "1", PATH=str(submit.parent))

    assert found.argv[2:] == (str(submit), "--master", "local[*]", "--name", "n", str(folder / "app.py"), "1")
    assert found.argv[:2] == ("env", f"PYSPARK_PYTHON={sys.executable}")
    with pytest.raises(UsageError, match="submitted on 2 hosts"):
        resolve(folder, "smspark-submit", "app.py", PATH=str(submit.parent), hosts=2)
