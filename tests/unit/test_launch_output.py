"""Cutting a rank's output into lines."""

from __future__ import annotations

import os
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainkit.launch.output import Console, Lines


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def everything(lines: Lines, *chunks: bytes) -> bytes:
    return b"".join(map(lines.feed, chunks)) + lines.close()


def test_each_line_carries_its_speaker() -> None:
    assert everything(Lines("[a:0] "), b"one\ntwo\n") == b"[a:0] one\n[a:0] two\n"


def test_a_line_cut_by_the_pipe_is_joined_again() -> None:
    assert everything(Lines("> "), b"on", b"e\nt", b"wo") == b"> one\n> two\n"


def test_invalid_utf8_and_empty_lines_pass_as_they_are() -> None:
    assert everything(Lines("> "), b"\xff\xfe\n\n\x00\n") == b"> \xff\xfe\n> \n> \x00\n"


def test_windows_line_ends_are_line_ends_even_across_chunks() -> None:
    assert everything(Lines("> "), b"one\r", b"\ntwo\r\n") == b"> one\n> two\n"


def test_a_progress_bar_shows_a_state_now_and_then_and_always_the_last(clock: Clock) -> None:
    lines = Lines("> ", clock=clock)
    shown = [lines.feed(b"\r%d%%" % percent) for percent in range(10)]
    clock.now += 6
    shown.append(lines.feed(b"\r50%\r"))
    shown.append(lines.feed(b"\r99%\r100%\n"))
    assert b"".join(shown) + lines.close() == b"> 0%\n> 9%\n> 100%\n"


def test_a_bar_that_its_rank_did_not_live_to_finish_is_shown(clock: Clock) -> None:
    lines = Lines("> ", clock=clock)
    assert everything(lines, b"\r1%\r2%\r3%\r") == b"> 1%\n> 3%\n"


def test_text_overwrites_a_bar_as_it_does_at_a_terminal(clock: Clock) -> None:
    lines = Lines("> ", clock=clock)
    lines.feed(b"\r1%\r")
    assert lines.feed(b"2%\rTraceback\nValueError: x\n") == b"> 1%\n> Traceback\n> ValueError: x\n"


def test_an_endless_line_is_shown_in_pieces_and_memory_stays_bounded() -> None:
    lines = Lines("")
    out = everything(lines, *[b"x" * 100_000] * 10)
    assert out.count(b"x") == 1_000_000
    assert out.count(b"\n") == 16


def test_the_tail_is_the_last_lines_as_text() -> None:
    lines = Lines("> ", keep=3)
    lines.feed(b"".join(b"%d\n" % n for n in range(10)) + b"\n")
    assert lines.tail == ("8", "9")


@given(st.binary(max_size=400), st.lists(st.integers(0, 400), max_size=5))
def test_no_byte_of_a_line_is_lost_wherever_the_pipe_cuts(data: bytes, cuts: list[int]) -> None:
    data = data.replace(b"\r", b"")
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    out = everything(Lines(""), *(data[a:b] for a, b in pairwise(places)))
    assert out == data + (b"\n" if data and not data.endswith(b"\n") else b"")


def test_a_console_whose_reader_is_gone_is_no_reason_to_fail() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    console = Console(writer)
    console.write(b"lost\n")
    console.say("algo-1", "lost too")
    os.close(writer)


def test_a_console_that_is_slow_gets_all_of_it() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    child = os.fork()
    if child == 0:
        os.close(writer)
        total = 0
        while data := os.read(reader, 4096):
            total += len(data)
        os._exit(0 if total == 1_000_000 else 1)
    os.close(reader)
    Console(writer).write(b"x" * 1_000_000)
    os.close(writer)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
