"""One connection, and the answers to what is asked on it.

    ask ─▶ the head, by a few lines where it is plain ─▶ recv into the buffer, once: the kernel waits for all of it
                     └ everything else (errors, chunks): http.client, which gets what was read already

http.client returns to Python for each piece of a body, and among many threads each of these is a wait for Python's
lock. It keeps its socket to itself, so the head is read here too (2 µs instead of 22, which alone would not matter).
"""

from __future__ import annotations

import http.client
import io
import socket
import ssl
import struct
from typing import Any, NamedTuple

from trainkit.data.fetch.signing import Address

_CONNECT = 5.0
_HEAD = 1 << 14  # bytes read with the head; what is body of them is copied once more
_LONGEST = 1 << 17  # bytes of a head


class Answer(NamedTuple):
    """A head that was read. `length`: bytes of the body; `begun`: the first of them."""

    status: int
    length: int
    begun: bytes
    stays: bool
    """Whether the connection can take another request after the body."""


class Line:
    """One connection at a time. Raises OSError and HTTPException for what goes wrong on the way."""

    def __init__(self, address: Address, trust: ssl.SSLContext | None) -> None:
        self._line = (
            http.client.HTTPSConnection(address.host, context=trust)
            if trust
            else http.client.HTTPConnection(address.host)
        )
        self._patience = 0.0

    def ask(self, target: str, headers: dict[str, str], *, timeout: float) -> Answer | http.client.HTTPResponse:
        """GET. An Answer where the head says plainly that here are bytes of an object."""
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        if lines.count("\n") != len(headers) or lines.count("\r") != len(headers):
            raise ValueError("a header would have two lines")
        if self._line.sock is None:
            self._line.timeout = min(_CONNECT, timeout)
            self._line.connect()
        self._wait_at_most(timeout)
        self._line.sock.sendall(f"GET {target} HTTP/1.1\r\n{lines}\r\n".encode("latin-1"))
        try:
            return self._head()
        except BlockingIOError:
            raise TimeoutError("no answer in time") from None

    def read(self, answer: Answer, view: memoryview) -> int:
        """The body, as long as the view. How many bytes came; fewer where the line was cut."""
        filled = len(answer.begun)
        view[:filled] = answer.begun
        sock, whole = self._line.sock, 0 if self._secure else socket.MSG_WAITALL
        try:
            while filled < len(view) and (came := sock.recv_into(view[filled:], 0, whole)):
                filled += came
        except OSError as error:
            if not filled:
                raise TimeoutError("no body in time") if isinstance(error, BlockingIOError) else error from None
        return filled

    def close(self) -> None:
        self._line.close()

    @property
    def _secure(self) -> bool:
        return isinstance(self._line.sock, ssl.SSLSocket)

    def _wait_at_most(self, seconds: float) -> None:
        """Python's own timeouts are polls around a socket that never waits; the kernel's let it wait for all bytes."""
        if self._secure:
            self._line.sock.settimeout(seconds)
        elif seconds != self._patience:
            self._line.sock.settimeout(None)
            spelled = struct.pack("ll", int(seconds), int(seconds % 1 * 1e6))
            self._line.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, spelled)
            self._line.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, spelled)
            self._patience = seconds

    def _head(self) -> Answer | http.client.HTTPResponse:
        read = self._line.sock.recv(_HEAD)
        while (end := read.find(b"\r\n\r\n")) < 0:
            more = self._line.sock.recv(_HEAD) if len(read) < _LONGEST else b""
            if not more:
                raise http.client.RemoteDisconnected("the connection ended before an answer")
            read += more
        first, *lines = read[:end].split(b"\r\n")
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
        status, length = first[9:12], fields.get(b"content-length", b"")
        begun = read[end + 4 :]
        plain = first.startswith(b"HTTP/1.") and status in (b"200", b"206") and b"transfer-encoding" not in fields
        if plain and length.isdigit() and len(begun) <= int(length):
            stays = first.startswith(b"HTTP/1.1") and fields.get(b"connection", b"").lower() != b"close"
            return Answer(int(status), int(length), begun, stays)
        answer = http.client.HTTPResponse(_Begun(read, self._line.sock), method="GET")  # type: ignore[arg-type]
        answer.begin()
        return answer


class _Begun(io.RawIOBase):
    """A socket, as http.client sees it, of which something was read already."""

    def __init__(self, read: bytes, sock: socket.socket) -> None:
        self._read, self._sock = read, sock

    def makefile(self, *_: Any) -> io.BufferedReader:
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._read:
            return self._sock.recv_into(buffer)
        part, self._read = self._read[: len(buffer)], self._read[len(buffer) :]
        buffer[: len(part)] = part
        return len(part)
