"""A thousand hostile values, as each client writes them, in both dialects: nothing executed, nothing lost."""

from __future__ import annotations

import ast
import json
import random
from pathlib import Path
from typing import Any

import pytest
from corpus import encoded
from harness import lay_tree, train

from trainkit.contract import document, environ, hyperparameters
from trainkit.contract.channels import Channel
from trainkit.contract.cluster import Cluster
from trainkit.contract.facts import Resources
from trainkit.contract.hyperparameters import Hyperparameters, value_of
from trainkit.contract.job import Job
from trainkit.contract.paths import Paths
from trainkit.contract.settings import Settings
from trainkit.errors import Mistake

COUNT = 1000
ATTACKS = (
    "'; touch PWNED; '", '"; touch PWNED; "', "$(touch PWNED)", "`touch PWNED`", "x | touch PWNED", "&& touch PWNED",
    "\n touch PWNED \n", "${IFS}touch${IFS}PWNED", "'$(touch PWNED)'", "\\'; touch PWNED #", "%s%n{0}{x}", "~root",
    "*", "!!",
)  # fmt: skip
PIECES = (
    *ATTACKS, "it's", '"', "'", "\\", "\\\\", "--flag", "-x", "--", "=", "a=b", ",", "[", "]", "{", "}", "\t", "\r\n",
    " ",
    "é", "日本", "🚂", "\u202e", "\x1b[31m", "\x7f", "\u2028", "null", "True", "NaN", "1e5", "007", "#", "x" * 200,
)  # fmt: skip
WHOLE = (
    "", " ", "null", "true", "None", "True", "NaN", "-Infinity", "1e999", "12345e6", "-0", "1.50", "007", "0x10",
    "1_000",
    '"quoted"', '"half', "[1,2]", '{"a":1}', '["it\'s"]', '"\\u0000"', '"\\ud800"', "[" * 1250 + "]" * 1250, "9" * 2500,
    "x" * 2500, "'" * 2500, '{"a":' * 90 + "1" + "}" * 90, "trainkit_procs", "sagemaker_program",
)  # fmt: skip


def hostile() -> list[Any]:
    dice = random.Random(7)
    drawn: list[Any] = [*ATTACKS, *WHOLE, 0, -0.0, 1e22, True, None, [], {}, ["$(touch PWNED)", None], {"'": "`id`"}]
    while len(drawn) < COUNT:
        text = "".join(dice.choices(PIECES, k=dice.randint(1, 8)))[:2500]
        drawn.append(dice.choice([text, text, text, [text, 1], {text: [text]}]))
    return drawn


VALUES = hostile()


def as_read(given: dict[str, Any]) -> tuple[Hyperparameters, list[Mistake]]:
    mistakes: list[Mistake] = []
    path = Path("hyperparameters.json")
    raw = document.parse(json.dumps(given).encode(), path=path, mistakes=mistakes)
    assert raw is not None
    return hyperparameters.read(raw, source=path, mistakes=mistakes), mistakes


def meant(text: str) -> Any:
    """What the text says, in Python's own values."""
    return document.plain(value_of(text))


def carries(written: str, text: str, dialect: str) -> bool:
    """Whether `written`, in argv, is what `text` says: to the byte for text and numbers, as a value for the rest."""
    value = value_of(text)
    if isinstance(value, str):
        plain = value if hyperparameters.portable(value) else text
        return written == plain or (dialect == "json" and meant(written) == meant(plain))
    if isinstance(value, document.Number):
        return written == value.text
    if dialect == "json":
        return bool(meant(written) == meant(text))
    if value is None or isinstance(value, bool):
        return written == {None: "", True: "True", False: "False"}[value]
    if isinstance(value, list):
        return bool(ast.literal_eval(written) == meant(text))
    return all(key in written for key in value)


@pytest.mark.parametrize("dialect", ["toolkit", "json"])
@pytest.mark.parametrize("encoding", ["v2", "v3", "bare"])
def test_a_thousand_hostile_values_come_through(encoding: str, dialect: str) -> None:
    seen = 0
    for batch in (VALUES[at : at + 50] for at in range(0, COUNT, 50)):
        given = {f"p{number}": encoded(value, encoding) for number, value in enumerate(batch)}
        read, mistakes = as_read(given)
        assert mistakes == []
        assert read.texts == given  # what trainkit.job() has: each byte that the client sent
        paths = Paths()
        job = Job(
            "j", paths, Cluster("algo-1", ("algo-1",)), (Channel("train", paths.channels / "train"),), read,
            Settings(dialect=dialect), paths.checkpoints,
        )  # fmt: skip
        argv = environ.arguments(job)
        variables, _ = environ.variables(job, resources=Resources(1, 0), master="algo-1", port=1)
        by_name = dict(zip(argv[::2], argv[1::2], strict=True))
        assert set(by_name) == {f"--{name}" for name in given}
        for name, text in given.items():
            written = by_name[f"--{name}"]
            assert carries(written, text, dialect), (text, written)
            variable = variables[f"SM_HP_{name.upper()}"]
            assert meant(variable) == meant(text) or variable == ("" if value_of(text) is None else value_of(text))
            for part in (written, variable):
                assert "\0" not in part
                part.encode()
            seen += 1
        if "SM_HPS" in variables:
            assert json.loads(variables["SM_HPS"]) == dict(read)
    assert seen == COUNT


SHOW = """
import json, os, sys
from pathlib import Path
Path(os.environ["SM_OUTPUT_DATA_DIR"], "seen.json").write_text(json.dumps([sys.argv[1:], dict(os.environ)]))
"""


@pytest.mark.parametrize("dialect", ["toolkit", "json"])
def test_a_real_script_finds_the_worst_of_them_as_planned_and_nothing_is_executed(dialect: str, tmp_path: Path) -> None:
    worst = [value for value in VALUES if isinstance(value, str)][:96]
    encoding = "v2" if dialect == "toolkit" else "v3"
    given = {f"p{number}": encoded(value, encoding) for number, value in enumerate(worst)}
    root = lay_tree(tmp_path / "ml", SHOW, hyperparameters=given)

    ran = train(root, TRAINKIT_DIALECT=dialect)

    assert ran.code == 0, ran.out
    argv, seen = json.loads((root / "output/data/seen.json").read_text())
    by_name = dict(zip(argv[::2], argv[1::2], strict=True))
    for name, text in given.items():
        assert carries(by_name[f"--{name}"], text, dialect)
        assert f"SM_HP_{name.upper()}" in seen
    if dialect == "toolkit":  # version 2 of the SDK quotes every string, so that all of them arrive to the byte
        carried = [value for value in worst if hyperparameters.portable(value)]
        assert [by_name[f"--p{number}"] for number, value in enumerate(worst) if value in carried] == carried
    assert not list(tmp_path.rglob("PWNED")) + list(Path.cwd().glob("PWNED"))
