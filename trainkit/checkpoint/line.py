"""Messages over a socket: JSON, each behind its length, and behind a seal where the other end is on another host."""

from __future__ import annotations

import json
import selectors
import socket
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from trainkit.contract.seal import BrokenSeal, Seal

_LENGTH = struct.Struct("<I")
_LONGEST = 1 << 30
_LONGEST_OF_A_STRANGER = 4096
Message = dict[str, Any]


class Line:
    """One end. Never blocks: what cannot be sent now is kept, and sent by `flush`."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        if connection.family != socket.AF_UNIX:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connection = connection
        self._seal: Seal | None = None
        self._out = bytearray()
        self._in = bytearray()
        self.descriptors: list[int] = []
        """Those that came with messages."""
        self.closed = False

    def fileno(self) -> int:
        return self._connection.fileno()

    @property
    def wanted(self) -> int:
        """What to wait for, as `selectors` says it."""
        return selectors.EVENT_READ | (selectors.EVENT_WRITE if self._out else 0)

    @property
    def proven(self) -> bool:
        """Whether the other end is known: on this machine, or it has shown that it knows the key."""
        return self._connection.family == socket.AF_UNIX or (self._seal is not None and self._seal.proven)

    def seal_with(self, seal: Seal) -> None:
        """From now on every message has a seal."""
        self._seal = seal

    def send(self, message: Mapping[str, Any], descriptors: Sequence[int] = ()) -> None:
        """Say something. Where the other end is gone, nobody hears it, and `closed` is true."""
        text = json.dumps(message, separators=(",", ":")).encode()
        text = self._seal.seal(text) if self._seal else text
        frame = _LENGTH.pack(len(text)) + text
        if descriptors and not self.closed:
            self.flush(wait=True)  # they travel with the next byte
            try:
                socket.send_fds(self._connection, [frame[:1]], list(descriptors))
            except OSError:
                self.closed = True
            frame = frame[1:]
        self._out += frame
        self.flush()

    def flush(self, *, wait: bool = False) -> None:
        """Send what is kept; with `wait`, all of it."""
        try:
            if wait:
                self._connection.setblocking(True)
            while self._out and not self.closed:
                del self._out[: self._connection.send(self._out)]
        except BlockingIOError:
            pass
        except OSError:
            self.closed = True
        finally:
            if wait:
                self._connection.setblocking(False)

    def receive(self) -> Iterator[Message]:
        """What has come, one by one: the seal may be set in between. Where it ends or is nonsense, `closed` is true."""
        more = True
        while more:  # who hears nothing any more may have spoken before
            more = self._fill()
            try:
                while (message := self._take()) is not None:
                    yield message
            except (BrokenSeal, ValueError, RecursionError):
                self.closed, more = True, False

    def close(self) -> None:
        self.closed = True
        self._connection.close()

    def _fill(self) -> bool:
        """Read what has come, and not all of it at once: who never stops would never be answered. Whether any has."""
        try:
            data, descriptors, _, _ = socket.recv_fds(self._connection, 1 << 18, 4)
        except BlockingIOError:
            return False
        except OSError:
            data, descriptors = b"", []
        self.descriptors += descriptors
        self._in += data
        self.closed |= not data
        return bool(data)

    def _take(self) -> Message | None:
        """The next message, if it is here whole. Raises ValueError for what is none."""
        if len(self._in) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(self._in)
        if length > (_LONGEST if self.proven else _LONGEST_OF_A_STRANGER):
            raise ValueError(length)
        if len(self._in) < _LENGTH.size + length:
            return None
        text = bytes(memoryview(self._in)[_LENGTH.size : _LENGTH.size + length])
        del self._in[: _LENGTH.size + length]
        message = json.loads(self._seal.open(text) if self._seal else text)
        if not isinstance(message, dict):
            raise ValueError(message)
        return message
