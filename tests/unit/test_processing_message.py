"""The exit message: short enough, UTF-8, the cause first."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trainkit.contract.blame import last_raised
from trainkit.contract.message import LIMIT, compose, fitted
from trainkit.local.processing_status import MESSAGE_LIMIT, exit_message


@given(st.binary(max_size=3000))
def test_any_bytes_become_utf8_that_fits_and_what_is_fine_stays_as_it_is(own: bytes) -> None:
    text = fitted(own)

    assert len(text) <= LIMIT
    decoded = text.decode()
    try:
        whole = own.decode()
    except UnicodeDecodeError:
        return
    assert whole.startswith(decoded)
    assert len(own) > LIMIT or text == own


@given(st.text(max_size=1200), st.binary(max_size=1200))
def test_the_cause_stands_first_whatever_the_script_said(failure: str, own: bytes) -> None:
    text = compose(failure, own).decode()

    assert len(text.encode()) <= LIMIT
    head = failure.encode("utf-8", "replace").decode().split("\n\n")[0]
    assert text.startswith(head) or head.startswith(text)


def test_what_the_script_said_comes_before_the_end_of_the_traceback() -> None:
    text = compose("KeyError: 'x'\nthe script on algo-1, exit code 1\n\nTraceback: …", b"3 of 7 files done").decode()

    assert text == "KeyError: 'x'\nthe script on algo-1, exit code 1\n\n3 of 7 files done\n\nTraceback: …"


def test_a_cut_falls_between_two_characters() -> None:
    assert fitted("é".encode() * 600) == "é".encode() * 500
    assert fitted(b"a" + "é".encode() * 600) == b"a" + "é".encode() * 499


def test_the_service_joins_all_messages_in_the_order_of_hosts_and_then_cuts() -> None:
    assert exit_message([b"one ", b"", b"three"]) == "one three"
    assert exit_message([b"a" * 1000, b"b" * 1000]) == "a" * 1000 + "b" * (MESSAGE_LIMIT - 1000)


def test_a_traceback_at_the_end_of_an_output_says_what_was_raised() -> None:
    trace = ["working", "Traceback (most recent call last):", '  File "a.py", line 1, in <module>', "    f()"]

    assert last_raised([*trace, "pkg.BadRowError: row 7"]) == "pkg.BadRowError: row 7"
    assert last_raised([*trace, "KeyError: 'x'"]) == "KeyError: 'x'"
    assert last_raised([*trace, "KeyError: 'x'", "cleaning up"]) == ""
    assert last_raised(["Error: no such file"]) == ""
    assert last_raised([]) == ""
