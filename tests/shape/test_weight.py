"""What an import costs, and what every module owes its reader."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "trainkit").rglob("*.py"))
HEAVY = {"torch", "numpy", "boto3", "botocore", "fsspec", "pyarrow", "s3fs"}
LIGHT = (
    "trainkit",
    "trainkit.contract.job",
    "trainkit.contract.environ",
    "trainkit.contract.outcome",
    "trainkit.cli.train",
    "trainkit.cli.entry",
)


@pytest.mark.parametrize("module", LIGHT)
def test_what_starts_first_loads_nothing_heavy(module: str) -> None:
    show = f"import sys, {module}; print(*{{name.split('.')[0] for name in sys.modules}})"

    ran = subprocess.run([sys.executable, "-c", show], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)

    assert HEAVY & set(ran.stdout.split()) == set()


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: str(source.relative_to(ROOT)))
def test_a_module_says_what_it_is_for_and_a_public_function_says_its_types(source: Path) -> None:
    tree = ast.parse(source.read_text(encoding="utf-8"))

    assert ast.get_docstring(tree) or not tree.body, "the module has no docstring"
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
            bare = [a.arg for a in arguments if a.annotation is None and a.arg not in ("self", "cls")]
            assert function.returns is not None and not bare, f"{function.name} lacks types {bare}"


def test_no_file_names_the_machine_it_was_written_on() -> None:
    strange = ["/" + "work/", "/" + "root/.", "/home/" + "ubuntu"]
    kinds = {".py", ".md", ".toml", ".json", ".txt", ".sh", ".yml"}
    folders = ("trainkit", "tests", "docs", "examples", "images", "launchers", "benchmarks")
    files = [file for folder in folders for file in (ROOT / folder).rglob("*")]

    for file in sorted(file for file in [*files, *ROOT.glob("*")] if file.is_file() and file.suffix in kinds):
        text = file.read_text(encoding="utf-8", errors="replace")
        assert [place for place in strange if place in text] == [], file
