"""Each planted mistake leads to its finding; what is fine, to none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mistakes import base, corpus
from mistakes.corpus import Case
from trainkit.cli import check

EXAMPLES = Path(__file__).parents[2] / "examples"
REQUESTS = Path(__file__).parent / "requests"
TRUE = {
    "v2-estimator": {"metric-loses-numbers"},
    "v3-tuner": {"metric-loses-numbers"},
    "v3-trainer": {"spot-without-checkpoints"},
    "v3-trainer-with-code": {"metric-loses-numbers", "setting-unknown"},
}
"""What is indeed to be said of what the SDKs' users wrote there; all of it warnings."""


def codes(argv: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """Code → severity of what is found."""
    exit_code = check.main([*argv, "--json"])
    found = json.loads(capsys.readouterr().out)
    assert exit_code == int(any(finding["severity"] == "error" for finding in found))
    assert all(all(finding[part] for part in ("what", "then", "remedy", "code")) for finding in found)
    return {finding["code"]: finding["severity"] for finding in found}


def alarms(argv: list[str], capsys: pytest.CaptureFixture[str]) -> set[str]:
    return {code for code, severity in codes(argv, capsys).items() if severity != "note"}


@pytest.mark.parametrize("case", corpus.CASES, ids=lambda case: case.name)
def test_a_planted_mistake_is_found(case: Case, tmp_path, capsys):
    found = codes(corpus.write(case, tmp_path), capsys)

    if case.finds:
        assert found.get(case.finds) in ("error", "warning"), found
    else:
        assert not {code for code, severity in found.items() if severity != "note"}, (
            "the corpus says that it is not found"
        )


def test_nine_mistakes_in_ten_are_found():
    found = [case for case in corpus.CASES if case.finds]

    assert len(corpus.CASES) >= 40
    assert len(found) >= 0.9 * len(corpus.CASES)


@pytest.mark.parametrize("kind", [*base.REQUESTS, "image", "model", "archive"])
def test_what_the_mistakes_are_planted_in_is_fine(kind, tmp_path, capsys):
    case = {
        "image": Case(kind, "", image={}),
        "model": Case(kind, "", model={}),
        "archive": Case(kind, "", model={}, packed_below=""),
    }.get(kind, Case(kind, "", kind=kind))

    assert codes(corpus.write(case, tmp_path), capsys) == {}


@pytest.mark.parametrize("request_file", sorted(REQUESTS.glob("*.json")), ids=lambda file: file.stem)
def test_what_real_clients_send_raises_no_false_alarm(request_file, capsys):
    assert alarms([str(request_file)], capsys) == TRUE.get(request_file.stem, set())


@pytest.mark.parametrize("name", ["flights", "from_s3", "plain_torch"])
def test_our_own_examples_raise_no_alarm(name, capsys):
    assert alarms([str(EXAMPLES / name / "job.json")], capsys) == set()
    assert alarms([str(EXAMPLES / name / "train.py")], capsys) == set()
