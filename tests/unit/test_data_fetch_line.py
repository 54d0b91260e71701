"""Answers as servers may send them: in pieces, with other heads, in chunks, or not at all."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from trainkit.data.fetch.line import Answer, Line
from trainkit.data.fetch.signing import Address

HEAD = b"HTTP/1.1 206 Partial Content\r\nContent-Length: 5\r\n"


@contextmanager
def answering(parts: Sequence[bytes], *, ends: bool = True) -> Iterator[Line]:
    """A line to a server that sends these parts, each on its own, and hangs up (or says nothing more)."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        done = threading.Event()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection.recv(65536)
                for part in parts:
                    connection.sendall(part)
                if not ends:
                    done.wait(60)

        thread = threading.Thread(target=serve)
        thread.start()
        line = Line(Address("http", f"127.0.0.1:{listener.getsockname()[1]}", "/", "r"), None)
        try:
            yield line
        finally:
            line.close()
            done.set()
            thread.join()


@pytest.mark.parametrize(
    "parts",
    [
        [HEAD + b"\r\nhello"],
        [HEAD[:9], HEAD[9:], b"\r\n", b"he", b"llo"],
        [b"HTTP/1.1 206 \r\ncontent-LENGTH:5\r\nX: y\r\n\r\n", b"hello"],
    ],
)
def test_a_plain_answer_is_read_however_it_is_cut(parts: list[bytes]) -> None:
    with answering(parts) as line:
        answer = line.ask("/x", {"host": "h"}, timeout=30)
        assert isinstance(answer, Answer)
        assert (answer.status, answer.length, answer.stays) == (206, 5, True)
        buffer = bytearray(5)
        assert line.read(answer, memoryview(buffer)) == 5
        assert buffer == b"hello"


def test_a_body_that_is_cut_gives_what_came() -> None:
    with answering([HEAD + b"\r\nhel"]) as line:
        answer = line.ask("/x", {}, timeout=30)
        assert isinstance(answer, Answer)
        assert line.read(answer, memoryview(bytearray(5))) == 3


@pytest.mark.parametrize("more", [b"Connection: close\r\n", b"CONNECTION: Close\r\n"])
def test_a_server_that_will_hang_up_is_not_asked_again(more: bytes) -> None:
    with answering([HEAD + more + b"\r\nhello"]) as line:
        answer = line.ask("/x", {}, timeout=30)
        assert isinstance(answer, Answer)
        assert not answer.stays


def test_what_is_not_plain_is_left_to_http_client() -> None:
    body = b"6\r\n<Code>\r\n9\r\nX</Code>!\r\n0\r\n\r\n"
    with answering([b"HTTP/1.1 503 Slow\r\nTransfer-Encoding: chunked\r\n\r\n" + body[:4], body[4:]]) as line:
        answer = line.ask("/x", {}, timeout=30)
        assert isinstance(answer, http.client.HTTPResponse)
        assert (answer.status, answer.read()) == (503, b"<Code>X</Code>!")


@pytest.mark.parametrize("sent", [[], [HEAD], [HEAD + b"\r\n"]])
def test_silence_ends_with_a_timeout(sent: list[bytes]) -> None:
    with answering(sent, ends=False) as line, pytest.raises(TimeoutError):
        answer = line.ask("/x", {}, timeout=0.2)
        assert isinstance(answer, Answer)
        line.read(answer, memoryview(bytearray(5)))


def test_a_server_that_hangs_up_without_an_answer_is_an_error_of_the_line() -> None:
    with answering([]) as line, pytest.raises((http.client.RemoteDisconnected, ConnectionResetError)):
        line.ask("/x", {}, timeout=30)


def test_a_header_cannot_bring_another_one() -> None:
    line = Line(Address("http", "127.0.0.1:1", "/", "r"), None)
    with pytest.raises(ValueError, match="two lines"):
        line.ask("/x", {"If-Match": "a\r\nHost: b"}, timeout=1)
