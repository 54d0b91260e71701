from __future__ import annotations

import pytest

from trainkit import errors
from trainkit.errors import ConfigError, Mistake, TrainkitError


def test_each_kind_of_failure_has_its_own_exit_code_as_the_module_lists_it() -> None:
    kinds: list[type[TrainkitError]] = [TrainkitError, *TrainkitError.__subclasses__()]

    assert errors.__doc__
    for kind in kinds:
        line = next(line for line in errors.__doc__.splitlines() if kind.__name__ in line.split())
        assert str(kind.exit_code) in line.split()
    assert len({kind.exit_code for kind in kinds}) == len(kinds)
    assert all(64 <= kind.exit_code <= 78 for kind in kinds)


def test_a_mistake_names_file_key_value_problem_and_remedy() -> None:
    mistake = Mistake("r.json", "current_host", "algo-3", "is not one of hosts (algo-1)", "Name one of them")

    assert str(mistake) == "r.json: current_host is 'algo-3': is not one of hosts (algo-1). Name one of them."
    assert str(mistake._replace(value=None)) == "r.json: current_host is not one of hosts (algo-1). Name one of them."
    assert str(Mistake("r.json", "", None, "is empty", "Write it")) == "r.json is empty. Write it."


@pytest.mark.parametrize(
    ("key", "shown"),
    [
        ("HyperParameters.password", "***"),
        ("HF_TOKEN", "***"),
        ("HyperParameters.tokenizer", "12345"),
        ("A.b", "12345"),
    ],
)
def test_a_mistake_in_a_secret_does_not_show_it(key: str, shown: str) -> None:
    assert str(Mistake("job.json", key, 12345, "must be text", "Quote it")).startswith(f"job.json: {key} is {shown}: ")


@pytest.mark.parametrize("key", ["two\nlines", "nul\0", "\ud800"])
def test_a_mistake_is_one_line_that_any_log_can_take(key: str) -> None:
    text = str(Mistake("h.json", key, "a\nb", "is wrong", "Right it"))

    assert text.isprintable()
    text.encode()


def test_a_long_value_is_cut_and_measured() -> None:
    text = str(Mistake("h.json", "k", "x" * 5000, "is wrong", "Right it"))

    assert "… (5002 characters)" in text
    assert len(text) < 250


def test_many_mistakes_are_told_at_once_and_the_first_line_counts_the_others() -> None:
    mistakes = [Mistake("a.json", f"k{index}", None, "is wrong", "Right it") for index in range(3)]

    error = ConfigError(iter(mistakes))

    assert str(error).splitlines() == [
        "a.json: k0 is wrong. Right it. (and 2 more, below)",
        "a.json: k1 is wrong. Right it.",
        "a.json: k2 is wrong. Right it.",
    ]
    assert error.mistakes == tuple(mistakes)
    assert str(ConfigError(mistakes[:1])) == "a.json: k0 is wrong. Right it."
