"""Reading one JSON file of `/opt/ml/input/config`, with every way it can be wrong put into words."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainkit.errors import Mistake

Document = Mapping[str, Any]


DEPTH = 100
"""Levels of nesting in one value: json reads more of them than the first recursive function after it can bear."""


@dataclass(frozen=True, slots=True)
class Number:
    """A JSON number as it was written: `1e5` and `100000.0` are the same float, and different texts."""

    text: str

    @property
    def value(self) -> int | float | str:
        """The number; its text where none stands for it that JSON could hold (`1e999`, `NaN`)."""
        try:
            return int(self.text)
        except ValueError:
            value = float(self.text)
            return value if math.isfinite(value) else self.text


def plain(node: Any) -> Any:
    """The same JSON value with ordinary numbers."""
    if isinstance(node, Number):
        return node.value
    if isinstance(node, dict):
        return {key: plain(value) for key, value in node.items()}
    if isinstance(node, list):
        return [plain(value) for value in node]
    return node


def is_name(value: Any) -> bool:
    """Whether `value` is text that can stand in a variable, a log line and an address."""
    return isinstance(value, str) and bool(value) and value.isprintable()


def too_deep(value: Any) -> bool:
    """Whether `value` is nested deeper than DEPTH."""
    level = [value]
    for _ in range(DEPTH + 1):
        level = [
            inner
            for node in level
            if isinstance(node, dict | list)
            for inner in (node.values() if isinstance(node, dict) else node)
        ]
    return bool(level)


def spell(node: Any) -> str:
    """JSON text of a value read here, as `json.dumps` writes it but for its numbers, spelled as they were."""
    if isinstance(node, Number):
        return node.text
    if isinstance(node, dict):
        return "{" + ", ".join(f"{json.dumps(key)}: {spell(value)}" for key, value in node.items()) + "}"
    if isinstance(node, list):
        return "[" + ", ".join(map(spell, node)) + "]"
    return json.dumps(node)


def find(directory: Path, name: str) -> Path:
    """The file of that name; the camel-case spelling of the documentation only where the real one is absent.

    The service writes `resourceconfig.json`, its documentation says `resourceConfig.json`.
    """
    exact = directory / name
    try:
        if not exact.exists():
            for entry in sorted(directory.iterdir()):
                if entry.name.lower() == name:
                    return entry
    except OSError:
        pass  # read() says what is wrong with it
    return exact


def is_there(path: Path) -> bool:
    """Whether a file is there. In a folder that this user may not enter it is, and read() says what is wrong."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def read(path: Path, *, required: bool, mistakes: list[Mistake]) -> Document | None:
    """The object in `path`, or None where there is none to be had; what is wrong with it goes into `mistakes`."""

    def wrong(problem: str, remedy: str) -> None:
        mistakes.append(Mistake(str(path), "", None, problem, remedy))

    try:
        return parse(path.read_bytes(), path=path, mistakes=mistakes)
    except FileNotFoundError:
        if required:
            wrong("does not exist", "SageMaker lays it there; locally, start the job with `trainkit local`")
    except PermissionError:
        wrong(
            f"cannot be read by uid {os.geteuid()}",
            "SageMaker's config folder belongs to root: run the image as root (no USER line in its Dockerfile)",
        )
    except OSError as error:
        wrong(f"cannot be read ({error.strerror})", "Look at the volume behind it")
    return None


def parse(raw: bytes, *, path: Path, mistakes: list[Mistake]) -> Document | None:
    """The object that `raw`, the content of `path`, spells; None where it spells none: `mistakes` has the reason."""

    def wrong(problem: str, remedy: str, key: str = "") -> None:
        mistakes.append(Mistake(str(path), key, None, problem, remedy))

    def refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        unique = dict(pairs)
        if len(unique) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            wrong("stands there twice", "Keep one of the two", key=twice)
        return unique

    try:
        document = json.loads(
            raw.decode("utf-8-sig"),
            parse_int=Number,
            parse_float=Number,
            parse_constant=Number,  # Python's own json.dumps writes NaN and Infinity
            object_pairs_hook=refuse_duplicates,
        )
        if too_deep(document):
            raise RecursionError
    except UnicodeDecodeError as error:
        wrong(f"is not UTF-8 (byte {error.start})", "Write it anew as UTF-8")
    except json.JSONDecodeError as error:
        place = f"{error.msg} at line {error.lineno}, column {error.colno}"
        wrong(
            "is empty" if not raw.strip() else f"is no JSON ({place})",
            "The file may be half-written: write it whole, or start the job again",
        )
    except RecursionError:
        wrong("is nested too deeply", "Write it flatter")
    else:
        if isinstance(document, dict):
            return document
        wrong(f"holds a JSON {_kind(document)}", "It must hold an object {…}")
    return None


def _kind(value: Any) -> str:
    if isinstance(value, Number):
        return "number"
    return {list: "array", str: "string", bool: "boolean", type(None): "null"}.get(type(value), type(value).__name__)
