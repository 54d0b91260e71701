"""docs/settings.md says what the code does: the same settings, and every other variable that is ours."""

from __future__ import annotations

import re
from pathlib import Path

from trainkit.contract.settings import TABLE, Setting, Settings

ROOT = Path(__file__).parents[2]
DOC = (ROOT / "docs/settings.md").read_text(encoding="utf-8")


def code(*names: str | None) -> str:
    return ", ".join(f"`{name}`" for name in names if name)


def default(row: Setting) -> str:
    """As a person writes it."""
    value = getattr(Settings(), row.name)
    if row.name == "engine":
        return "`fork`; `spawn` where there is no Linux"
    return "" if value in (None, ()) else code(f"{value:g}" if isinstance(value, float) else str(value))


def as_documented(row: Setting) -> str:
    cells = (
        code(row.flag),
        code(row.variable, row.environment),
        code(f"trainkit_{row.name}", row.hyperparameter),
        row.meaning,
        row.expects,
        default(row),
    )
    return f"| {' | '.join(cells)} |".replace("|  |", "| |")


def rows(heading: str) -> list[str]:
    """The body of the table below a heading."""
    section = DOC.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    return [line for line in section.splitlines() if line.startswith("| `")]


def test_the_document_has_exactly_the_rows_of_the_table_in_its_order() -> None:
    assert rows("The table") == [as_documented(row) for row in TABLE]


def test_every_variable_that_the_code_reads_and_that_is_no_setting_is_documented_too() -> None:
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "trainkit").rglob("*.py")]
    read = {name for source in sources for name in re.findall(r'"(TRAINKIT_[A-Z0-9_]+|SAGEMAKER_BASE_DIR)"', source)}
    settings = {row.variable for row in TABLE}
    whole = {name for name in read - settings if not name.endswith("_")}
    # TRAINKIT_S3_ begins names that are there themselves; TRAINKIT_CHANNEL_ is completed by the user.
    open_ended = {name for name in read - whole - settings if not any(other.startswith(name) for other in whole)}

    documented = {name for row in rows("Not settings") for name in re.findall(r"^\| `(\w+)(?:<NAME>)?`", row)}

    assert documented == whole | open_ended
