from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainkit.contract import document, hyperparameters
from trainkit.contract.hyperparameters import Hyperparameters, decode
from trainkit.errors import Mistake

many = settings(max_examples=60, deadline=None, database=None)

# Whatever execve can carry: no NUL, no half of a surrogate pair.
texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
names = texts.filter(lambda name: bool(name) and not name.startswith("trainkit_"))
PLAIN = """12345e6 1e999 007 -0 1.0 +1 .5 1. 0x10 1_000 NaN Infinity -Infinity null true True [1, { "quoted" "half it's
    $(id) `id` ;rm a;b *.py ~ -- --flag -x \\n é 日本 🚂"""
HOSTILE = [*PLAIN.split(), "", " ", " 5 ", "\n", "a\nb", "\r", "9" * 5000, "x" * 2500, "[" * 1250 + "]" * 1250]


def read(raw: bytes) -> tuple[Hyperparameters, list[Mistake]]:
    """Through the same two functions as a job's file."""
    mistakes: list[Mistake] = []
    path = Path("hyperparameters.json")
    pairs = document.parse(raw, path=path, mistakes=mistakes)
    assert pairs is not None, mistakes
    return hyperparameters.read(pairs, source=path, mistakes=mistakes), mistakes


def written(values: dict[str, Any]) -> bytes:
    return json.dumps(values).encode()


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: repr(text[:20]))
def test_a_text_comes_out_as_it_went_in(text: str) -> None:
    read_back, mistakes = read(written({"name": text}))

    assert read_back.texts == {"name": text}
    assert mistakes == []
    json.dumps(read_back["name"], allow_nan=False)


@many
@given(st.dictionaries(names, texts))
def test_any_texts_come_out_as_they_went_in_and_in_their_order(values: dict[str, str]) -> None:
    read_back, mistakes = read(written(values))

    assert list(read_back.texts.items()) == list(values.items())
    assert mistakes == []


@pytest.mark.parametrize(
    "spelling",
    [
        "12345e6",
        "1e999",
        "-0",
        "1.0",
        "1.50",
        "1E5",
        "-1e-05",
        "9" * 5000,
        "NaN",
        "Infinity",
        "-Infinity",
        "true",
        "null",
        "[]",
        "{}",
        '[1.0, 12345e6, {"a": [1E5]}]',
        '{"a": {"b": null}}',
    ],
    ids=lambda text: text[:20],
)
def test_a_real_json_value_keeps_its_spelling(spelling: str) -> None:
    read_back, mistakes = read(b'{"value": ' + spelling.encode() + b"}")

    assert read_back.texts == {"value": spelling}
    assert mistakes == []


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=10,
)


@many
@given(json_values)
def test_a_real_json_value_has_the_text_that_json_dumps_gives_it(value: Any) -> None:
    """What the SDK's drivers hand to the script, byte for byte."""
    read_back, _ = read(written({"value": value}))

    assert read_back.texts["value"] == (value if isinstance(value, str) else json.dumps(value))
    if not isinstance(value, str):
        assert read_back["value"] == value


@many
@given(texts)
def test_the_decoded_value_of_any_text_is_strict_json(text: str) -> None:
    assert json.dumps(decode(text), allow_nan=False)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.1", 0.1),
        ("64", 64),
        ("true", True),
        ("null", None),
        ('"Adam"', "Adam"),
        ("Adam", "Adam"),
        ("007", "007"),
        ('{"a": [1]}', {"a": [1]}),
        ("NaN", "NaN"),
        ("1e999", "1e999"),
        ("[1, NaN]", "[1, NaN]"),
        ("", ""),
    ],
)
def test_the_decoded_value_is_there_for_those_who_ask(text: str, value: Any) -> None:
    decoded = Hyperparameters({"name": text})["name"]

    assert decoded == value
    assert type(decoded) is type(value)


def test_settings_of_trainkit_are_hidden_from_the_script() -> None:
    given_all, _ = read(written({"lr": "0.1", "trainkit_procs": "2", "trainkit": "kept"}))

    assert given_all.own == {"procs": "2"}
    assert given_all.for_script.texts == {"lr": "0.1", "trainkit": "kept"}
    assert dict(given_all.for_script) == {"lr": 0.1, "trainkit": "kept"}


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        (b'{"a": "\\u0000"}', "NUL"),
        (b'{"a\\u0000": "1"}', "NUL"),
        (b'{"a": "\\ud800"}', "surrogate"),
        (b'{"\\udc00": "1"}', "surrogate"),
        (b'{"": "1"}', "empty name"),
        (b'{"a": "' + b"x" * 131_072 + b'"}', "131073 bytes long"),
        (b'{"a": "' + "é".encode() * 70_000 + b'"}', "140001 bytes long"),
        (b'{"' + b"x" * 1001 + b'": "1"}', "1002 bytes long"),
    ],
    ids=lambda part: str(part)[:24],
)
def test_what_no_argument_can_carry_is_a_mistake_and_nothing_else_is_lost(raw: bytes, problem: str) -> None:
    read_back, mistakes = read(raw[:-1] + b', "kept": "1"}')

    assert read_back.texts == {"kept": "1"}
    assert [problem in mistake.problem for mistake in mistakes] == [True]


def test_half_a_surrogate_inside_a_real_json_value_stays_an_escape() -> None:
    read_back, mistakes = read(b'{"a": ["\\ud800"]}')

    assert read_back.texts == {"a": '["\\ud800"]'}
    assert mistakes == []


@pytest.mark.parametrize(("depth", "decoded"), [(50, True), (500, False)])
def test_a_value_nested_deeper_than_functions_recurse_stays_text(depth: int, decoded: bool) -> None:
    text = "[" * depth + "]" * depth

    assert (decode(text) != text) is decoded
