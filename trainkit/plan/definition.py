"""Whether a Python file declares features rather than doing something. It is read, and not run."""

from __future__ import annotations

import ast
from pathlib import Path

ENTRY = Path(__file__).parents[1] / "processing/features/__main__.py"
"""What carries it out. By file, as ranks are: under `python -m`, a trainkit.py beside it would be taken for us."""
NAME, KIND = "features", "Features"


def is_definition(path: Path) -> bool:
    """Whether it says `features = Features(…)` at its top level, and has no `if __name__ == "__main__"` of its own."""
    try:
        body = ast.parse(path.read_bytes()).body
    except (OSError, SyntaxError, ValueError, RecursionError):
        return False  # whoever runs it says what is wrong with it
    kinds = {KIND} | {
        name.asname
        for one in body
        if isinstance(one, ast.ImportFrom) and (one.module or "").startswith("trainkit.processing")
        for name in one.names
        if name.name == KIND and name.asname
    }
    return any(_declares(one, kinds) for one in body) and not any(_is_main(one) for one in body)


def _declares(statement: ast.stmt, kinds: set[str]) -> bool:
    if isinstance(statement, ast.Assign):
        targets = statement.targets
    elif isinstance(statement, ast.AnnAssign):
        targets = [statement.target]
    else:
        return False
    if not any(isinstance(target, ast.Name) and target.id == NAME for target in targets):
        return False
    made = statement.value.func if isinstance(statement.value, ast.Call) else None
    kind = statement.annotation if isinstance(statement, ast.AnnAssign) else None
    return _called(made) in kinds or _called(kind) in kinds


def _called(node: ast.expr | None) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _is_main(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.If) and any(
        isinstance(one, ast.Name) and one.id == "__name__" for one in ast.walk(statement.test)
    )
