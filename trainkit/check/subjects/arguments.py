"""The script's own parser beside the hyperparameters that it will get, as argparse would judge them."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

from trainkit.check.dialect import spoken
from trainkit.check.facts import Facts
from trainkit.check.finding import IN_SCRIPT, Finding
from trainkit.check.request import Job
from trainkit.check.uses import UNKNOWN, Argument, Uses

_MEANS_NO = ("false", "0", "no", "off", "f", "n", "none", "null")
_MEANS_YES = ("true", "1", "yes", "on", "t", "y")
_EXITS = f"{IN_SCRIPT}: argparse exits with code 2"


def arguments(facts: Facts) -> Iterator[Finding]:
    """Each job's hyperparameters through the script's parser; a script alone through an empty command line."""
    uses = facts.uses
    if not facts.has_script or not uses.parses:
        return
    for argument in uses.arguments:
        if argument.type in ("bool", "builtins.bool") and not argument.of_dataclass:
            yield Finding(
                "argument-bool", "warning", argument.where, f"{argument.names[-1]} has type=bool",
                "bool('False') is True: every value but the empty one switches it on, and nothing says so",
                "type=lambda text: text.lower() == 'true', or job.hp(name, False)",
            )  # fmt: skip
    for job in facts.trainings:
        yield from _against(uses, job)


def _against(uses: Uses, job: Job) -> Iterator[Finding]:
    options = [argument for argument in uses.arguments if argument.is_option]
    given = spoken(job)
    used: set[int] = set()
    for flag, text in given.items():
        name = flag.lstrip("-")
        key = f"{job.key}{job.hyperparameters_key}.{name}"
        argument = _matching(flag, options)
        if argument is None:
            if uses.knows_all and not uses.lenient and not uses.other_parser:
                yield _unknown(name, key, options)
            continue
        used.add(id(argument))
        for value in dict.fromkeys([text, *_tuned(job, name)]):
            yield from _value(argument, value, key)
    if job.partial and not given:
        return
    for argument in uses.arguments:
        positional = not argument.is_option and argument.nargs not in ("?", "*")
        if positional or (argument.required and id(argument) not in used and argument.is_option):
            yield Finding(
                "argument-missing",
                "error",
                argument.where,
                f"{argument.names[-1]} is required, and no hyperparameter gives it",
                f"{_EXITS}: the following arguments are required",
                "Give it as a hyperparameter, or a default",
            )


def _tuned(job: Job, name: str) -> list[str]:
    return list(job.values.get(name, ()))


def _matching(flag: str, options: list[Argument]) -> Argument | None:
    """The argument that argparse takes a flag for: the same, or the only one that begins so."""
    for argument in options:
        if flag in argument.names:
            return argument
    begins = [argument for argument in options if any(name.startswith(flag) for name in argument.names)]
    return begins[0] if len(begins) == 1 and flag.startswith("--") else None


def _unknown(name: str, key: str, options: list[Argument]) -> Finding:
    names = [flag for argument in options for flag in argument.names if flag.startswith("--")]
    close = difflib.get_close_matches(f"--{name}", names, n=1)
    hint = f"Did you mean {close[0][2:]}?" if close else f"It takes {', '.join(names) or 'none'}"
    return Finding(
        "argument-unknown", "error", key, "is no argument of the script", f"{_EXITS}: unrecognized arguments", hint
    )


def _value(argument: Argument, text: str, key: str) -> Iterator[Finding]:
    if not argument.takes_value:
        if argument.action not in (
            "store_true",
            "store_false",
            "store_const",
            "append_const",
            "count",
            "BooleanOptionalAction",
        ):
            return
        yield Finding(
            "argument-flag", "error", key, f"is {text!r}, and {argument.names[-1]} at {argument.where} takes no value",
            f"{_EXITS}: unrecognized arguments: {text}",
            "Hyperparameters always have a value: parse it as text, or use job.hp(name, False)",
        )  # fmt: skip
        return
    if text.startswith("-") and len(text) > 1 and not _is(text, float) and " " not in text:
        yield Finding(
            "argument-dash", "error", key, f"is {text!r}, which argparse takes for an option",
            f"{_EXITS}: expected one argument", "Write values without a leading dash, or read it with job.hp",
        )  # fmt: skip
        return
    kind = argument.type.removeprefix("builtins.")
    if kind in ("int", "float") and not _is(text, int if kind == "int" else float):
        yield Finding(
            "argument-type", "error", key, f"is {text!r}, and {argument.where} wants type={kind}",
            f"{_EXITS}: invalid {kind} value", "Change the value, or the type",
        )  # fmt: skip
    elif kind == "bool" and not argument.of_dataclass and text.lower() in _MEANS_NO:
        yield Finding(
            "argument-bool-false", "error", key, f"is {text!r}, and type=bool at {argument.where} makes that True",
            "The training runs to its end with the opposite of what was asked, and nothing says so",
            "type=lambda text: text.lower() == 'true', or job.hp(name, False)",
        )  # fmt: skip
    elif kind == "bool" and argument.of_dataclass and text.lower() not in (*_MEANS_NO[:6], *_MEANS_YES):
        yield Finding(
            "argument-type",
            "error",
            key,
            f"is {text!r}, and {argument.where} wants a bool",
            f"{_EXITS}: invalid value",
            "Write true or false",
        )
    elif argument.choices is not None and not any(_equal(text, choice, kind) for choice in argument.choices):
        listed = ", ".join(map(str, argument.choices))
        yield Finding(
            "argument-choice", "error", key, f"is {text!r}, which is none of {listed} ({argument.where})",
            f"{_EXITS}: invalid choice", "Use one of them",
        )  # fmt: skip


def _equal(text: str, choice: object, kind: str) -> bool:
    if kind in ("int", "float"):
        return isinstance(choice, int | float) and _is(text, float) and float(text) == choice
    return kind not in ("", "str") or text == choice


def _is(text: str, kind: type[Any]) -> bool:
    try:
        kind(text)
    except ValueError:
        return False
    return True


def asked(facts: Facts) -> Iterator[Finding]:
    """Scripts that ask with job.hp: what is missing, of another type, or never asked for."""
    uses = facts.uses
    if not facts.has_script or not uses.asked:
        return
    names = {
        spelled for one in uses.asked for spelled in (one.name, one.name.replace("_", "-"), one.name.replace("-", "_"))
    }
    alone = (
        not uses.parses
        and not uses.other_parser
        and not uses.mentions("hyperparameters", "argv", "SM_HP", "SM_USER_ARGS")
    )
    for job in facts.trainings:
        texts = {flag.lstrip("-"): text for flag, text in spoken(job).items()}
        yield from _answers(uses, job, texts)
        for name in texts if alone else ():
            if name not in names and name != "seed":
                close = difflib.get_close_matches(name, sorted(names), n=1)
                yield Finding(
                    "hyperparameter-unread",
                    "warning",
                    f"{job.key}{job.hyperparameters_key}.{name}",
                    "no job.hp of the script asks for it",
                    "It has no effect: the training runs with the default",
                    f"Did you mean {close[0]}?"
                    if close
                    else f"It asks for {', '.join(sorted({a.name for a in uses.asked}))}",
                )


def _answers(uses: Uses, job: Job, texts: Mapping[str, str]) -> Iterator[Finding]:
    for one in uses.asked:
        spellings = (one.name, one.name.replace("_", "-"), one.name.replace("-", "_"))
        found = next((name for name in spellings if name in texts), None)
        if found is None and not one.has_default and not (job.partial and not texts):
            yield Finding(
                "hyperparameter-missing",
                "error",
                one.where,
                f"job.hp({one.name!r}) has no default, and the job no such one",
                f"{IN_SCRIPT}: ConfigError",
                "Give it as a hyperparameter, or a default",
            )
        elif found is not None and one.default is not UNKNOWN and not _fits(texts[found], one.default):
            kind = type(one.default).__name__
            yield Finding(
                "hyperparameter-type", "error", f"{job.key}{job.hyperparameters_key}.{found}",
                f"is {texts[found]!r}, and {one.where} wants {'an' if kind == 'int' else 'a'} {kind}",
                f"{IN_SCRIPT}: ConfigError", "Change the value, or the default's type",
            )  # fmt: skip


def _fits(text: str, default: object) -> bool:
    """Whether job.hp converts it."""
    if isinstance(default, bool):
        return text.strip().lower() in ("true", "1", "yes", "false", "0", "no")
    kind = type(default)
    return _is(text, kind) if kind in (int, float) else True
