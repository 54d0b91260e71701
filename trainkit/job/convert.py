"""A hyperparameter's text as the type of its default."""

from __future__ import annotations

from typing import Any, TypeVar, cast

from trainkit.contract.hyperparameters import decode
from trainkit.errors import ConfigError, Mistake

T = TypeVar("T")
_BOOLS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_EXPECTS = {bool: "true or false", int: "a whole number", float: "a number"}


def check(default: object, *, name: str) -> None:
    """Raise TypeError for a default that no text is converted to."""
    kind = type(default)
    if kind is not str and kind not in _EXPECTS:
        raise TypeError(
            f"hp({name!r}): the default must be a bool, int, float or str, not {kind.__name__}; "
            f"job.hyperparameters[{name!r}] has the decoded JSON value"
        )


def convert(text: str, *, like: T, name: str, source: str) -> T:
    """`text` as a value of `like`'s type (bool, int, float or str); the text itself where that is str.

    Raises ConfigError where the text says something else.
    """
    kind: Any = type(like)
    if kind is str:
        return cast(T, text)
    decoded = decode(text)
    bare = decoded if isinstance(decoded, str) else text  # the SDK's v2 writes "\"0.1\"" for the string 0.1
    try:
        return cast(T, _BOOLS[bare.strip().lower()] if kind is bool else kind(bare))
    except (KeyError, ValueError):
        mistake = Mistake(source, name, text, f"must be {_EXPECTS[kind]}", f"The script's default is {like!r}")
        raise ConfigError([mistake]) from None
