"""The metric line, its JSON twin, and the regexes that AWS searches logs with."""

from __future__ import annotations

import json
import math
import os
import re
from pathlib import Path

import pytest

from trainkit.errors import StorageError
from trainkit.job import facts, metrics
from trainkit.job.context import Context
from trainkit.job.signals import Stop

PAGE = Path(__file__).parents[2] / "docs/metrics.md"
HOSTILE = {
    "val_loss": 9.0, "a.loss": 8.0, "x/loss": 7.0, "loss_b": 6.0, "my-loss": 5.0, "z:loss": 4.0,
}  # fmt: skip


class Scalar:
    """What numpy's and torch's scalars have in common."""

    def __init__(self, value: object) -> None:
        self.value = value
        self.size = len(value) if isinstance(value, list) else 1

    def item(self) -> object:
        if isinstance(self.value, Exception):
            raise self.value
        return self.value


@pytest.fixture
def job(tmp_path: Path) -> Context:
    return Context(facts.read({}, argv=[], cwd=tmp_path), stop=Stop())


def found(regex: str, line: str) -> float | None:
    match = re.search(regex, line)
    return float(match.group(1)) if match else None


def test_a_record_is_one_line_on_stdout_and_one_in_the_file(job, tmp_path, capsys):
    job.log(step=120, loss=0.345, lr=1e-05, tokens=3)
    job.log(step=121, loss=Scalar(math.nan), **{"train:acc": True, "up": math.inf, "down": -math.inf})

    assert capsys.readouterr().out.splitlines() == [
        "trainkit.metric step=120 loss=0.345 lr=1e-05 tokens=3",
        "trainkit.metric step=121 loss=nan train:acc=1 up=inf down=-inf",
    ]
    first, second = (tmp_path / "trainkit-output/output/data/metrics.jsonl").read_text().splitlines()
    first, second = json.loads(first), json.loads(second, parse_constant=pytest.fail)
    assert first.pop("time") > 1.7e9 and second.pop("time") > 1.7e9
    assert first == {"step": 120, "loss": 0.345, "lr": 1e-05, "tokens": 3}
    assert second == {"step": 121, "loss": "NaN", "train:acc": 1, "up": "Infinity", "down": "-Infinity"}


def test_the_step_is_that_of_the_loop_unless_it_is_given(job, capsys):
    job.log(before=1)
    for _ in job.steps("ab", start=5):
        job.log(loss=1)
    job.log(after=1)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("trainkit.metric")]
    assert [line.split()[1] for line in lines] == ["step=0", "step=5", "step=6", "step=6"]


@pytest.mark.parametrize("value", [0.1 + 0.2, 1e-300, -1.5, 123456789.0, 1e22, 5e-324, math.pi, 7])
def test_numbers_read_back_as_they_were(value):
    regex = metrics.definition("loss")["Regex"]
    assert found(regex, metrics.line(step=1, values={"loss": value})) == value


@pytest.mark.parametrize("value", ["0.3", None, [1.0], Scalar([1, 2]), Scalar("x"), 1j])
def test_what_is_no_number_is_refused(value, job):
    with pytest.raises(TypeError, match=r"loss must be a (single )?number"):
        job.log(loss=value)


def test_an_error_of_the_device_is_not_taken_for_a_wrong_value(job):
    with pytest.raises(RuntimeError, match="device-side assert"):
        job.log(loss=Scalar(RuntimeError("CUDA error: device-side assert triggered")))


def test_a_number_that_is_no_float_is_refused_before_it_ends_the_training_elsewhere(job):
    with pytest.raises(ValueError, match="loss is larger than any float"):
        job.log(loss=10**400)


def test_a_forked_child_of_the_first_rank_does_not_write_as_the_rank(job, tmp_path):
    child = os.fork()
    if not child:
        try:
            job.log(loss=1.0)
        except RuntimeError as error:
            os._exit(7 if "log it there" in str(error) else 1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert not list(tmp_path.iterdir())


def test_a_run_of_its_own_begins_a_new_file_and_a_restarted_one_goes_on(tmp_path, capsys):
    def steps(**environ: str) -> list[int]:
        job = Context(facts.read(environ, argv=[], cwd=tmp_path), stop=Stop())
        for step in (1, 2):
            job.log(step=step, loss=1.0)
        file = tmp_path / "trainkit-output/output/data/metrics.jsonl"
        return [json.loads(line)["step"] for line in file.read_text().splitlines()]

    assert steps() == steps() == steps(TORCHELASTIC_RESTART_COUNT="0") == [1, 2]
    assert steps(TORCHELASTIC_RESTART_COUNT="1") == [1, 2, 1, 2]


@pytest.mark.parametrize("name", ["", "1st", "a b", "a=b", "é", "time", "a\nb"])
def test_names_that_no_regex_finds_are_refused(name, job):
    with pytest.raises(ValueError, match="no name for a metric"):
        job.log(**{name: 1.0})


def test_a_definition_finds_its_own_metric_only():
    regex = metrics.definition("loss", name="train:loss")["Regex"]
    without = "[algo-1:0] " + metrics.line(step=3, values=HOSTILE)
    assert found(regex, without) is None
    assert found(regex, metrics.line(step=3, values={**HOSTILE, "loss": -2.5, "last": 1.0})) == -2.5
    assert found(metrics.definition("a.loss")["Regex"], without) == 8.0
    assert found(metrics.definition("a.loss")["Regex"], metrics.line(step=3, values={"a_loss": 1.0})) is None
    for name in HOSTILE:
        assert found(metrics.definition(name)["Regex"], without) == HOSTILE[name]


def test_a_definition_fits_the_api():
    assert all(len(metrics.definition(name)["Regex"]) <= 500 for name in (*HOSTILE, "m" * 400))
    for name in ("m" * 500, "step", "a b"):
        with pytest.raises(ValueError):
            metrics.definition(name)


def test_the_page_shows_the_definitions_that_match_our_lines():
    text = PAGE.read_text(encoding="utf-8")
    shown = json.loads(re.search(r"```json\n(\[.*?\])\n```", text, re.DOTALL).group(1))
    assert {"train:loss", "validation:loss"} <= {entry["Name"] for entry in shown}
    for entry, (metric, value) in zip(shown, [("loss", 0.345), ("val_loss", 1e-05), ("accuracy", -1.0)], strict=True):
        assert entry == metrics.definition(metric, name=entry["Name"])
        for number in (value, math.inf, -math.inf, 1.5e22):
            line = "[algo-2:7] " + metrics.line(step=7, values={"other": 3.0, metric: number, f"{metric}s": 4.0})
            assert found(entry["Regex"], line) == number
        assert math.isnan(found(entry["Regex"], metrics.line(step=7, values={metric: math.nan})))
    samples = re.findall(r"^(?:\[\S+\] )?trainkit\.metric .*$", text, re.MULTILINE)
    assert samples and all(found(shown[0]["Regex"], line) is not None for line in samples)


def test_a_file_that_cannot_be_written_is_named(job, tmp_path):
    (tmp_path / "trainkit-output").write_text("in the way")
    with pytest.raises(StorageError, match=r"metrics\.jsonl: Not a directory\. A file stands"):
        job.log(loss=1.0)
